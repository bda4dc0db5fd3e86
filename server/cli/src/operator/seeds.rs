//! `meetpoint seeds`: the rendezvous servers of a cluster.

use hyper::Method;
use meetpoint_proto::seed::Host;
use serde_json::{Value, json};

use super::client::{Access, Client, segment};
use super::table::Table;
use super::{show, text};
use crate::args::{SeedsArgs, SeedsCommand, ServerArgs};
use crate::exit::Failure;

/// `meetpoint seeds`.
pub(crate) async fn seeds(args: SeedsArgs) -> Result<(), Failure> {
    match args.command {
        SeedsCommand::List { server, cluster } => {
            let path = format!("/v1/clusters/{}/seeds", segment(&cluster));
            let list = Client::new(&server, Access::Read)?.get(&path).await?;
            let list = list["items"].clone();
            show(&server, &list, || table(&list));
        }
        SeedsCommand::Put { server, cluster, network_type, public_key, seed } => {
            let host = match &seed.host {
                Host::Ip(ip) => ip.to_string(),
                Host::Dns(name) => name.clone(),
            };
            let body = json!({
                "host": host,
                "port": seed.port,
                "network_type": network_type.map(meetpoint_proto::NetworkType::as_str),
                "public_key": public_key.map(|key| key.to_string()),
            });
            let path = path(&cluster, seed.name.as_str());
            let put = Client::new(&server, Access::Change)?.put(&path, &body).await?;
            changed(&server, "put", &put);
        }
        SeedsCommand::Approve { server, cluster, name } => {
            let (client, body) = (Client::new(&server, Access::Change)?, json!({ "approved": true }));
            let approved = client.call(Method::PATCH, &path(&cluster, &name), Some(&body)).await?;
            changed(&server, "approved", &approved);
        }
        SeedsCommand::Delete { server, cluster, name } => {
            let client = Client::new(&server, Access::Change)?;
            let deleted = client.call(Method::DELETE, &path(&cluster, &name), None).await?;
            changed(&server, "deleted", &deleted);
        }
    }
    Ok(())
}

fn path(cluster: &str, name: &str) -> String {
    format!("/v1/clusters/{}/seeds/{}", segment(cluster), segment(name))
}

/// What became of a seed, and what the operator should know about that.
fn changed(server: &ServerArgs, what: &str, answer: &Value) {
    show(server, answer, || {
        let [name, host, port] = ["name", "host", "port"].map(|field| text(&answer["seed"], field));
        match answer["warning"].as_str() {
            Some(warning) => format!("{what} {name}@{host}:{port}; {warning}"),
            None => format!("{what} {name}@{host}:{port}"),
        }
    });
}

fn table(list: &Value) -> String {
    let mut table = Table::new(&["NAME", "HOST", "PORT", "PUBLIC", "APPROVED", "ORIGIN", "STATUS", "REASON"]);
    for seed in list.as_array().into_iter().flatten() {
        let fields = ["name", "host", "port", "public", "approved", "origin", "status", "reason"];
        table.row(fields.map(|field| text(seed, field)));
    }
    table.to_string()
}
