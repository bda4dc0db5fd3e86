//! `docs/conformance.md`: its sections are what was measured, its opening is written by hand.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Set to write what was measured instead of comparing it.
const UPDATE: &str = "MEETPOINT_UPDATE";

/// The tests of this program run side by side and write to one file.
static WRITING: Mutex<()> = Mutex::new(());

/// How a client fared.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// As the standards say.
    Passes,
    /// Otherwise; the text is for whoever repairs it and not for the document, since it may differ from run to run.
    Fails(String),
    /// Nothing to measure, with the reason.
    DoesNotApply(&'static str),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passes => f.write_str("passes"),
            Self::Fails(_) => f.write_str("**fails**"),
            Self::DoesNotApply(reason) => write!(f, "does not apply: {reason}"),
        }
    }
}

/// A table of the document.
pub(crate) struct Table {
    /// The section it is.
    title: &'static str,
    text: String,
    failures: Vec<String>,
}

impl Table {
    pub(crate) fn new(title: &'static str, columns: &[&str]) -> Self {
        let mut table = Self { title, text: String::new(), failures: Vec::new() };
        table.line(columns.iter().copied().chain(["outcome"]));
        table.line(columns.iter().copied().chain(["outcome"]).map(|_| "---"));
        table
    }

    /// Adds a row, and says it at once, because measuring takes a while.
    pub(crate) fn row(&mut self, cells: &[&str], outcome: &Outcome) {
        let name = cells.join(" | ");
        println!("{name} | {outcome}");
        if let Outcome::Fails(why) = outcome {
            println!("    {why}");
            self.failures.push(format!("{name}: {why}"));
        }
        let outcome = outcome.to_string();
        self.line(cells.iter().copied().chain([outcome.as_str()]));
    }

    fn line<'a>(&mut self, cells: impl Iterator<Item = &'a str>) {
        let cells: Vec<&str> = cells.collect();
        self.text += &format!("| {} |\n", cells.join(" | "));
    }

    /// Holds the section of the committed document against this table, or writes it.
    ///
    /// # Panics
    /// If they differ.
    pub(crate) fn hold(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
        let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let document = std::fs::read_to_string(&path).expect("docs/conformance.md");
        let heading = format!("\n## {}\n", self.title);
        let section = format!("\n{}", self.text);
        let start = document.find(&heading).expect("a section of this name") + heading.len();
        let end = document[start..].find("\n## ").map_or(document.len(), |at| start + at);
        if std::env::var_os(UPDATE).is_some() {
            let written = format!("{}{}{}", &document[..start], section, &document[end..]);
            return std::fs::write(&path, written).expect("docs/conformance.md is written");
        }
        assert!(
            document[start..end] == section,
            "the section \"{}\" of docs/conformance.md is not what was measured:\n{}\n{}\nif that is right:\n    \
             {UPDATE}=1 cargo test -p meetpoint-tests --test clients",
            self.title,
            self.text,
            self.failures.join("\n")
        );
    }
}
