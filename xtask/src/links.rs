//! Do the links between the project's documents lead somewhere?
//!
//! Looked at are links in Markdown, `[text](target)`, outside of code, with a target in the repository: the file must
//! exist, and if it is Markdown and an anchor is named, the heading too. What is on the web is not asked for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every Markdown file of the repository, build directories and hidden ones left out.
fn documents(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            documents(&path, found);
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The lines that are not in a fenced block, without what stands between backquotes if `bare`.
fn prose(text: &str, bare: bool) -> impl Iterator<Item = String> {
    let mut fenced = false;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        let kept = || if bare { line.split('`').step_by(2).collect() } else { line.to_owned() };
        (!fenced).then(kept)
    })
}

/// The targets of the links.
fn targets(text: &str) -> Vec<String> {
    let lines: Vec<String> = prose(text, true).collect();
    let of_line = |line: &String| -> Vec<String> {
        let rests = line.split("](").skip(1);
        rests.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    };
    lines.iter().flat_map(of_line).collect()
}

/// The anchors of the headings: in lower case, blanks as hyphens, everything but letters, digits, hyphens and
/// underscores left out.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text, false).filter(|line| line.starts_with('#'));
    let anchor = |line: String| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Why a link in `document` leads nowhere; `None` if it does not.
fn fault(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let path = match file {
        "" => document.to_owned(),
        file => document.parent()?.join(file),
    };
    if !path.exists() {
        return Some(format!("{}: {target}: there is no such file", document.display()));
    }
    let anchor = anchor.filter(|_| path.extension().is_some_and(|extension| extension == "md"))?;
    let known = anchors(&fs::read_to_string(&path).unwrap());
    (!known.contains(anchor)).then(|| format!("{}: {target}: there is no such heading", document.display()))
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut found = Vec::new();
    documents(&crate::report::root().unwrap(), &mut found);
    assert!(found.iter().any(|path| path.ends_with("README.md")), "the documents are elsewhere: {found:?}");
    let faults: Vec<String> = found
        .iter()
        .flat_map(|document| {
            let targets = targets(&fs::read_to_string(document).unwrap());
            targets.into_iter().filter_map(|target| fault(document, &target)).collect::<Vec<_>>()
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn links_are_found_in_prose_and_not_in_code() {
    let text = "a [b](c.md) and [d](e.md#f), `[g](h)`\n```\n[i](j)\n```\n[k](https://l)";
    assert_eq!(targets(text), ["c.md", "e.md#f", "https://l"]);
}

#[test]
fn anchors_are_what_forges_make_of_headings() {
    let known = anchors("# `up`\n## The dashboard's JSON\n```\n# no heading\n```\n### What is bounded");
    assert_eq!(known.into_iter().collect::<Vec<_>>(), ["the-dashboards-json", "up", "what-is-bounded"]);
}

#[test]
fn a_file_or_a_heading_that_is_not_there_is_a_fault() {
    let readme = crate::report::root().unwrap().join("README.md");
    assert_eq!(fault(&readme, "ARCHITECTURE.md#where-is-x"), None);
    assert_eq!(fault(&readme, "#try-it-no-network-no-root"), None);
    assert!(fault(&readme, "ARCHITECTURE.md#where-is-y").is_some_and(|fault| fault.ends_with("heading")));
    assert!(fault(&readme, "docs/nothing.md").is_some_and(|fault| fault.ends_with("file")));
}
