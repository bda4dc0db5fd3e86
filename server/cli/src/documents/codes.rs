//! Whoever is refused finds out why: each reason code is in `docs/troubleshooting.md`.

use meetpoint_proto::Code;

use super::{Document, root};

#[test]
fn every_reason_code_is_explained() {
    let page = Document::read(root().join("docs/troubleshooting.md"));
    let rows = page.lines.iter().filter(|line| line.text.starts_with("| `"));
    let named = rows.flat_map(|row| row.spans().0).collect::<Vec<_>>();
    let missing = Code::ALL.iter().filter(|code| !named.contains(&code.as_str())).collect::<Vec<_>>();
    assert!(missing.is_empty(), "docs/troubleshooting.md does not explain {missing:?}");
}
