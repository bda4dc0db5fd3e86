//! What NAT this machine sits behind, found out without joining anything.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use meetpoint_agent::{BackoffConfig, Config, NatCheck, NatCheckStep};
use meetpoint_proto::NatBehavior;
use meetpoint_proto::wire::{Profile, StunServer};
use tokio::net::UdpSocket;
use tokio::time::sleep_until;

use crate::egress::Egress;
use crate::interfaces;
use crate::key::NodeKey;
use crate::route;

/// Larger than any STUN answer, which a network without fragments bounds.
const MAX_DATAGRAM_LEN: usize = 2048;

/// Finds out what NAT is between this machine and a STUN server (RFC 5780), from fresh ports and within seconds; and,
/// by asking the first routers on the way who they are, how many translators there may be. `None` if the server does
/// not answer.
///
/// # Errors
/// The machine has no socket or no randomness to give.
pub async fn nat_behavior(server: StunServer) -> io::Result<Option<NatBehavior>> {
    let (ipv6, egress) = (server.primary.is_ipv6(), Egress::default());
    let mut socket = fresh_socket(ipv6)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let mut check = NatCheck::new(nobody()?, Instant::now(), server, interfaces::list()?, seed);
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        while let Some(step) = check.poll_step() {
            match step {
                NatCheckStep::Reopen => {
                    socket = fresh_socket(ipv6)?;
                    check.opened(Instant::now(), Some(socket.local_addr()?.port()));
                }
                NatCheckStep::Trace { to, payload, most } => {
                    check.route_told(&route::trace(&egress, to, &payload, most).await);
                }
                NatCheckStep::Send { to, payload } => {
                    if let Err(error) = egress.send_to(&socket2::SockRef::from(&socket), to, &payload) {
                        tracing::debug!(%to, %error, "a test was not sent; a copy follows");
                    }
                }
            }
        }
        let Some(due) = check.poll_timeout() else { return Ok(check.behavior()) };
        tokio::select! {
            () = sleep_until(due.into()) => check.handle_timeout(Instant::now()),
            received = socket.recv_from(&mut buffer) => {
                // An error is a late ICMP report about something sent; the next one goes on.
                if let Ok((len, source)) = received {
                    check.handle(Instant::now(), source, &buffer[..len]);
                }
            }
        }
    }
}

fn fresh_socket(ipv6: bool) -> io::Result<UdpSocket> {
    let any = if ipv6 {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Who looks and does not join: nobody sees any of it.
fn nobody() -> io::Result<Config> {
    Ok(Config {
        key: NodeKey::ephemeral().map_err(io::Error::other)?.signing_key().clone(),
        cluster: "default".parse().map_err(io::Error::other)?,
        name: "nobody".parse().map_err(io::Error::other)?,
        token: None,
        secrets: Vec::new(),
        membership: None,
        profile: Profile::default(),
        declared: None,
        node_addr: None,
        expect: None,
        ephemeral: true,
        version: String::new(),
        backoff: BackoffConfig::default(),
    })
}
