//! `meetpoint healthcheck`: for container engines and scripts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::json;

use super::client::{Access, Client};
use crate::args::{HealthcheckArgs, ServerArgs};
use crate::exit::Failure;

/// `meetpoint healthcheck`.
pub(crate) async fn healthcheck(args: HealthcheckArgs) -> Result<(), Failure> {
    let server = args.server.unwrap_or_else(|| format!("http://{}", reachable(args.http)));
    let server = ServerArgs {
        server,
        // Its neighbour, the join token, tells the fingerprint; a healthcheck needs no token itself.
        admin_token_file: args.data.join("admin-token"),
        viewer_token_file: None,
        fingerprint: args.fingerprint,
        insecure_http: args.insecure_http,
        json: args.json,
    };
    let client = Client::new(&server, Access::Public)?;
    let asked = tokio::time::timeout(args.timeout, client.get("/readyz")).await;
    let verdict = match asked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(failure)) => Err(failure.message().to_owned()),
        Err(_) => Err(format!("{} did not answer in {:?}", server.server, args.timeout)),
    };
    if args.json {
        println!("{}", json!({ "ready": verdict.is_ok(), "reason": verdict.as_ref().err() }));
    } else if verdict.is_ok() {
        println!("ready");
    }
    // Whatever the reason: to whoever asks this, a server that is not there is one that is not ready.
    verdict.map_err(Failure::failed)
}

/// What listens on all addresses is asked on this machine's own.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}
