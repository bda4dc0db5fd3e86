//! The sockets around the STUN and TURN machine: one thread a core, each with a machine and sockets
//! of its own ([`shard`]). The rest of the server talks to them through their inboxes ([`inbox`]).
//!
//! What they observe goes to the broker by a bounded channel and is dropped if that is full: a node
//! repeats its Bindings anyway, and a flood of them must not fill memory.

mod batch;
mod errors;
mod inbox;
mod inside;
mod inspect;
mod relay;
mod shard;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint_proto::{SessionId, stun};
use meetpoint_turn::{
    Config, Limits, Listener, ListenerId, RelayConfig, ShardId, Shared, StreamListener, StunServer,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::listen::{StunSocket, as_seen};
use crate::rendezvous::StunRequest;
use crate::service::RelayKeys;

#[cfg(test)]
pub(crate) use inbox::Arrivals;
pub(crate) use inbox::{Gone, Inbox, Inboxes, Message, StreamInput};
pub(crate) use inspect::{MachineState, RelayHandle, SessionInfo};
pub(crate) use relay::relay_config;
use shard::{Ends, ListenerSocket, Shard};

/// The machines learn the wall time this often.
pub(crate) const WALL_INTERVAL: Duration = Duration::from_secs(1);

/// What the broker is told of a session.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Its Binding came from there.
    Observed { session: SessionId, source: SocketAddr },
    /// It is lent these addresses, and hears of it at this moment.
    Allocated { session: SessionId, relayed: Vec<SocketAddr> },
}

/// The STUN server with its sockets.
pub(crate) struct Stun {
    shards: Vec<Shard>,
    inboxes: Inboxes,
    requests: mpsc::Receiver<StunRequest>,
    halt: Halt,
}

/// Ends all threads when it goes, for whatever reason: they hold each other's inboxes, so none of them
/// would see by itself that the server is gone.
struct Halt {
    stop: CancellationToken,
    inboxes: Inboxes,
}

impl Drop for Halt {
    fn drop(&mut self) {
        self.stop.cancel();
        self.inboxes.iter().for_each(Inbox::wake);
    }
}

/// What the machine is set up with.
pub(crate) struct Setup {
    pub(crate) external_ip: Option<IpAddr>,
    pub(crate) streams: Vec<StreamListener>,
    pub(crate) keys: watch::Receiver<RelayKeys>,
    pub(crate) relay: Option<RelayConfig>,
    pub(crate) limits: Limits,
    pub(crate) seed: [u8; 32],
}

/// Why the STUN server can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StunError {
    /// The sockets do not suit it.
    #[error("the STUN server: {0}")]
    Config(#[from] meetpoint_turn::ConfigError),
    /// The system does not give what a thread waits with.
    #[error("the STUN server's sockets: {0}")]
    Socket(#[from] io::Error),
}

impl Stun {
    /// As many shards as each listener has sockets.
    pub(crate) fn new(
        bound: Vec<StunSocket>,
        setup: Setup,
        observations: &mpsc::Sender<Seen>,
        requests: mpsc::Receiver<StunRequest>,
    ) -> Result<Self, StunError> {
        let Setup { external_ip, streams, keys, relay, limits, seed } = setup;
        let listeners = bound.iter().zip(0_u8..).map(|(socket, id)| Listener {
            id: ListenerId(id),
            role: socket.role,
            addr: as_seen_from_outside(socket, external_ip),
        });
        let config = Config {
            listeners: listeners.collect(),
            streams,
            realm: stun::REALM.to_owned(),
            secrets: keys.borrow().secrets.clone(),
            limits,
            relay,
        };
        let mut shards = Vec::new();
        let mut inboxes = Vec::new();
        let mut all_arrivals = Vec::new();
        let dealt = dealt(bound);
        for _ in &dealt {
            let (inbox, arrivals) = Inbox::new()?;
            inboxes.push(inbox);
            all_arrivals.push(arrivals);
        }
        let inboxes = Inboxes::new(inboxes);
        let stop = CancellationToken::new();
        let shared = Shared::new(&config, seed, Instant::now(), dealt.len() as u8)?;
        for ((sockets, arrivals), id) in dealt.into_iter().zip(all_arrivals).zip(0..) {
            let machine = StunServer::shard(config.clone(), &shared, ShardId(id))?;
            let ends = Ends {
                arrivals,
                inboxes: inboxes.clone(),
                observations: observations.clone(),
                keys: keys.clone(),
                stop: stop.clone(),
            };
            shards.push(Shard::new(machine, sockets, ends)?);
        }
        let halt = Halt { stop, inboxes: inboxes.clone() };
        Ok(Self { shards, inboxes, requests, halt })
    }

    /// Where its shards are reached.
    pub(crate) fn inboxes(&self) -> Inboxes {
        self.inboxes.clone()
    }

    /// Serves until told to stop, or until a thread ends that should not.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self { shards, inboxes, requests, halt } = self;
        let any_end = CancellationToken::new();
        let (running, mut all_ended) = mpsc::channel::<()>(1);
        for (shard, index) in shards.into_iter().zip(0..) {
            // Both go when the thread ends, even if it panics.
            let held = (any_end.clone().drop_guard(), running.clone());
            let thread = std::thread::Builder::new().name(format!("relay-{index}"));
            let started = thread.spawn(move || {
                let _held = held;
                shard.run();
            });
            if let Err(error) = started {
                error!(%error, "a thread of the STUN server did not start");
            }
        }
        drop(running);
        tokio::select! {
            () = stop.cancelled() => {}
            () = any_end.cancelled() => {}
            () = pass_on(requests, &inboxes) => {}
        }
        drop(halt);
        let _ = all_ended.recv().await;
    }
}

/// Passes the broker's requests on, each shard's in their order.
async fn pass_on(mut requests: mpsc::Receiver<StunRequest>, inboxes: &Inboxes) {
    while let Some(request) = requests.recv().await {
        // What is sent from the alternate address is sent once; what has to be known all have to know.
        let count = match request {
            StunRequest::DialBack { .. } => 1,
            StunRequest::Introduced { .. } | StunRequest::Ended { .. } => usize::MAX,
        };
        for inbox in inboxes.iter().take(count) {
            // A shard that is gone is seen by its thread's end.
            let _ = inbox.send(Message::Broker(request)).await;
        }
    }
    std::future::pending::<()>().await;
}

/// The sockets of each shard: one of each listener.
fn dealt(bound: Vec<StunSocket>) -> Vec<Vec<ListenerSocket>> {
    let mut shards = Vec::new();
    for listener in bound {
        let is_ipv6 = listener.addr.is_ipv6();
        for (index, socket) in listener.sockets.into_iter().enumerate() {
            if shards.len() <= index {
                shards.push(Vec::new());
            }
            if let Some(sockets) = shards.get_mut(index) {
                sockets.push(ListenerSocket { socket, is_ipv6 });
            }
        }
    }
    shards
}

/// The address clients know a listener by.
fn as_seen_from_outside(socket: &StunSocket, external: Option<IpAddr>) -> SocketAddr {
    use meetpoint_turn::ListenerRole::{AlternateAlt, AlternateMain, PrimaryAlt, PrimaryMain};
    match socket.role {
        PrimaryMain | PrimaryAlt => as_seen(socket.addr, external),
        AlternateMain | AlternateAlt => socket.addr,
    }
}
