//! Which port-mapping protocols a router speaks. Nothing is mapped: PCP is asked to announce itself (RFC 6887, section
//! 14.1), NAT-PMP for the public address (RFC 6886, section 3.2), UPnP likewise. `crab_nat` has no question of that
//! kind, so the two of them, of 24 and 2 bytes, are put here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout, timeout_at};

use super::upnp;
use crate::egress::Egress;
use crate::interfaces;

/// When copies are sent, counted from the first; a router is a hop away.
const SCHEDULE: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(750)];
/// Silence for so long is no answer.
const PATIENCE: Duration = Duration::from_millis(1_750);
/// UPnP answers a search when it likes within a second, and is then asked for two documents.
const UPNP_PATIENCE: Duration = Duration::from_secs(4);
/// Longest PCP message (RFC 6887, section 7).
const MAX_LEN: usize = 1_100;
/// Versions, in the first byte of both (RFC 6887, section 19; RFC 6886, section 3.2).
const PCP: u8 = 2;
const NAT_PMP: u8 = 0;
/// An answer has this bit before the number of what was asked.
const ANSWER: u8 = 0x80;
/// PCP's ANNOUNCE, and NAT-PMP's public address.
const OPCODE: u8 = 0;
/// Of a PCP message without particulars.
const PCP_LEN: usize = 24;
/// NAT-PMP's answer with an address.
const NAT_PMP_LEN: usize = 12;
/// Neither knows the version that it was asked by (RFC 6887, section 7.4).
const UNSUPPORTED_VERSION: u8 = 1;

/// What a router answers to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortMapping {
    /// The machine's router for IPv4; `None` if the system names none, and then only UPnP was looked for.
    pub router: Option<IpAddr>,
    /// The Port Control Protocol (RFC 6887).
    pub pcp: bool,
    /// The NAT Port Mapping Protocol (RFC 6886).
    pub nat_pmp: bool,
    /// UPnP, as an Internet Gateway Device.
    pub upnp: bool,
    /// The router's own address towards the world, as it says by NAT-PMP or UPnP.
    pub external: Option<IpAddr>,
}

/// Asks this machine's router by which protocols it would map a port. It takes some seconds if it answers by none.
///
/// # Errors
/// The machine has no socket to give.
pub async fn port_mapping() -> io::Result<PortMapping> {
    let egress = Arc::new(Egress::default());
    let router = interfaces::default_gateway().map(|gateway| IpAddr::V4(gateway.ip));
    let pmp = async {
        match router {
            Some(router) => ask(&egress, router).await,
            None => Ok(PortMapping::default()),
        }
    };
    let upnp = timeout(UPNP_PATIENCE, upnp::Router::find(&egress, router));
    let (pmp, upnp) = tokio::join!(pmp, upnp);
    let mut found = PortMapping { router, ..pmp? };
    match upnp {
        Ok(Ok(device)) => {
            found.upnp = true;
            found.external = found.external.or(Some(device.external()));
        }
        Ok(Err(error)) => tracing::debug!(%error, "no UPnP"),
        Err(_) => tracing::debug!("no UPnP: no answer"),
    }
    Ok(found)
}

/// By PCP and NAT-PMP, which share a port.
async fn ask(egress: &Egress, router: IpAddr) -> io::Result<PortMapping> {
    let to = SocketAddr::new(router, crab_nat::GATEWAY_PORT);
    let local = interfaces::source_towards(to).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let socket = UdpSocket::bind((local, 0)).await?;
    let (started, mut found) = (Instant::now(), PortMapping::default());
    let mut buffer = [0; MAX_LEN + 1];
    for copy in 0..SCHEDULE.len() {
        for question in [&announce(local)[..], &[NAT_PMP, OPCODE]] {
            // The network may be unreachable at this moment; a copy follows.
            let _ = egress.send_to(&SockRef::from(&socket), to, question);
        }
        let until = started + SCHEDULE.get(copy + 1).copied().unwrap_or(PATIENCE);
        while !(found.pcp && found.nat_pmp) {
            match timeout_at(until, socket.recv_from(&mut buffer)).await {
                Ok(Ok((len, source))) if source == to => note(&mut found, &buffer[..len]),
                // Somebody else's datagram, or a late report about one of ours.
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    Ok(found)
}

/// PCP's ANNOUNCE, from this address.
fn announce(client: IpAddr) -> [u8; PCP_LEN] {
    let client = match client {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; PCP_LEN];
    (bytes[0], bytes[1]) = (PCP, OPCODE);
    bytes[8..].copy_from_slice(&Ipv6Addr::octets(&client));
    bytes
}

/// What an answer shows. A refusal is an answer too: whoever refuses speaks the protocol.
pub(crate) fn note(found: &mut PortMapping, answer: &[u8]) {
    match *answer {
        [PCP, opcode, _, result, ..] if opcode == ANSWER | OPCODE && is_pcp(answer) => {
            found.pcp |= result != UNSUPPORTED_VERSION;
        }
        // Version 0 to a question of PCP: here is NAT-PMP and nothing newer (RFC 6887, section 9).
        [NAT_PMP, opcode, high, low, ..] if opcode == ANSWER | OPCODE && answer.len() >= 8 => {
            found.nat_pmp = true;
            if let (0, 0, Some(&[a, b, c, d])) = (high, low, answer.get(8..NAT_PMP_LEN)) {
                let external = Ipv4Addr::new(a, b, c, d);
                found.external = Some(external.into()).filter(|_| !external.is_unspecified());
            }
        }
        _ => {}
    }
}

/// RFC 6887, section 8.3: lengths of a message.
fn is_pcp(answer: &[u8]) -> bool {
    (PCP_LEN..=MAX_LEN).contains(&answer.len()) && answer.len().is_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question() {
        let mut expect = [0; 24];
        (expect[0], expect[18], expect[19]) = (2, 0xFF, 0xFF);
        expect[20..].copy_from_slice(&[10, 0, 1, 2]);
        assert_eq!(announce([10, 0, 1, 2].into()), expect);
    }

    #[test]
    fn answers() {
        let pcp = |opcode: u8, result: u8, len: usize| {
            let mut bytes = vec![0; len];
            (bytes[0], bytes[1], bytes[3]) = (2, opcode, result);
            bytes
        };
        let external = Some(IpAddr::from([20, 0, 9, 1]));
        for (answer, expect) in [
            (pcp(0x80, 0, 24), (true, false, None)),
            (pcp(0x80, 0, 1_100), (true, false, None)),
            // Not authorised; no such question: both are PCP.
            (pcp(0x80, 2, 24), (true, false, None)),
            (pcp(0x80, 4, 24), (true, false, None)),
            (pcp(0x80, 1, 24), (false, false, None)),
            // Somebody's question, another one's answer, cut short, too long, not in words of four bytes.
            (pcp(0x00, 0, 24), (false, false, None)),
            (pcp(0x81, 0, 24), (false, false, None)),
            (pcp(0x80, 0, 20), (false, false, None)),
            (pcp(0x80, 0, 1_104), (false, false, None)),
            (pcp(0x80, 0, 25), (false, false, None)),
            (vec![0, 0x80, 0, 0, 0, 0, 0, 9, 20, 0, 9, 1], (false, true, external)),
            // It has no address now, or does not say it; it knows only the other version.
            (vec![0, 0x80, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0], (false, true, None)),
            (vec![0, 0x80, 0, 3, 0, 0, 0, 9, 20, 0, 9, 1], (false, true, None)),
            (vec![0, 0x80, 0, 1, 0, 0, 0, 9], (false, true, None)),
            (vec![0, 0x80, 0, 0], (false, false, None)),
            (vec![0, 0], (false, false, None)),
            (vec![], (false, false, None)),
        ] {
            let mut found = PortMapping::default();
            note(&mut found, &answer);
            assert_eq!((found.pcp, found.nat_pmp, found.external), expect, "{answer:?}");
        }
    }
}
