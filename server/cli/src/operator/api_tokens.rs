//! `meetpoint tokens rotate-admin` and its like: other tokens for the REST interface.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::client::{Access, Client};
use super::{show, text};
use crate::args::{ApiRole, OverlapArgs, ServerArgs};
use crate::exit::Failure;

impl ApiRole {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }
}

/// Replaces a token, and puts the new one into the file, which may be the server's own.
pub(super) async fn rotate(
    server: &ServerArgs,
    role: ApiRole,
    overlap: &OverlapArgs,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let path = format!("/v1/api-tokens/{}", role.as_str());
    let client = Client::new(server, Access::Change)?;
    let made = client.post(&path, &json!({ "overlap_s": overlap.overlap })).await?;
    let Some(file) = file else {
        show(server, &made, || text(&made, "value"));
        return Ok(());
    };
    let token = text(&made, "value");
    if let Err(error) = put(file, &token) {
        // It would be lost: the server shows it once.
        show(server, &made, || token);
        return Err(Failure::failed(format!("{}: {error}; the new token is shown instead", file.display())));
    }
    let (role, until) = (role.as_str(), made["before_until_unix_ms"].clone());
    let told = json!({ "role": role, "file": file.display().to_string(), "before_until_unix_ms": until });
    show(server, &told, || match &until {
        Value::Null => format!("{}: another {role} token", file.display()),
        until => {
            format!("{}: another {role} token; the one before is accepted until {until}", file.display())
        }
    });
    Ok(())
}

/// Ends the token before.
pub(super) async fn drop_replaced(server: &ServerArgs, role: ApiRole) -> Result<(), Failure> {
    let role = role.as_str();
    Client::new(server, Access::Change)?.delete(&format!("/v1/api-tokens/{role}/before")).await?;
    show(server, &json!({ "role": role, "dropped": true }), || format!("dropped the {role} token before"));
    Ok(())
}

/// Whole or not at all, mode 0600. The server's own file has it already.
fn put(file: &Path, token: &str) -> io::Result<()> {
    if fs::read_to_string(file).is_ok_and(|text| text.trim() == token) {
        return Ok(());
    }
    let draft = file.with_added_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut made: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    made.write_all(format!("{token}\n").as_bytes())?;
    made.sync_all()?;
    fs::rename(&draft, file)
}
