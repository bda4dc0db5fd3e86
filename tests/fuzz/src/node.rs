//! What a node reads that is no datagram of its own protocols: who announces himself on the LAN, lists of servers,
//! routers, packets of flows. And what it tells its user about a pair, from what both sides claim.

use std::net::{IpAddr, SocketAddr};

use meetpoint::fuzzing::{self, Packets};
use meetpoint::sources::FoundSeed;
use meetpoint::{PortMapping, ServerUrl};
use meetpoint_proto::addr::{AddressClass, classify};
use meetpoint_proto::explain::{Attempt, Evidence, Outcome, Party, Way, prospect, sentence};
use meetpoint_proto::seed::Host;
use meetpoint_proto::{NatBehavior, NetworkClass, SeedAddr};

use crate::input::Input;

/// Servers taken of one list.
const MAX_LISTED: usize = 256;
/// Addresses of one mDNS service.
const MAX_ADDRESSES: usize = 4;
/// Longer than any explanation of two names of the longest kind.
const MAX_SENTENCE_LEN: usize = 1_000;
/// Room in a datagram, as small as makes several parts of short packets.
const ROOM: usize = 40;
/// Packets of one play.
const MAX_PACKETS: usize = 12;

fn ip(input: &mut Input<'_>) -> IpAddr {
    match input.byte() % 4 {
        0 => input.array::<4>().into(),
        1 => input.array::<16>().into(),
        2 => [10, 0, 0, input.byte()].into(),
        _ => [127, 0, 0, 1].into(),
    }
}

fn is_local(ip: IpAddr) -> bool {
    matches!(classify(ip), AddressClass::Private | AddressClass::Loopback)
}

/// Who speaks on a LAN names himself, or somebody else there; and nobody can vouch for a key.
fn is_hint(seed: &FoundSeed) -> IpAddr {
    let address: SeedAddr = seed.address.parse().expect("a seed");
    assert!(address.port != 0 && seed.fingerprint.is_none() && seed.tls_name.is_none() && seed.priority > 0);
    match address.host {
        Host::Ip(ip) => ip,
        Host::Dns(name) => panic!("{name} would have to be looked up"),
    }
}

/// Reads the bytes as an announcement to a multicast group, or as an mDNS service.
pub fn lan(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.byte().is_multiple_of(2) {
        let source = ip(&mut input);
        if let Some(seed) = fuzzing::announcement(input.rest(), source) {
            let found = is_hint(&seed);
            assert!(found == source.to_canonical() || is_local(found), "{seed:?} of {source}");
        }
        return;
    }
    let ips: Vec<IpAddr> = (0..input.below(8)).map(|_| ip(&mut input)).collect();
    let (port, name_len, is_named) = (input.u16(), input.below(80), input.byte().is_multiple_of(2));
    let name = String::from_utf8_lossy(input.take(name_len)).into_owned();
    let full_name = String::from_utf8_lossy(input.rest());
    let found = fuzzing::service(&full_name, Some(&*name).filter(|_| is_named), &ips, port);
    assert!(found.len() <= MAX_ADDRESSES);
    for seed in found {
        let found = is_hint(&seed);
        assert!(is_local(found) && ips.iter().any(|ip| ip.to_canonical() == found), "{seed:?}");
    }
}

/// Reads the bytes as an answer by HTTP, and what is in it, or else the bytes, as a list of servers.
pub fn seed_list(bytes: &[u8]) {
    let answer = fuzzing::http_answer(bytes);
    if let Some((status, body)) = &answer {
        assert!(*status < 1_000 && body.len() < bytes.len());
    }
    let text = match &answer {
        Some((_, body)) => body,
        None => match str::from_utf8(bytes) {
            Ok(text) => text,
            Err(_) => return,
        },
    };
    let Some(seeds) = fuzzing::seed_list(text) else { return };
    assert!(seeds.len() <= MAX_LISTED && seeds.len() <= text.len());
    let mut lines = String::new();
    for seed in &seeds {
        let is_url = seed.address.parse::<ServerUrl>().is_ok();
        assert!(is_url || seed.address.parse::<SeedAddr>().is_ok(), "{seed:?}");
        assert!(seed.tls_name.is_none(), "a list says nothing of names in certificates");
        lines += &seed.address;
        if let Some(fingerprint) = &seed.fingerprint {
            lines += &format!(" {fingerprint}");
        }
        lines += &format!(" {}\n", seed.priority);
    }
    assert_eq!(fuzzing::seed_list(&lines), Some(seeds), "{lines}");
}

/// Reads the bytes as what a router says by UPnP, PCP or NAT-PMP.
pub fn router(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let what = input.byte();
    let is_request_line =
        |path: &str| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if what.is_multiple_of(4) {
        let mut found = PortMapping::default();
        fuzzing::router_answer(&mut found, input.rest());
        let spoken = [found.pcp, found.nat_pmp, found.upnp].into_iter().filter(|is_spoken| *is_spoken);
        assert!(spoken.count() <= 1 && !found.upnp, "one answer is of one protocol");
        assert!(found.nat_pmp || found.external.is_none(), "PCP says nothing of an address");
        let before = found;
        fuzzing::router_answer(&mut found, input.rest());
        assert_eq!(found, before, "said twice");
        return;
    }
    let from = SocketAddr::from(([10, 0, 0, 1], input.u16()));
    let Ok(text) = str::from_utf8(input.rest()) else { return };
    match what % 4 {
        1 => {
            if let Some((_, path)) = fuzzing::upnp_location(text) {
                assert!(is_request_line(&path), "{path}");
            }
        }
        2 => {
            if let Some((name, at, path)) = fuzzing::upnp_service(text, from) {
                assert_eq!(at.ip(), from.ip(), "a router speaks for itself alone");
                assert!(is_request_line(&path), "{path}");
                assert!(
                    !name.contains(['"', '<', '>', '&', '\r', '\n']),
                    "{name} goes into a header and into XML"
                );
            }
        }
        _ => drop(fuzzing::upnp_external(text)),
    }
}

/// Sends packets in parts, some of which get lost, repeated or late; and reads the bytes as parts.
pub fn flow(bytes: &[u8]) {
    let (number, rest) = fuzzing::datagram(bytes.to_vec().into());
    assert!(number != Some(0) && rest.len() <= bytes.len());
    let sent = fuzzing::plain(bytes.to_vec().into());
    assert_eq!(fuzzing::datagram(sent), (None, bytes.to_vec().into()), "an application may say anything");

    let mut input = Input::new(bytes);
    let first = input.u32();
    let (mut packets, mut under_way) = (Vec::new(), Vec::new());
    for at in 0..input.below(MAX_PACKETS) {
        let len = usize::from(input.byte()) * 2;
        let packet = vec![at.to_le_bytes()[0]; len];
        let number = first.wrapping_add(u32::try_from(at).expect("a few"));
        let parts = Packets::parts(7, number, &packet, ROOM).expect("room enough");
        under_way.extend(parts.into_iter().map(|part| (at, part)));
        packets.push(packet);
    }
    let (mut receiver, mut garbage) = (Packets::default(), Packets::default());
    while !under_way.is_empty() && !input.is_empty() {
        let at = input.below(under_way.len());
        let what = input.byte() % 4;
        let (of, part) = if what == 0 { under_way[at].clone() } else { under_way.remove(at) };
        if what == 1 {
            continue;
        }
        assert!(part.len() <= ROOM);
        let (flow, part) = fuzzing::datagram(part);
        assert_eq!(flow, Some(7));
        if let Some(packet) = receiver.take(part) {
            assert_eq!(packet, packets[of], "made of another packet's parts");
        }
    }
    while !input.is_empty() {
        let len = usize::from(input.byte());
        if let Some(packet) = garbage.take(input.take(len).to_vec().into()) {
            assert!(packet.len() <= meetpoint::webrtc::MAX_PACKET_LEN);
        }
    }
}

/// Reads two lines as what two nodes claim of their NATs, and explains how they meet.
pub fn report(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let classes = [(); 2].map(|()| {
        let known = [
            NetworkClass::Loopback,
            NetworkClass::Private,
            NetworkClass::Unreachable,
            NetworkClass::PublicReachable,
        ];
        Some(input.pick(&known)).filter(|_| input.byte().is_multiple_of(2))
    });
    let presence = input.byte();
    let attempts: Vec<Attempt> = (0..input.below(4)).map(|_| attempt(&mut input)).collect();
    let way = (input.byte() % 2 == 1).then(|| Way { kind: "direct", rtt_ms: input.u64() });
    let mut lines = input.rest().split(|byte| *byte == b'\n');
    let behaviors = [(); 2].map(|()| {
        let behavior: Option<NatBehavior> = lines.next().and_then(|line| serde_json::from_slice(line).ok());
        if let Some(behavior) = behavior {
            let again = serde_json::to_string(&behavior).expect("JSON");
            assert_eq!(serde_json::from_str(&again).ok(), Some(behavior), "{again}");
        }
        behavior
    });
    let party = |at: usize, name| Party {
        name,
        present: presence >> at & 1 == 0,
        class: classes[at],
        behavior: behaviors[at],
    };
    let parties = [party(0, "alice"), party(1, "bob")];
    assert_eq!(prospect(&parties[0], &parties[1]), prospect(&parties[1], &parties[0]), "{parties:?}");
    let text = sentence(&Evidence { parties, attempts: &attempts, way });
    assert!(text.starts_with("alice: ") && text.contains("; bob: "), "{text}");
    assert!(text.len() <= MAX_SENTENCE_LEN && !text.contains(char::is_control), "{text}");
}

fn attempt(input: &mut Input<'_>) -> Attempt {
    let outcome = match input.byte() % 4 {
        0 => Outcome::Pending,
        1 => Outcome::Direct { elapsed_ms: input.u32() },
        2 => Outcome::Relayed,
        _ => Outcome::Failed,
    };
    Attempt { ago_ms: input.u64(), outcome }
}
