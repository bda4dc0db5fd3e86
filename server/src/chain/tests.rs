//! The chain, entry by entry, and what can be done to it.

use serde_json::json;

use super::*;

fn entry(seq: u64) -> AuditEntry {
    AuditEntry {
        seq,
        at_ms: 1_800_000_000_000 + i64::try_from(seq).unwrap(),
        actor: "admin".to_owned(),
        source: Some("20.0.0.7".to_owned()),
        action: "join_token.create".to_owned(),
        target: format!("default/{seq}"),
        detail: "{}".to_owned(),
    }
}

fn chained(entries: impl IntoIterator<Item = AuditEntry>) -> Vec<(AuditEntry, AuditHash)> {
    let mut head = AuditHead::EMPTY;
    let chain = |entry: AuditEntry| {
        head = head.after(&entry);
        (entry, head.hash)
    };
    entries.into_iter().map(chain).collect()
}

fn check(log: &[(AuditEntry, AuditHash)], noted: Option<AuditHead>) -> Result<AuditHead, AuditBroken> {
    let mut chain = AuditChain::new(noted);
    for (entry, hash) in log {
        chain.check(entry, *hash)?;
    }
    chain.finish()
}

/// Computed apart from this code (Python's hashlib), so that others can check a log by the description.
#[test]
fn the_hash_is_what_is_described() {
    let log = chained([entry(1), AuditEntry { source: None, ..entry(2) }]);
    let hashes: Vec<String> = log.iter().map(|(_, hash)| hash.to_string()).collect();
    assert_eq!(hashes, [FIRST, SECOND]);
}

const FIRST: &str = "c4ca83fad5effc268d1b2fc99054a47fc56e917f2b7b70d997f0f403fc8a4fac";
const SECOND: &str = "e38dd01dd64ab87c5e416115e99bfd211ac02220198f7bdb2d6083d1a06d0167";

#[test]
fn a_whole_log_is_whole() {
    assert_eq!(check(&[], None), Ok(AuditHead::EMPTY));
    let log = chained((1..=5).map(entry));
    let head = check(&log, None).unwrap();
    assert_eq!(head, AuditHead { seq: 5, hash: log[4].1 });
    assert_eq!(head.to_string().parse(), Ok(head));
    for (entry, hash) in &log {
        let noted = AuditHead { seq: entry.seq, hash: *hash };
        assert_eq!(check(&log, Some(noted)), Ok(head), "a noted head stays true as the log grows");
    }
    assert_eq!(check(&log, Some(AuditHead::EMPTY)), Ok(head));
    for bad in ["", ":", "1:", "1:00", "x:", "-1:", &head.to_string().to_uppercase(), &format!("{head}0")] {
        assert_eq!(bad.parse::<AuditHead>(), Err(ParseHashError), "{bad}");
    }
}

#[test]
fn every_change_of_an_entry_is_found() {
    type Change = fn(&mut AuditEntry);
    let changes: [Change; 8] = [
        |entry| entry.at_ms += 1,
        |entry| entry.actor = "server".to_owned(),
        |entry| entry.source = None,
        |entry| entry.source = Some(String::new()),
        |entry| entry.action = "join_token.revoke".to_owned(),
        |entry| entry.target.push('0'),
        |entry| entry.detail = "{\"a\":1}".to_owned(),
        // What moves from one field to the next is a change too.
        |entry| {
            entry.action.push_str(&entry.target);
            entry.target.clear();
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut log = chained((1..=3).map(entry));
        change(&mut log[1].0);
        assert_eq!(check(&log, None), Err(AuditBroken::Changed { seq: 2 }), "change {number}");
    }
}

#[test]
fn what_is_taken_out_put_in_or_made_anew_is_found() {
    let whole = chained((1..=4).map(entry));
    let noted = check(&whole, None).unwrap();
    let without = |index: usize| {
        let mut log = whole.clone();
        log.remove(index);
        log
    };
    assert_eq!(check(&without(0), None), Err(AuditBroken::Missing { seq: 1, found: 2 }));
    assert_eq!(check(&without(2), None), Err(AuditBroken::Missing { seq: 3, found: 4 }));
    assert_eq!(check(&[], Some(noted)), Err(AuditBroken::CutOff { last: 0, noted: 4 }));
    assert_eq!(check(&without(3), Some(noted)), Err(AuditBroken::CutOff { last: 3, noted: 4 }));
    assert!(check(&without(3), None).is_ok(), "without a noted head nobody can tell");
    let mut renumbered = without(1);
    for (index, (entry, _)) in renumbered.iter_mut().enumerate() {
        entry.seq = index as u64 + 1;
    }
    assert_eq!(check(&renumbered, None), Err(AuditBroken::Changed { seq: 2 }));
    let mut twice = whole.clone();
    twice.insert(2, whole[1].clone());
    assert_eq!(check(&twice, None), Err(AuditBroken::Changed { seq: 2 }));
    let anew = chained((1..=4).map(|seq| AuditEntry { actor: "server".to_owned(), ..entry(seq) }));
    assert!(check(&anew, None).is_ok(), "without a noted head nobody can tell");
    assert_eq!(check(&anew, Some(noted)), Err(AuditBroken::MadeAnew { seq: 4 }));
}

#[test]
fn json_has_one_form() {
    let check = |value: Value, expect: &str| {
        assert_eq!(canonical_json(&value), expect);
        assert_eq!(serde_json::from_str::<Value>(expect).unwrap(), value);
    };
    check(json!({}), "{}");
    check(json!([]), "[]");
    check(
        json!({ "b": [1, -2, null], "a": { "d": true, "c": "x" } }),
        r#"{"a":{"c":"x","d":true},"b":[1,-2,null]}"#,
    );
    check(json!({ "\"": "\u{1}\n\\é<" }), "{\"\\\"\":\"\\u0001\\n\\\\é<\"}");
}
