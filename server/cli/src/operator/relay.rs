//! `meetpoint relay`: static users, secrets, and what goes through the relay.

use std::path::Path;

use serde_json::{Value, json};

use super::client::{Access, Client, segment};
use super::table::Table;
use super::{PAGE, show, text};
use crate::args::{RelayArgs, RelayCommand, SecretsCommand, SessionsCommand, UsersCommand};
use crate::exit::Failure;

const USERS: &str = "/v1/relay/users";
const SECRETS: &str = "/v1/relay/secrets";
const SESSIONS: &str = "/v1/relay/sessions";

/// `meetpoint relay`.
pub(crate) async fn relay(args: RelayArgs) -> Result<(), Failure> {
    match args.command {
        RelayCommand::Users(command) => users(command).await,
        RelayCommand::Secrets(command) => secrets(command).await,
        RelayCommand::Sessions { server, command } => {
            sessions(command.unwrap_or(SessionsCommand::List { server })).await
        }
        RelayCommand::Kill { server, id } => sessions(SessionsCommand::End { server, id }).await,
    }
}

async fn users(command: UsersCommand) -> Result<(), Failure> {
    match command {
        UsersCommand::List { server } => {
            let list = Client::new(&server, Access::Read)?.list(USERS, PAGE).await?;
            show(&server, &Value::Array(list.clone()), || user_table(&list));
        }
        UsersCommand::Set { server, password_file, name } => {
            let password = read_line("--password-file", password_file.as_deref())?;
            let path = format!("{USERS}/{}", segment(&name));
            let body = json!({ "password": password });
            let set = Client::new(&server, Access::Change)?.put(&path, &body).await?;
            show(&server, &set, || match set["password"].as_str() {
                Some(made) => made.to_owned(),
                None => format!("set the password of {name}"),
            });
        }
        UsersCommand::Remove { server, name } => {
            Client::new(&server, Access::Change)?.delete(&format!("{USERS}/{}", segment(&name))).await?;
            show(&server, &json!({ "name": name, "removed": true }), || format!("removed {name}"));
        }
    }
    Ok(())
}

async fn secrets(command: SecretsCommand) -> Result<(), Failure> {
    match command {
        SecretsCommand::List { server } => {
            let list = Client::new(&server, Access::Read)?.get(SECRETS).await?;
            let list = list["items"].clone();
            show(&server, &list, || secret_table(&list));
        }
        SecretsCommand::Add { server, secret_file, overlap } => {
            let secret = read_line("--secret-file", secret_file.as_deref())?;
            let body = json!({ "secret": secret, "overlap_s": overlap });
            let added = Client::new(&server, Access::Change)?.post(SECRETS, &body).await?;
            show(&server, &added, || text(&added, "value"));
        }
        SecretsCommand::Drop { server, id } => {
            Client::new(&server, Access::Change)?.delete(&format!("{SECRETS}/{}", segment(&id))).await?;
            show(&server, &json!({ "id": id, "dropped": true }), || format!("dropped {id}"));
        }
    }
    Ok(())
}

async fn sessions(command: SessionsCommand) -> Result<(), Failure> {
    match command {
        SessionsCommand::List { server } => {
            let list = Client::new(&server, Access::Read)?.list(SESSIONS, PAGE).await?;
            show(&server, &Value::Array(list.clone()), || session_table(&list));
        }
        SessionsCommand::End { server, id } => {
            Client::new(&server, Access::Change)?.delete(&format!("{SESSIONS}/{}", segment(&id))).await?;
            show(&server, &json!({ "id": id, "ended": true }), || format!("ended {id}"));
        }
    }
    Ok(())
}

/// What a file says without its last line break: arguments are for everybody to see.
pub(super) fn read_line(flag: &str, file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Failure::usage(format!("{flag} {}: {error}", file.display())))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn user_table(list: &[Value]) -> String {
    let mut table = Table::new(&["NAME", "CREATED_UNIX_MS", "CHANGED_UNIX_MS"]);
    for user in list {
        table.row(["name", "created_unix_ms", "changed_unix_ms"].map(|field| text(user, field)));
    }
    table.to_string()
}

fn secret_table(list: &Value) -> String {
    let mut table = Table::new(&["ID", "STATE", "CREATED_UNIX_MS", "ACCEPTED_UNTIL_UNIX_MS"]);
    for secret in list.as_array().into_iter().flatten() {
        let fields = ["id", "state", "created_unix_ms", "accepted_until_unix_ms"];
        table.row(fields.map(|field| text(secret, field)));
    }
    table.to_string()
}

fn session_table(list: &[Value]) -> String {
    let mut table =
        Table::new(&["ID", "USER", "CLIENT", "RELAYED", "LEFT_S", "BYTES_TO_PEER", "BYTES_TO_CLIENT"]);
    for session in list {
        let relayed = session["relayed"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let relayed = relayed.collect::<Vec<_>>().join(",");
        let [id, user, client, left] =
            ["id", "user", "client", "lifetime_left_s"].map(|field| text(session, field));
        let [out, back] = ["to_peer", "to_client"].map(|way| text(&session[way], "bytes"));
        table.row([id, user, client, relayed, left, out, back]);
    }
    table.to_string()
}
