//! `meetpoint serve`: flags in, exit code out; the service itself is a library.

use std::io::IsTerminal;
use std::net::SocketAddr;

use meetpoint_server::{ConfigSource, Drain, Info, Reload, Server};
use tokio_util::sync::CancellationToken;

use crate::args::ServeCommand;
use crate::exit::Failure;
use crate::signals::{Hangup, Hangups, Stop, StopSignal};

mod announce;

/// Serves until SIGINT, or until it is drained after SIGTERM. SIGHUP has files read again.
pub(crate) async fn run(args: ServeCommand, source: ConfigSource) -> Result<(), Failure> {
    let ServeCommand { serve: args, announce } = args;
    let mut stop = Stop::new()?;
    let mut hangups = Hangups::new()?;
    let config = args.validate().map_err(Failure::usage)?;
    let drain_timeout = config.drain_timeout;
    allow_many_connections();
    let server = Server::bind(config).await.map_err(|error| match error.exit_code() {
        2 => Failure::usage(error),
        _ => Failure::failed(error),
    })?;
    introduce(server.info());
    // Whatever ends the server ends its announcements.
    let _announcing = announce::start(&announce, server.info());
    server.set_source(source);
    let (reload, drain) = (server.reload(), server.drain());
    let drain = (!drain_timeout.is_zero()).then_some(drain);
    let shutdown = CancellationToken::new();
    let ended = tokio::spawn(server.run(shutdown.clone()));
    tokio::pin!(ended);
    let outcome = tokio::select! {
        outcome = &mut ended => outcome,
        () = told_to_stop(&mut stop, &mut hangups, (&reload, drain.as_ref())) => {
            shutdown.cancel();
            // A second signal does not wait for the nodes' goodbyes.
            tokio::select! {
                outcome = &mut ended => outcome,
                _ = stop.wait() => return Err(Failure::failed("interrupted while shutting down")),
            }
        }
    };
    outcome.map_err(|error| Failure::failed(format!("the server broke: {error}")))?.map_err(Failure::failed)
}

/// Waits until the server is to end at once. A first SIGTERM only has it drained.
async fn told_to_stop(stop: &mut Stop, hangups: &mut Hangups, (reload, drain): (&Reload, Option<&Drain>)) {
    let mut drain = drain;
    loop {
        tokio::select! {
            signal = stop.wait() => match (signal, drain.take()) {
                (StopSignal::Terminate, Some(drain)) => drain.begin(),
                (StopSignal::Terminate | StopSignal::Interrupt, _) => return,
            },
            hangup = hangups.next() => match hangup {
                Hangup::Reload => reload.request(),
                Hangup::Goodbye => return,
            },
        }
    }
}

/// Each node holds a descriptor, and the usual soft limit of 1,024 would end the server's growth there.
/// A system that refuses leaves the limit as it is.
fn allow_many_connections() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| (soft, hard)));
    match raised {
        Ok((soft, hard)) => tracing::debug!(soft, hard, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, "could not raise the limit of open files"),
    }
}

/// Where it listens, one line each for whoever started it; secrets on a terminal only.
fn introduce(info: &Info) {
    println!("listening http {}", info.http);
    for stun in &info.stun {
        let addresses = std::iter::once(stun.primary.ip()).chain(stun.alternate);
        let ports = std::iter::once(stun.primary.port()).chain(stun.alternate_port);
        let (addresses, ports): (Vec<String>, Vec<String>) =
            (addresses.map(|ip| ip.to_string()).collect(), ports.map(|port| port.to_string()).collect());
        println!("listening stun {} port {}", addresses.join(" and "), ports.join(" and "));
    }
    for addr in &info.stun_tcp {
        println!("listening stun-tcp {addr}");
    }
    for addr in &info.stun_tls {
        println!("listening stun-tls {addr}");
    }
    println!("fingerprint {}", info.fingerprint);
    if !std::io::stdout().is_terminal() {
        return;
    }
    println!("api and its documentation: http://{}/docs", browsable(info));
    if let Some(token) = &info.new_admin_token {
        println!("admin token: {}", token.reveal());
    }
    if let Some(token) = &info.join_token {
        println!("\nto join from another machine:");
        println!("  meetpoint node --rendezvous {} --name NAME --join-token {}", info.url, token.reveal());
    }
}

/// For a browser on this machine.
fn browsable(info: &Info) -> SocketAddr {
    match info.http.ip() {
        ip if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], info.http.port())),
        _ => info.http,
    }
}
