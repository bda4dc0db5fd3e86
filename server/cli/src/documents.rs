//! The documents beside the code say what is so: `docs/configuration.md` is printed from the flags, each command line
//! in a document parses, and each link leads somewhere. Tests only; `MEETPOINT_UPDATE=1` refreshes what is printed.

mod codes;
mod commands;
mod links;
mod reference;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing written by hand, and are large.
const NOT_OURS: [&str; 2] = ["target", "node_modules"];

/// A document.
struct Document {
    path: PathBuf,
    lines: Vec<Line>,
}

/// A line of a document, and what it is part of.
struct Line {
    number: usize,
    text: String,
    /// The word behind the fence, if the line is in a block of code.
    code: Option<String>,
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every document of the repository, in order.
fn all() -> Vec<Document> {
    let mut found = Vec::new();
    collect(&root(), &mut found);
    found.sort();
    assert!(found.iter().any(|path| path.ends_with("README.md")), "{found:?}");
    found.into_iter().map(Document::read).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && !NOT_OURS.contains(&name) {
                collect(&path, found);
            }
        } else if path.extension() == Some(OsStr::new("md")) {
            found.push(path);
        }
    }
}

impl Document {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a readable document");
        let mut code: Option<String> = None;
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            match line.trim_start().strip_prefix("```") {
                Some(_) if code.is_some() => code = None,
                Some(word) => code = Some(word.trim().to_owned()),
                None => lines.push(Line { number: index + 1, text: line.to_owned(), code: code.clone() }),
            }
        }
        assert!(code.is_none(), "{}: a block of code does not end", path.display());
        Self { path, lines }
    }

    /// Where a line is, for messages.
    fn place(&self, line: &Line) -> String {
        let path = self.path.strip_prefix(root()).unwrap_or(&self.path);
        format!("{}:{}", path.display(), line.number)
    }
}

impl Line {
    /// What stands between back quotes, and the text without it.
    fn spans(&self) -> (Vec<&str>, String) {
        let parts = self.text.split('`').collect::<Vec<_>>();
        let inside = parts.iter().skip(1).step_by(2).copied().collect();
        (inside, parts.into_iter().step_by(2).collect())
    }
}
