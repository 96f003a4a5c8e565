//! `docs/flags.md` has every command and flag that the program has, and no other.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use super::Cli;

/// The heading of what holds for all commands.
const EVERYWHERE: &str = "Everywhere";

/// The cells of one row behind its first one.
#[derive(Debug)]
struct Row {
    default: String,
    meaning: String,
}

/// What is documented: heading, first cell, row.
type Page = BTreeMap<String, BTreeMap<String, Row>>;

fn page() -> Page {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/flags.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut page = Page::new();
    let mut section = String::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.trim_matches('`').to_owned();
            assert!(page.insert(section.clone(), BTreeMap::new()).is_none(), "{section} is there twice");
        } else if line.starts_with("| `") {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [flag, default, meaning] = cells[..] else { panic!("not three cells: {line}") };
            let row = Row { default: default.to_owned(), meaning: meaning.to_owned() };
            let rows = page.get_mut(&section).expect("a heading comes first");
            assert!(rows.insert(flag.to_owned(), row).is_none(), "{section}: {flag} is there twice");
        }
    }
    page
}

/// The first cell for an argument: "`-n`, `--count N`", "`[MESSAGE]`".
fn cell(arg: &Arg) -> String {
    let value = arg.get_value_names().unwrap_or_default().join(" ");
    let dots = if matches!(arg.get_action(), ArgAction::Append) { "..." } else { "" };
    let Some(long) = arg.get_long() else {
        return if arg.is_required_set() { format!("`{value}`") } else { format!("`[{value}]`") };
    };
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let value = if arg.get_action().takes_values() { format!(" {value}{dots}") } else { String::new() };
    format!("{short}`--{long}{value}`")
}

fn check(section: &str, arg: &Arg, row: &Row) {
    let what = format!("{section}: {}", cell(arg));
    let takes_values = arg.get_action().takes_values();
    if let Some(default) = arg.get_default_values().first().filter(|_| takes_values) {
        assert_eq!(row.default, format!("`{}`", default.display()), "{what}: the default");
        for value in arg.get_possible_values() {
            assert!(row.meaning.contains(&format!("`{}`", value.get_name())), "{what}: its values");
        }
    } else if arg.is_required_set() {
        assert_eq!(row.default, "required", "{what}: the default");
    } else if !takes_values {
        let off = row.default == "off" || row.default.starts_with("off: ");
        assert!(section == EVERYWHERE || off, "{what}: a flag without a value is off");
    } else {
        assert!(
            !row.default.is_empty() && !row.default.starts_with("off"),
            "{what}: what if it is not given?"
        );
    }
    if let Some(variable) = arg.get_env() {
        assert!(row.meaning.contains(&format!("`{}`", variable.display())), "{what}: its variable");
    }
    assert!(!row.meaning.is_empty(), "{what}: what it does");
}

/// Compares one command with one section, both ways.
fn compare<'a>(section: &str, args: impl Iterator<Item = &'a Arg>, page: &mut Page) {
    let mut rows = page.remove(section).unwrap_or_else(|| panic!("nothing is said of `{section}`"));
    for arg in args.filter(|arg| !arg.is_hide_set()) {
        let row = rows.remove(&cell(arg));
        check(section, arg, &row.unwrap_or_else(|| panic!("{section}: {} is not documented", cell(arg))));
    }
    assert!(rows.is_empty(), "{section}: the program does not have {:?}", rows.keys());
}

fn own_args(command: &Command) -> impl Iterator<Item = &Arg> {
    let of_all = |arg: &&Arg| arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version");
    command.get_arguments().filter(move |arg| !of_all(arg))
}

#[test]
fn every_command_and_flag_is_documented_and_no_other() {
    let mut cli = Cli::command();
    cli.build();
    let mut page = page();
    compare(EVERYWHERE, cli.get_arguments(), &mut page);
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        compare(command.get_name(), own_args(command), &mut page);
    }
    assert!(page.is_empty(), "the program has no command {:?}", page.keys());
}
