//! `meetpoint audit`: is the log whole?

use std::path::Path;

use meetpoint_server::{
    AuditBroken, AuditChain, AuditEntry, AuditError, AuditHash, AuditHead, canonical_json, verify_audit,
};
use serde_json::{Value, json};

use super::client::{Access, Client};
use super::show;
use crate::args::{AuditArgs, AuditCommand, ServerArgs};
use crate::exit::Failure;
use crate::progress::Progress;

/// Largest page the server gives.
const PAGE: usize = 500;

/// `meetpoint audit`.
pub(crate) async fn audit(args: AuditArgs) -> Result<(), Failure> {
    let AuditCommand::Verify { server, data, head: noted } = args.command;
    let head = match data {
        Some(data) => verify_file(&data, noted).await?,
        None => verify_served(&server, noted).await?,
    };
    let answer = json!({ "intact": true, "entries": head.seq, "head": head.to_string() });
    show(&server, &answer, || format!("intact: {} entries\nhead {head}", head.seq));
    Ok(())
}

async fn verify_file(data: &Path, noted: Option<AuditHead>) -> Result<AuditHead, Failure> {
    verify_audit(data, noted).await.map_err(|error| match error {
        AuditError::Broken(broken) => not_whole(broken),
        error => Failure::failed(format!("--data {}: {error}", data.display())),
    })
}

/// Page by page, until there is nothing behind the last entry.
pub(super) async fn verify_served(
    server: &ServerArgs,
    noted: Option<AuditHead>,
) -> Result<AuditHead, Failure> {
    let progress = Progress::new();
    let client = Client::new(server, Access::Read)?;
    let mut chain = AuditChain::new(noted);
    loop {
        let page = client.get(&format!("/v1/audit?limit={PAGE}&after={}", chain.head().seq)).await?;
        let items = page["items"].as_array().map_or(&[][..], Vec::as_slice);
        progress.tell("checking entry", chain.head().seq, 0);
        if items.is_empty() {
            return chain.finish().map_err(not_whole);
        }
        for item in items {
            let (entry, hash) = entry(item).ok_or_else(|| {
                Failure::failed(format!("what is behind entry {} is no entry", chain.head().seq))
            })?;
            chain.check(&entry, hash).map_err(not_whole)?;
        }
    }
}

fn not_whole(broken: AuditBroken) -> Failure {
    Failure::failed(format!("the audit log is not whole: {broken}"))
}

fn entry(item: &Value) -> Option<(AuditEntry, AuditHash)> {
    let text = |field: &str| item[field].as_str().map(str::to_owned);
    let entry = AuditEntry {
        seq: item["seq"].as_u64()?,
        at_ms: item["at_unix_ms"].as_i64()?,
        actor: text("actor")?,
        source: text("source"),
        action: text("action")?,
        target: text("target")?,
        detail: canonical_json(&item["detail"]),
    };
    Some((entry, item["hash"].as_str()?.parse().ok()?))
}
