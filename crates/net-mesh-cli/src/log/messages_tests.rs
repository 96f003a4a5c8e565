//! `docs/logs.md` has every message that is logged at `info` or above, with its fields, and no other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// The message in the arguments of a macro, which begin after its opening bracket: the string that is an argument by itself.
fn message(arguments: &str) -> String {
    let (mut depth, mut before, mut chars) = (0, ',', arguments.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    match c {
                        // A line that goes on in the next one.
                        '\\' if chars.peek() == Some(&'\n') => {
                            while chars.next_if(|c| c.is_whitespace()).is_some() {}
                        }
                        '\\' => text.extend(chars.next()),
                        c => text.push(c),
                    }
                }
                if depth == 0 && before == ',' {
                    return text;
                }
            }
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' if depth == 0 => break,
            ')' | '}' | ']' => depth -= 1,
            _ => {}
        }
        if !c.is_whitespace() {
            before = c;
        }
    }
    panic!("no message in {:?}", &arguments[..arguments.len().min(200)])
}

/// What is logged, and the arguments it is logged with, wherever that is done.
fn logged() -> BTreeMap<String, String> {
    let mut files = Vec::new();
    for name in ["net-mesh/src", "net-mesh-cli/src"] {
        sources(&crates().join(name), &mut files);
    }
    let mut messages = BTreeMap::<String, String>::new();
    for file in files.iter().filter(|file| !file.ends_with("messages_tests.rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        for level in ["info", "warn", "error"] {
            for arguments in text.split(&format!("tracing::{level}!(")).skip(1) {
                // Arguments end with the statement.
                let own = arguments.split(");").next().unwrap_or_default();
                *messages.entry(message(arguments)).or_default() += own;
            }
        }
    }
    messages
}

/// The messages of the documentation, with their fields.
fn documented() -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(crates().join("../docs/logs.md")).unwrap();
    let row = |line: &str| {
        let (first, rest) = line.strip_prefix("| `")?.split_once("` |")?;
        let fields = rest.trim_end_matches(['|', ' ']).rsplit('|').next()?;
        let fields = fields.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some((first.to_owned(), fields))
    };
    text.lines().filter_map(row).filter(|(first, _)| first != "message").collect()
}

#[test]
fn every_message_is_documented_with_its_fields_and_no_other() {
    let (logged, documented) = (logged(), documented());
    assert!(logged.len() > 30, "the sources are read: {logged:?}");
    let missing: Vec<_> = logged.keys().filter(|message| !documented.contains_key(*message)).collect();
    let gone: Vec<_> = documented.keys().filter(|message| !logged.contains_key(*message)).collect();
    assert!(missing.is_empty() && gone.is_empty(), "missing: {missing:#?}\nnot logged: {gone:#?}");
    for (message, fields) in &documented {
        for field in fields {
            assert!(logged[message].contains(field.as_str()), "{message:?} has no {field}");
        }
    }
}
