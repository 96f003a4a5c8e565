//! Aligned tables that fit the terminal.
//!
//! Columns are as wide as their widest cell. Where the terminal is narrower, the columns that were
//! declared shrinkable give way, the widest first, and cut cells end in `…`. The width of a cell is
//! counted in terminal columns, so names in any script line up.

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
    /// Text, never cut.
    Left,
    /// Numbers, never cut.
    Right,
    /// Text that may be cut where the terminal is narrow.
    Shrinks,
}

/// Rows under a header.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&str, Column)]) -> Self {
        Self {
            columns: columns.iter().map(|(_, column)| *column).collect(),
            rows: vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    /// Adds a row. Cells beyond the columns are left out, missing ones stay empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// The lines, each ending in a line end, at most `width` terminal columns wide if that can be done.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let widths = self.widths(width);
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, column), &width) in row.iter().zip(&self.columns).zip(&widths) {
                let cell = cut(cell, width);
                let pad = " ".repeat(width - cell.width());
                let _ = match column {
                    Column::Right => write!(line, "{pad}{cell}"),
                    Column::Left | Column::Shrinks => write!(line, "{cell}{pad}"),
                };
                line.push_str(&" ".repeat(GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = (0..self.columns.len())
            .map(|i| self.rows.iter().map(|row| row[i].width()).max().unwrap_or(0))
            .collect();
        let Some(limit) = limit else { return widths };
        let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        while total(&widths) > limit {
            let widest = (0..widths.len())
                .filter(|&i| self.columns[i] == Column::Shrinks && widths[i] > NARROWEST)
                .max_by_key(|&i| widths[i]);
            let Some(widest) = widest else { break };
            widths[widest] -= 1;
        }
        widths
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
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
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
    fn a_column_that_must_stay_whole_outlasts_the_terminal() {
        let text = sample().render(Some(1));
        assert!(text.contains("120 ms"), "{text}");
        assert!(text.lines().all(|line| line.width() <= 5 + 2 + 6 + 2 + NARROWEST), "{text}");
    }
}
