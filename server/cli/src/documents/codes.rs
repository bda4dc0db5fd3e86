//! Whoever is refused finds out why: `docs/troubleshooting.md` has each reason code, and quotes what the program says.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use meetpoint_proto::Code;

use super::{Document, root};

/// First cells of tables whose rows begin with what is on the screen.
const QUOTING: [&str; 2] = ["| you see ", "| it says "];
/// What the system says, or a library.
const NOT_OURS: [&str; 4] = [
    "Connection refused",
    "Address already in use",
    "Cannot assign requested address",
    "was previously applied but is missing",
];

fn page() -> Document {
    Document::read(root().join("docs/troubleshooting.md"))
}

#[test]
fn every_reason_code_is_explained() {
    let page = page();
    let rows = page.lines.iter().filter(|line| line.text.starts_with("| `"));
    let named = rows.flat_map(|row| row.spans().0).collect::<Vec<_>>();
    let missing = Code::ALL.iter().filter(|code| !named.contains(&code.as_str())).collect::<Vec<_>>();
    assert!(missing.is_empty(), "docs/troubleshooting.md does not explain {missing:?}");
}

/// The text of the sources, in which a string that goes on in the next line is one.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let is_own = path.ends_with("documents") || path.ends_with("tests") || path.ends_with("target");
        if path.is_dir() && !is_own {
            sources(&path, text);
        } else if path.extension() == Some(OsStr::new("rs")) {
            let source = fs::read_to_string(&path).expect("a readable source");
            text.extend(source.split("\\\n").map(str::trim_start));
        }
    }
}

/// Quotations that a reader could search for and not find.
fn unheard_of(page: &Document, sources: &str) -> Vec<String> {
    let mut quotes = false;
    let mut found = Vec::new();
    for line in &page.lines {
        quotes =
            line.text.starts_with('|') && (quotes || QUOTING.iter().any(|head| line.text.starts_with(head)));
        let cell = line.text.split(" | ").next().filter(|cell| quotes && cell.starts_with("| `"));
        let Some((quoted, _)) = cell.and_then(|cell| cell.strip_prefix("| `")?.split_once('`')) else {
            continue;
        };
        if !NOT_OURS.contains(&quoted) && !sources.contains(quoted) {
            found.push(format!("{}: {quoted}", page.place(line)));
        }
    }
    found
}

#[test]
fn what_is_quoted_is_what_is_said() {
    let mut text = String::new();
    for folder in ["sdk", "server"] {
        sources(&root().join(folder), &mut text);
    }
    let unheard_of = unheard_of(&page(), &text);
    assert!(unheard_of.is_empty(), "nothing says this:\n{}", unheard_of.join("\n"));
    let changed = text.replace("refusing plain HTTP to", "not by HTTP to");
    assert_eq!(unheard_of.len() + 1, self::unheard_of(&page(), &changed).len(), "a change is noticed");
}
