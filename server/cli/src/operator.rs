//! The operator's commands: REST calls, shown as tables or as JSON.

use serde_json::{Value, json};

use crate::args::{ApiRole, ExplainArgs, NodesArgs, ServerArgs, StatusArgs, TokensArgs, TokensCommand};
use crate::exit::Failure;

mod api_tokens;
mod audit;
pub(crate) mod backup;
pub(crate) mod bundle;
pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod healthcheck;
pub(crate) mod identity;
mod relay;
pub(crate) mod seeds;
pub(crate) mod table;

pub(crate) use audit::audit;
use client::{Access, Client};
pub(crate) use relay::relay;
use table::Table;

/// Largest page the server gives.
const PAGE: usize = 200;

/// `meetpoint tokens`.
pub(crate) async fn tokens(args: TokensArgs) -> Result<(), Failure> {
    match args.command {
        TokensCommand::Create { server, cluster, label, scope, name_pattern, expires_in, max_uses } => {
            let body = json!({
                "label": label.unwrap_or_default(),
                "scope": scope.as_str(),
                "name_pattern": name_pattern.as_ref().map(meetpoint_proto::NamePattern::as_str),
                "expires_in_s": expires_in,
                "max_uses": max_uses,
            });
            let made = Client::new(&server, Access::Change)?.post(&tokens_path(&cluster), &body).await?;
            show(&server, &made, || text(&made, "secret"));
        }
        TokensCommand::List { server, cluster } => {
            let list = Client::new(&server, Access::Read)?.list(&tokens_path(&cluster), PAGE).await?;
            show(&server, &Value::Array(list.clone()), || token_table(&list));
        }
        TokensCommand::Revoke { server, cluster, id } => {
            let path = format!("{}/{}", tokens_path(&cluster), client::segment(&id));
            Client::new(&server, Access::Change)?.delete(&path).await?;
            show(&server, &json!({ "id": id, "revoked": true }), || format!("revoked {id}"));
        }
        TokensCommand::RotateAdmin { server, overlap } => {
            let file = server.admin_token_file.clone();
            api_tokens::rotate(&server, ApiRole::Admin, &overlap, Some(&file)).await?;
        }
        TokensCommand::RotateViewer { server, overlap } => {
            let file = server.viewer_token_file.clone();
            api_tokens::rotate(&server, ApiRole::Viewer, &overlap, file.as_deref()).await?;
        }
        TokensCommand::DropReplaced { server, role } => api_tokens::drop_replaced(&server, role).await?,
    }
    Ok(())
}

/// `meetpoint nodes`.
pub(crate) async fn nodes(args: NodesArgs) -> Result<(), Failure> {
    let path = format!("/v1/clusters/{}/nodes", client::segment(&args.cluster));
    let list = Client::new(&args.server, Access::Read)?.list(&path, PAGE).await?;
    show(&args.server, &Value::Array(list.clone()), || node_table(&list));
    Ok(())
}

/// `meetpoint explain`.
pub(crate) async fn explain(args: ExplainArgs) -> Result<(), Failure> {
    let [cluster, a, b] = [&args.cluster, &args.a, &args.b].map(|word| client::segment(word));
    let path = format!("/v1/clusters/{cluster}/paths/{a}/{b}");
    let pair = Client::new(&args.server, Access::Read)?.get(&path).await?;
    show(&args.server, &pair, || text(&pair, "text"));
    Ok(())
}

/// `meetpoint status`.
pub(crate) async fn status(args: StatusArgs) -> Result<(), Failure> {
    let status = Client::new(&args.server, Access::Public)?.get("/v1/status").await?;
    show(&args.server, &status, || status_text(&status));
    Ok(())
}

fn tokens_path(cluster: &str) -> String {
    format!("/v1/clusters/{}/join-tokens", client::segment(cluster))
}

fn show(server: &ServerArgs, value: &Value, for_people: impl FnOnce() -> String) {
    if server.json {
        println!("{value}");
    } else {
        println!("{}", for_people().trim_end());
    }
}

fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn token_table(list: &[Value]) -> String {
    let mut table = Table::new(&["ID", "LABEL", "SCOPE", "NAMES", "STATE", "USES", "MAX"]);
    for token in list {
        let fields = ["id", "label", "scope", "name_pattern", "state", "uses", "max_uses"];
        table.row(fields.map(|field| text(token, field)));
    }
    table.to_string()
}

fn node_table(list: &[Value]) -> String {
    let mut table = Table::new(&["NAME", "STATE", "CLASS", "EVIDENCE", "OBSERVED", "ID"]);
    for node in list {
        let [name, class, evidence, observed, id] =
            ["name", "class", "evidence", "observed", "id"].map(|field| text(node, field));
        let state = if node["presence"].is_null() { "away" } else { "present" };
        table.row([name, state.to_owned(), class, evidence, observed, id]);
    }
    table.to_string()
}

fn status_text(status: &Value) -> String {
    let mut lines = Vec::new();
    if let Value::Object(fields) = status {
        let plain = fields.iter().filter(|(_, value)| !value.is_array() && !value.is_object());
        lines.extend(plain.map(|(field, _)| format!("{field:<20} {}", text(status, field))));
    }
    for cluster in status["clusters"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{:<20} {} ({}, effectively {}), {} present",
            "cluster",
            text(cluster, "name"),
            text(cluster, "type"),
            text(cluster, "effective"),
            text(cluster, "nodes_present"),
        ));
    }
    for warning in status["warnings"].as_array().into_iter().flatten() {
        lines.push(format!("warning: {}", text(warning, "message")));
    }
    lines.join("\n")
}
