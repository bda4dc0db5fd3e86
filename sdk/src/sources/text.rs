//! Lists of servers as text: lines for people, or JSON.
//!
//! A line is `ADDRESS [FINGERPRINT] [PRIORITY]`, where the address is `NAME@HOST:PORT` or a URL; `#` begins a comment.
//! JSON is an array of `{"address": ..., "fingerprint": ..., "priority": ...}`, of which only the address is required,
//! or of addresses.

use meetpoint_proto::SeedAddr;
use meetpoint_proto::id::Fingerprint;
use serde::Deserialize;
use thiserror::Error;

use super::FoundSeed;
use crate::http;
use crate::ws::ServerUrl;

/// Longest list, in bytes.
pub(super) const MAX_LEN: usize = http::MAX_BODY_LEN;
/// Servers taken of one list.
const MAX_SEEDS: usize = 256;

/// Why a text is no list of servers.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SeedTextError {
    /// Neither kind of address.
    #[error("'{given}' is neither NAME@HOST:PORT nor a URL")]
    Address {
        /// What was given.
        given: String,
    },
    /// What follows the address is neither a fingerprint nor a priority.
    #[error("after the address comes a fingerprint, a priority, or both, and not '{given}'")]
    Rest {
        /// What was given.
        given: String,
    },
    /// It looks like JSON and is not this.
    #[error("not a list of servers: {0}")]
    Json(#[from] serde_json::Error),
}

/// Either form.
pub(super) fn any(text: &str) -> Result<Vec<FoundSeed>, SeedTextError> {
    if text.trim_start().starts_with('[') { json(text) } else { lines(text) }
}

/// One server a line.
pub(super) fn lines(text: &str) -> Result<Vec<FoundSeed>, SeedTextError> {
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(line, _comment)| line).trim());
    lines.filter(|line| !line.is_empty()).take(MAX_SEEDS).map(line).collect()
}

fn line(line: &str) -> Result<FoundSeed, SeedTextError> {
    let mut words = line.split_whitespace();
    let mut seed = of_address(words.next().unwrap_or_default())?;
    for word in words {
        if let Ok(priority) = word.parse() {
            seed.priority = priority;
        } else if let Ok(fingerprint) = word.parse() {
            seed.fingerprint = Some(fingerprint);
        } else {
            return Err(SeedTextError::Rest { given: word.to_owned() });
        }
    }
    Ok(seed)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Address(String),
    Full(Full),
}

#[derive(Deserialize)]
struct Full {
    address: String,
    fingerprint: Option<Fingerprint>,
    #[serde(default)]
    priority: u16,
}

fn json(text: &str) -> Result<Vec<FoundSeed>, SeedTextError> {
    let entries: Vec<Entry> = serde_json::from_str(text)?;
    let seed = |entry| match entry {
        Entry::Address(address) => of_address(&address),
        Entry::Full(Full { address, fingerprint, priority }) => {
            Ok(FoundSeed { fingerprint, priority, ..of_address(&address)? })
        }
    };
    entries.into_iter().take(MAX_SEEDS).map(seed).collect()
}

/// Checks the address.
fn of_address(text: &str) -> Result<FoundSeed, SeedTextError> {
    let is_one = text.parse::<SeedAddr>().is_ok() || text.parse::<ServerUrl>().is_ok();
    is_one.then(|| FoundSeed::new(text)).ok_or_else(|| SeedTextError::Address { given: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let print = Fingerprint::from_bytes([7; 32]);
        let full = |address: &str, priority| FoundSeed {
            fingerprint: Some(print),
            priority,
            ..FoundSeed::new(address)
        };
        let cases = [
            (String::new(), Some(vec![])),
            ("# nobody\n\n".to_owned(), Some(vec![])),
            ("a@10.0.0.1:80\n https://b.example # second".to_owned(), {
                Some(vec![FoundSeed::new("a@10.0.0.1:80"), FoundSeed::new("https://b.example")])
            }),
            (format!("a@h:1 {print} 5\na@h:2 6 {print}"), Some(vec![full("a@h:1", 5), full("a@h:2", 6)])),
            ("a@h:1 what".to_owned(), None),
            ("h:1".to_owned(), None),
            ("ftp://h".to_owned(), None),
            ("[]".to_owned(), Some(vec![])),
            (r#" ["a@h:1"]"#.to_owned(), Some(vec![FoundSeed::new("a@h:1")])),
            (
                format!(r#"[{{"address":"a@h:1","fingerprint":"{print}","priority":3,"more":1}}]"#),
                Some(vec![full("a@h:1", 3)]),
            ),
            (r#"[{"fingerprint":null}]"#.to_owned(), None),
            (r#"["h"]"#.to_owned(), None),
            ("[".to_owned(), None),
        ];
        for (text, expect) in cases {
            assert_eq!(any(&text).ok(), expect, "{text}");
        }
    }
}
