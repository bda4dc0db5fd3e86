//! `meetpoint demo`: a server, two nodes and a direct path, on this one machine.
//!
//! As root on Linux it builds a small internet of network namespaces, in which the nodes sit
//! behind two port-restricted NATs; elsewhere everything runs on loopback, and it says what
//! that does not show. Server and nodes are this very binary, started as anybody would.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meetpoint_cli::lab::{Host, Lab, NatKind, probe};

use crate::args::DemoArgs;
use crate::exit::Failure;
use crate::signals::Stop;

mod forward;
mod story;

use story::{Cast, Story};

/// The server's HTTP port inside its namespace, where nobody else listens.
const HTTP_PORT: u16 = 8080;

/// Runs the demo until Ctrl-C (or, with `--once`, until the direct path works).
pub(crate) async fn run(args: &DemoArgs) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let stopping = Arc::new(AtomicBool::new(false));
    let story = Story::new(Arc::clone(&stopping));
    let (loopback, once) = (args.loopback, args.once);
    // The lab and the child processes are made, watched and removed by blocking code.
    let mut stage = tokio::task::spawn_blocking(move || raise_curtain(story, loopback));
    let stage = tokio::select! {
        stage = &mut stage => stage,
        _ = stop.wait() => {
            stopping.store(true, Ordering::Relaxed);
            stage.await
        }
    };
    let stage = stage.map_err(|error| Failure::failed(format!("the demo broke: {error}")))??;
    if !once && !stopping.load(Ordering::Relaxed) {
        let ui = forward::open(stage.server_host.clone(), stage.http).await?;
        println!("\nThe server's API is at http://{ui}/docs (Ctrl-C ends the demo).");
        println!("Its admin token is in {}", stage.scratch.path().join("data/admin-token").display());
        stop.wait().await;
    }
    tokio::task::spawn_blocking(move || drop(stage)).await.map_err(Failure::failed)
}

/// Everything that must live as long as the demo. Dropped in this order: the processes, the
/// namespaces, the files.
struct Stage {
    _cast: Cast,
    server_host: Option<Host>,
    http: SocketAddr,
    _lab: Option<Lab>,
    scratch: Scratch,
}

fn raise_curtain(story: Story, loopback: bool) -> Result<Stage, Failure> {
    let scratch = Scratch::new()?;
    let lab = if loopback { None } else { build_lab(&story)? };
    match lab {
        Some(world) => behind_nats(story, world, scratch),
        None => on_loopback(story, scratch),
    }
}

/// A lab, or nothing where this machine can't have one.
fn build_lab(story: &Story) -> Result<Option<Lab>, Failure> {
    match Lab::new() {
        Ok(lab) => Ok(Some(lab)),
        Err(reason) if reason.is_unavailable() => {
            story.note(&format!("No NATs in this demo: {reason}"));
            Ok(None)
        }
        Err(error) => Err(Failure::failed(error)),
    }
}

fn behind_nats(mut story: Story, mut lab: Lab, scratch: Scratch) -> Result<Stage, Failure> {
    story.note("A public network with a server, and two homes behind NAT routers, in network namespaces.");
    let mut home = |name| lab.node(NatKind::PortRestricted).map(|host| (name, host)).map_err(Failure::failed);
    let hosts = [home("alice")?, home("bob")?];
    for (name, host) in &hosts {
        let found = probe::measure(lab.server(), host).map_err(Failure::failed)?;
        if found != NatKind::PortRestricted.promise() {
            return Err(Failure::failed(format!(
                "the NAT in front of {name} is not port-restricted: {found:?}"
            )));
        }
        story.tell(
            name,
            &format!("{} behind {}: port-restricted NAT, measured", host.addr(), host.public_addr()),
        );
    }
    let server = lab.server().clone();
    let [first, second] = meetpoint_cli::lab::SERVER_ADDRS;
    let http = SocketAddr::from((first, HTTP_PORT));
    let mut serve = server.command(this_binary()?);
    serve.args(["serve", "--http", &http.to_string()]);
    serve.args(["--stun", &format!("{first}:3478"), "--stun", &format!("{second}:3478")]);
    serve.args(["--seed", &format!("demo@{http}")]);
    let binary = this_binary()?;
    let commands = hosts.map(|(name, host)| (name, host.command(&binary)));
    let (cast, http) = story.play(serve, commands, &scratch)?;
    Ok(Stage { _cast: cast, server_host: Some(server), http, _lab: Some(lab), scratch })
}

fn on_loopback(mut story: Story, scratch: Scratch) -> Result<Stage, Failure> {
    let binary = this_binary()?;
    story.note(
        "Server and nodes on loopback, in an effectively PRIVATE cluster. This shows joining, introduction,",
    );
    story.note("keyed checks and QUIC over the path they verify. It does not show STUN, classification or a NAT being");
    story.note("punched: for that, run `meetpoint demo` as root on Linux with iproute2 and nftables.");
    let mut serve = Command::new(&binary);
    serve.args(["serve", "--http", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--stun-alt-port", "0"]);
    let commands = ["alice", "bob"].map(|name| (name, Command::new(&binary)));
    let (cast, http) = story.play(serve, commands, &scratch)?;
    Ok(Stage { _cast: cast, server_host: None, http, _lab: None, scratch })
}

fn this_binary() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::failed(format!("where is this binary? {error}")))
}

/// A directory for the demo's data, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        // A demo that was killed has left its directory, and may have had the same process number.
        let mut attempt = 0;
        loop {
            let name = format!("meetpoint-demo-{}-{attempt}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
                Err(error) => return Err(Failure::failed(format!("{}: {error}", path.display()))),
            }
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "could not remove the demo's data");
        }
    }
}
