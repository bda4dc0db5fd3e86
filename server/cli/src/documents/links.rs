//! Each relative link leads to a file that exists, and each anchor to a heading.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Document, all, root};

/// The anchors of a document, as the usual viewers make them of its headings.
fn anchors(document: &Document) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let headings = document.lines.iter().filter(|line| line.code.is_none());
    for heading in headings.filter_map(|line| line.text.strip_prefix('#')) {
        let title = heading.trim_start_matches('#').trim();
        let word = title.to_lowercase();
        let kept = word.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let slug = kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>();
        // A title that comes again gets a number.
        let again = (1..).map(|number| format!("{slug}-{number}"));
        let free = std::iter::once(slug.clone()).chain(again).find(|slug| !found.contains(slug));
        found.extend(free);
    }
    found
}

/// The targets of a line's links.
fn targets(text: &str) -> Vec<&str> {
    let ends = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(target, _)| target.split_whitespace().next().unwrap_or_default()).collect()
}

fn is_elsewhere(target: &str) -> bool {
    ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme))
}

/// What is wrong with a link, if anything is.
fn broken(from: &Path, target: &str, anchors: &BTreeMap<PathBuf, BTreeSet<String>>) -> Option<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { from.to_owned() } else { from.parent()?.join(file) };
    let Ok(path) = path.canonicalize() else { return Some("there is no such file".to_owned()) };
    let known = anchors.get(&path);
    let leads = anchor.is_empty() || known.is_some_and(|known| known.contains(anchor));
    (!leads).then(|| format!("no heading makes the anchor {anchor}"))
}

#[test]
fn every_link_leads_somewhere() {
    let documents = all();
    let canonical = |document: &Document| document.path.canonicalize().expect("it was just read");
    let anchors = documents.iter().map(|document| (canonical(document), anchors(document))).collect();
    let (mut count, mut wrong) = (0, Vec::new());
    for document in &documents {
        for line in document.lines.iter().filter(|line| line.code.is_none()) {
            let (_, prose) = line.spans();
            for target in targets(&prose).into_iter().filter(|target| !is_elsewhere(target)) {
                count += 1;
                let why = broken(&document.path, target, &anchors);
                wrong.extend(why.map(|why| format!("{}: {target}: {why}", document.place(line))));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 20, "links are not found: {count}");
}

/// Whoever adds a page finds out that nobody would come to it.
#[test]
fn the_index_names_every_page() {
    let index = Document::read(root().join("docs/README.md"));
    let text = index.lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n");
    let pages = std::fs::read_dir(root().join("docs")).expect("the documents");
    let names = pages.map(|page| page.expect("an entry").file_name().to_string_lossy().into_owned());
    let missing = names.filter(|name| name != "README.md" && !text.contains(&format!("({name})")));
    let missing = missing.collect::<Vec<_>>();
    assert!(missing.is_empty(), "docs/README.md does not link to {missing:?}");
}
