//! `docs/rules.md` is printed from the tables, and says what they say.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fmt::{Debug, Display, Write};
use std::path::Path;

use meetpoint_proto::rules::{
    ADDRESS, ADMISSION, AddressOutcome, Admission, Becomes, CLUSTER, DISCOVERY, EVIDENCE, Mapped, Named,
    PROBATION_MS, Punchable, SEED, SeedOutcome, SeedWord, Seeds, StunOutcome, UNSOLICITED_MS,
};

/// Refreshes the document instead of comparing it.
const UPDATE: &str = "MEETPOINT_UPDATE";

const INTRODUCTION: &str = "# The rules

Who may join a cluster, and as what. Server, node and simulator decide by the tables in
`sdk/proto/src/rules`, and this page is printed from them; `MEETPOINT_UPDATE=1 cargo test -p meetpoint-proto
--test it rules` prints it anew. Each table is read from the top, and the first row that fits decides. A row's
name is stable: events carry it, and `tests/tests/lab/admission.rs` has the case that shows it through the real binary, or
names what else does. A code has a hint for the user in `sdk/proto/src/code.rs`.
";

fn list<T>(values: &[T], text: impl Fn(&T) -> String) -> String {
    match values {
        [] => "any".to_owned(),
        values => values.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}

fn words<T: Display>(values: &[T]) -> String {
    list(values, ToString::to_string)
}

fn names<T: Debug>(values: &[T]) -> String {
    list(values, |value| format!("{value:?}"))
}

fn either(value: Option<bool>) -> &'static str {
    match value {
        None => "either",
        Some(true) => "yes",
        Some(false) => "no",
    }
}

fn table<const N: usize>(
    page: &mut String,
    title: &str,
    about: &str,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let _ = write!(page, "\n## {title}\n\n{about}\n\n");
    page.push_str(&line(&head.map(str::to_owned)));
    page.push_str(&line(&head.map(|_| "---".to_owned())));
    rows.for_each(|row| page.push_str(&line(&row)));
}

fn cluster(page: &mut String) {
    let rows = CLUSTER.iter().map(|row| {
        let seeds = match row.seeds {
            Seeds::Any => "any",
            Seeds::None => "none",
            Seeds::SomePublic => "at least one public and reachable",
            Seeds::SomeNotPublic => "at least one not public and reachable",
        };
        let outcome = match row.outcome {
            Ok(effective) => format!("effectively {effective}"),
            Err(code) => format!("refused: `{code}`"),
        };
        [format!("`{}`", row.name), row.kind.to_string(), seeds.to_owned(), outcome]
    });
    let about = "A seed that is down changes nothing. A refused cluster: `serve` exits 2, REST answers 422.";
    table(page, "What a cluster amounts to", about, ["row", "type", "seeds", "outcome"], rows);
}

fn seed(page: &mut String) {
    let word = |word: &SeedWord| {
        let text = match word {
            SeedWord::Public => "declared PUBLIC",
            SeedWord::Private => "declared PRIVATE",
            SeedWord::Listed => "listed by the operator",
            SeedWord::None => "nothing",
        };
        text.to_owned()
    };
    let rows = SEED.iter().map(|row| {
        let outcome = match row.outcome {
            SeedOutcome::Mismatch(code) => format!("refused: `{code}`"),
            SeedOutcome::Counts { class, evidence } => format!("{class} ({evidence})"),
            SeedOutcome::Discover => "full discovery; not public until proven".to_owned(),
        };
        [format!("`{}`", row.name), list(row.words, word), names(row.addresses), outcome]
    });
    let about = "Trust the user unless the facts contradict. Addresses reserved for special purposes count as \
private, here and below.";
    table(page, "A seed's own check", about, ["row", "said of it", "its address", "outcome"], rows);
}

fn address(page: &mut String) {
    let named = |named: &Named| {
        let text = match named {
            Named::No => "nothing",
            Named::AsSeen => "what the server sees",
            Named::Other => "another address",
        };
        text.to_owned()
    };
    let rows = ADDRESS.iter().map(|row| {
        let outcome = match row.outcome {
            AddressOutcome::AsSeen => "the address that the server sees".to_owned(),
            AddressOutcome::BehindNat => "Private: a NAT is in front".to_owned(),
            AddressOutcome::Mismatch(code) => format!("reject `{code}`"),
        };
        let own = either(row.own).to_owned();
        [format!("`{}`", row.name), list(row.named, named), names(row.seen), own, outcome]
    });
    let about = "The server sees a node at its observed mapping, and before there is one at the source of its \
control connection. An effectively PRIVATE cluster judges by that address alone.";
    let head = ["row", "`--node-addr` says", "the server sees", "the node's own", "judged by"];
    table(page, "A node's address", about, head, rows);
}

fn admission(page: &mut String) {
    let rows = ADMISSION.iter().map(|row| {
        let declared = list(row.declared, |word| word.map_or("nothing".to_owned(), |word| word.to_string()));
        let verdict = match row.verdict {
            Admission::Admit { class, evidence } => format!("admit as {class} ({evidence}), without STUN"),
            Admission::Discover(found) if found.must_prove => {
                format!("STUN decides: proven within {} s, {} till then", PROBATION_MS / 1000, found.answered)
            }
            Admission::Discover(found) => format!("STUN decides: {} unless proven", found.answered),
            Admission::Reject(code) => format!("reject `{code}`"),
        };
        let effective = format!("{} ({})", row.effective, words(row.kinds));
        [format!("`{}`", row.name), effective, names(row.addresses), declared, verdict]
    });
    let about = format!(
        "Judged when a node joins, when its cluster's effective network changes, and when its observed \
address changes. Whoever joins and fails is rejected at once. A member that no longer fits stays where it is \
and has {} s to fit again; then it is rejected with the row's code.",
        PROBATION_MS / 1000
    );
    let head = ["row", "effective (type)", "address", "declared", "verdict"];
    table(page, "Admission", &about, head, rows);
}

fn discovery(page: &mut String) {
    let rows = DISCOVERY.iter().map(|row| {
        let found = match row.outcome {
            StunOutcome::NoAnswer => "no answer",
            StunOutcome::Answered => "answered, no dial-back arrived",
            StunOutcome::Proven => "proven by a dial-back",
            StunOutcome::Unsolicited => "proven, and met unsolicited",
        };
        let becomes = match row.becomes {
            Becomes::Open => "PublicOpen (proven)".to_owned(),
            Becomes::Reachable => "PublicReachable (proven)".to_owned(),
            Becomes::Answered => "the class of the admission's row (observed)".to_owned(),
            Becomes::Relayed => "Unreachable (observed), `relayed: true`".to_owned(),
            Becomes::Rejected(code) => format!("reject `{code}`"),
        };
        let (must, relayed) = (either(row.must_prove).to_owned(), either(row.admit_relayed).to_owned());
        [format!("`{}`", row.name), found.to_owned(), must, relayed, becomes]
    });
    let about = format!(
        "A dial-back comes from an address and port that the node has never sent to. A node is met \
unsolicited when a check under a ticket arrives from an address that it has sent nothing to for {} min: the \
node says so, the one that checked says that the way works, and the server's own record of introductions \
shows that it gave the node no reason to send there. It counts from members that the server itself drew, at \
two other sites.",
        UNSOLICITED_MS / 60_000
    );
    let head = ["row", "found", "must be proven", "`--admit-relayed`", "becomes"];
    table(page, "What STUN makes of a node", &about, head, rows);
}

fn evidence(page: &mut String) {
    let rows = EVIDENCE.iter().map(|row| {
        let mapped = match row.mapped {
            Mapped::Own => "its own address and port",
            Mapped::Same => "another one, the same towards two destinations",
            Mapped::Different => "one that differs between destinations",
            Mapped::Nothing => "no answer",
        };
        let punchable = match row.punchable {
            Punchable::Anybody => "anybody who sends at the same time",
            Punchable::EndpointIndependent => "endpoint-independent peers",
            Punchable::Nobody => "nobody",
        };
        let mapping = if row.mapping.is_empty() { "-".to_owned() } else { words(row.mapping) };
        [format!("`{}`", row.name), mapped.to_owned(), mapping, row.meaning.to_owned(), punchable.to_owned()]
    });
    let about = "A node's own finding (RFC 5780): it orders attempts and explains, and proves nothing. The \
simulator's `every_pair_of_gates` shows it.";
    let head = ["row", "the node is mapped to", "RFC 4787", "meaning", "can meet"];
    table(page, "What a mapping tells", about, head, rows);
}

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for part in [cluster, seed, address, admission, discovery, evidence] {
        part(&mut page);
    }
    page
}

#[test]
fn the_document_says_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rules.md");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page(), "docs/rules.md is out of date: run this test with {UPDATE}=1");
}

#[test]
fn names_are_unique() {
    let all = CLUSTER.iter().map(|row| row.name).chain(SEED.iter().map(|row| row.name));
    let all = all.chain(ADDRESS.iter().map(|row| row.name)).chain(ADMISSION.iter().map(|row| row.name));
    let all = all.chain(DISCOVERY.iter().map(|row| row.name)).chain(EVIDENCE.iter().map(|row| row.name));
    let mut seen = BTreeSet::new();
    for name in all {
        assert!(seen.insert(name), "{name} twice");
    }
}
