//! `meetpoint secrets` and `meetpoint revocations`: who may join, and who may not.

use serde_json::{Value, json};

use super::client::{Access, Client, segment};
use super::relay::read_line;
use super::table::Table;
use super::{PAGE, show, text};
use crate::args::{ClusterSecretsArgs, ClusterSecretsCommand, RevocationsArgs, RevocationsCommand};
use crate::exit::Failure;

/// `meetpoint secrets`.
pub(crate) async fn secrets(args: ClusterSecretsArgs) -> Result<(), Failure> {
    match args.command {
        ClusterSecretsCommand::Create { server, cluster, secret_file } => {
            let secret = read_line("--secret-file", secret_file.as_deref())?;
            let path = path(&cluster, "secrets");
            let added =
                Client::new(&server, Access::Change)?.post(&path, &json!({ "secret": secret })).await?;
            show(&server, &added, || match added["value"].as_str() {
                Some(made) => made.to_owned(),
                None => format!("in use: {}", text(&added["secret"], "id")),
            });
        }
        ClusterSecretsCommand::List { server, cluster } => {
            let list = Client::new(&server, Access::Read)?.get(&path(&cluster, "secrets")).await?;
            let list = list["items"].clone();
            show(&server, &list, || table(&list, &["ID", "CREATED_UNIX_MS"], ["id", "created_unix_ms"]));
        }
        ClusterSecretsCommand::Remove { server, cluster, id } => {
            let path = format!("{}/{}", path(&cluster, "secrets"), segment(&id));
            Client::new(&server, Access::Change)?.delete(&path).await?;
            show(&server, &json!({ "id": id, "removed": true }), || format!("removed {id}"));
        }
    }
    Ok(())
}

/// `meetpoint revocations`.
pub(crate) async fn revocations(args: RevocationsArgs) -> Result<(), Failure> {
    match args.command {
        RevocationsCommand::List { server, cluster } => {
            let list = Client::new(&server, Access::Read)?.list(&path(&cluster, "revocations"), PAGE).await?;
            let list = Value::Array(list);
            let fields = ["name", "revoked_unix_ms", "id"];
            show(&server, &list, || table(&list, &["NAME", "REVOKED_UNIX_MS", "ID"], fields));
        }
        RevocationsCommand::Add { server, cluster, id } => {
            let path = format!("{}/{}", path(&cluster, "nodes"), segment(&id));
            Client::new(&server, Access::Change)?.delete(&path).await?;
            show(&server, &json!({ "id": id, "removed": true }), || format!("removed {id}"));
        }
        RevocationsCommand::Lift { server, cluster, id } => {
            let path = format!("{}/{}", path(&cluster, "revocations"), segment(&id));
            Client::new(&server, Access::Change)?.delete(&path).await?;
            show(&server, &json!({ "id": id, "lifted": true }), || format!("{id} may join again"));
        }
    }
    Ok(())
}

fn path(cluster: &str, what: &str) -> String {
    format!("/v1/clusters/{}/{what}", segment(cluster))
}

fn table<const N: usize>(list: &Value, head: &[&str], fields: [&str; N]) -> String {
    let mut table = Table::new(head);
    for row in list.as_array().into_iter().flatten() {
        table.row(fields.map(|field| text(row, field)));
    }
    table.to_string()
}
