//! Aligned tables that fit the terminal.
//!
//! Columns are as wide as their widest cell. Where the terminal is narrower, the columns that were
//! declared shrinkable give way, the widest first, and cut cells end in `…`; where that is not enough, the columns that
//! were declared least important are left out; and where even that is not enough, those that may not be cut, the last one
//! first. The width of a cell is counted in terminal columns, so names in any script line up. Colours are for terminals alone, and not where `NO_COLOR` asks for none.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::text::printable;

/// Spaces between two columns.
const GAP: usize = 2;

/// What a shrinkable column keeps: enough to recognise a name by.
const NARROWEST: usize = 8;

/// How one column behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Text, whole or left out.
    Left,
    /// Numbers, whole or left out.
    Right,
    /// Text that may be cut where the terminal is narrow.
    Shrinks,
    /// Text that may be cut to so many columns, and further once there is nothing left to leave out.
    ShrinksTo(usize),
}

impl Column {
    /// How narrow it may become while there are columns to leave out.
    const fn floor(self) -> Option<usize> {
        match self {
            Self::Left | Self::Right => None,
            Self::Shrinks => Some(NARROWEST),
            Self::ShrinksTo(floor) => Some(floor),
        }
    }
}

/// What a cell is drawn attention to with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Green,
    Yellow,
    Red,
}

impl Colour {
    /// The code that switches it on (ECMA-48 SGR).
    const fn code(self) -> &'static str {
        match self {
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Red => "\x1b[31m",
        }
    }
}

/// Switches all colours off.
const PLAIN: &str = "\x1b[0m";

/// Rows under a header.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    /// Columns that may be left out, the first one first.
    spare: Vec<usize>,
    colours: BTreeMap<(usize, usize), Colour>,
    coloured: bool,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&str, Column)]) -> Self {
        Self {
            columns: columns.iter().map(|(_, column)| *column).collect(),
            rows: vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()],
            spare: Vec::new(),
            colours: BTreeMap::new(),
            coloured: false,
        }
    }

    /// Where the terminal is narrow, these columns are left out, the first one first.
    pub(crate) fn may_leave_out(mut self, headers: &[&str]) -> Self {
        let place = |header: &&str| self.rows[0].iter().position(|name| name == header);
        self.spare = headers.iter().filter_map(place).collect();
        self
    }

    /// Shows colours if `coloured`.
    pub(crate) fn coloured(mut self, coloured: bool) -> Self {
        self.coloured = coloured;
        self
    }

    /// Gives a cell of the last row a colour.
    pub(crate) fn paint(&mut self, header: &str, colour: Colour) {
        if let Some(column) = self.rows[0].iter().position(|name| name == header) {
            self.colours.insert((self.rows.len() - 1, column), colour);
        }
    }

    /// Adds a row. Cells beyond the columns are left out, missing ones stay empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// The lines, each ending in a line end, at most `width` terminal columns wide where a column is left to show.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let widths = self.widths(width);
        let mut text = String::new();
        for (n, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            let last = widths.last().map(|(column, _)| *column);
            for &(column, width) in &widths {
                let cell = cut(&row[column], width);
                let pad = " ".repeat(width - cell.width());
                let cell = match self.colours.get(&(n, column)).filter(|_| self.coloured) {
                    Some(colour) => format!("{}{cell}{PLAIN}", colour.code()),
                    None => cell,
                };
                let _ = match self.columns[column] {
                    Column::Right => write!(line, "{pad}{cell}"),
                    _ if Some(column) == last => write!(line, "{cell}"),
                    _ => write!(line, "{cell}{pad}"),
                };
                line.push_str(&" ".repeat(GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The columns that are shown, and how wide.
    fn widths(&self, limit: Option<usize>) -> Vec<(usize, usize)> {
        let mut widths: Vec<(usize, usize)> = (0..self.columns.len())
            .map(|i| (i, self.rows.iter().map(|row| row[i].width()).max().unwrap_or(0)))
            .collect();
        let Some(limit) = limit else { return widths };
        let floor =
            |(i, width): (usize, usize)| self.columns[i].floor().map_or(width, |floor| floor.min(width));
        let mut spare = self.spare.iter();
        while total(widths.iter().map(|column| floor(*column))) > limit {
            let Some(least) = spare.next() else { break };
            widths.retain(|(i, _)| i != least);
        }
        let least = |(i, width): (usize, usize)| {
            self.columns[i].floor().map_or(width, |floor| floor.min(NARROWEST).min(width))
        };
        while total(widths.iter().map(|column| least(*column))) > limit {
            let whole = |(i, _): &(usize, usize)| *i > 0 && self.columns[*i].floor().is_none();
            let Some(last) = widths.iter().rposition(whole) else { break };
            widths.remove(last);
        }
        shrink(&mut widths, limit, |i| self.columns[i].floor());
        shrink(&mut widths, limit, |i| self.columns[i].floor().map(|_| NARROWEST));
        shrink(&mut widths, limit, |i| self.columns[i].floor().map(|_| 1));
        widths
    }
}

/// How wide columns of these widths are together.
fn total(widths: impl ExactSizeIterator<Item = usize>) -> usize {
    let gaps = GAP * widths.len().saturating_sub(1);
    widths.sum::<usize>() + gaps
}

/// Makes columns narrower, the widest first and none below its floor, until they fit.
fn shrink(widths: &mut [(usize, usize)], limit: usize, floor: impl Fn(usize) -> Option<usize>) {
    while total(widths.iter().map(|(_, width)| *width)) > limit {
        let may = |(i, width): &&mut (usize, usize)| floor(*i).is_some_and(|floor| *width > floor);
        let Some(widest) = widths.iter_mut().filter(may).max_by_key(|(_, width)| *width) else { break };
        widest.1 -= 1;
    }
}

fn cut(cell: &str, width: usize) -> String {
    if cell.width() <= width {
        return cell.to_owned();
    }
    let mut text = String::new();
    let mut used = 1;
    for c in cell.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        text.push(c);
    }
    text.push('…');
    text
}

/// The width of the terminal on standard output; `None` where it is not one.
pub(crate) fn terminal_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    // A terminal that does not say how high it is may still say how wide.
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

/// Whether standard output is a terminal for colours: not where <https://no-color.org> is asked for, and not on one that
/// says it has none.
pub(crate) fn terminal_has_colours() -> bool {
    let says = |name: &str| std::env::var_os(name).unwrap_or_default();
    std::io::stdout().is_terminal() && wants_colours(&says("NO_COLOR"), &says("TERM"))
}

fn wants_colours(no_color: &std::ffi::OsStr, term: &std::ffi::OsStr) -> bool {
    no_color.is_empty() && term != "dumb"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table =
            Table::new(&[("NAME", Column::Shrinks), ("RTT", Column::Right), ("PATH", Column::Shrinks)]);
        table.row(["édith".into(), "3 ms".into(), "direct [2001:db8::7]:4433".into()]);
        table.row(["日本".into(), "120 ms".into(), "none".into()]);
        table
    }

    #[test]
    fn columns_line_up_in_any_script() {
        let want = "\
NAME      RTT  PATH
édith    3 ms  direct [2001:db8::7]:4433
日本   120 ms  none
";
        assert_eq!(sample().render(None), want);
    }

    #[test]
    fn the_widest_shrinkable_column_gives_way_to_a_narrow_terminal() {
        let want = "\
NAME      RTT  PATH
édith    3 ms  direct [200…
日本   120 ms  none
";
        assert_eq!(sample().render(Some(27)), want);
    }

    #[test]
    fn a_column_that_must_stay_whole_is_left_out_where_it_has_no_room() {
        let fits = |width| sample().render(Some(width)).lines().all(|line| line.width() <= width);
        assert!((4..40).all(fits));
        assert!(sample().render(Some(5 + 2 + 6 + 2 + NARROWEST)).contains("120 ms"));
        assert_eq!(sample().render(Some(15)), "NAME   PATH\nédith  direct …\n日本   none\n");
    }

    #[test]
    fn the_least_important_columns_are_left_out_before_one_is_cut_below_its_floor() {
        let mut table = Table::new(&[("A", Column::ShrinksTo(6)), ("B", Column::Right), ("C", Column::Left)]);
        table.row(["abcdefghij".into(), "12345".into(), "xyz".into()]);
        let table = table.may_leave_out(&["B", "C"]);
        assert_eq!(table.render(Some(18)), "A           B  C\nabcde…  12345  xyz\n");
        assert_eq!(table.render(Some(17)), "A           C\nabcdefghij  xyz\n");
        assert_eq!(table.render(Some(10)), "A\nabcdefghij\n");
        assert_eq!(table.render(Some(7)), "A\nabcdef…\n", "no further than it must");
    }

    #[test]
    fn colours_take_no_room_and_are_left_out_where_they_are_not_wanted() {
        let mut table = Table::new(&[("A", Column::Left), ("B", Column::Left)]);
        table.row(["bad".into(), "x".into()]);
        table.paint("A", Colour::Red);
        assert_eq!(table.render(Some(6)), "A    B\nbad  x\n");
        assert_eq!(table.coloured(true).render(Some(6)), "A    B\n\x1b[31mbad\x1b[0m  x\n");
        let wants = |no_color: &str, term: &str| wants_colours(no_color.as_ref(), term.as_ref());
        assert!(wants("", "xterm") && !wants("1", "xterm") && !wants("", "dumb"));
    }
}
