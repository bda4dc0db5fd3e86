//! One peer's ways.

use meetpoint_proto::TicketKey;

use super::*;
use crate::testing::start_of_time;

const MS: Duration = Duration::from_millis(1);
const KEEPALIVE: Duration = Duration::from_secs(20);

fn way(n: u8) -> Way {
    Way::main(SocketAddr::from(([20, 0, 0, n], 4000)))
}

fn ticket(n: u8) -> TicketId {
    TicketId::from_bytes([n; 16])
}

fn link() -> Link {
    let mut link =
        Link::new(NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]), "bob".parse().unwrap());
    link.add_keys(keys(1));
    link
}

fn keys(n: u8) -> TicketKeys {
    let key = |byte| Key::of_ticket(&TicketKey::from_bytes([byte; 32]));
    TicketKeys { ticket: ticket(n), send: key(2 * n), recv: key(2 * n + 1) }
}

fn answer(n: u8, rtt_ms: u32) -> Confirmation {
    Confirmation {
        ticket: ticket(1),
        way: way(n),
        is_ready: true,
        rtt: MS * rtt_ms,
        keepalive: KEEPALIVE,
        random: 0,
    }
}

#[test]
fn the_quicker_way_wins_but_only_clearly() {
    let cases: &[(&[(u8, u32)], u8)] = &[
        (&[(1, 40)], 1),
        (&[(1, 40), (2, 39)], 1),
        (&[(1, 40), (2, 34)], 1),
        (&[(1, 40), (2, 2)], 2),
        (&[(1, 4), (2, 1)], 1),
        (&[(1, 40), (2, 2), (1, 30)], 2),
    ];
    for (answers, expect) in cases {
        let (mut link, now) = (link(), start_of_time());
        for &(n, rtt_ms) in *answers {
            link.confirm(now, &answer(n, rtt_ms), MS);
        }
        assert_eq!(link.current, Some(way(*expect)), "{answers:?}");
    }
}

/// Within ten seconds where data flows; elsewhere within a keepalive and the five seconds of repetitions.
#[test]
fn a_silent_way_dies_and_another_takes_over() {
    dies_within(true, Duration::from_secs(10));
    dies_within(false, KEEPALIVE + Duration::from_secs(5));
}

fn dies_within(is_busy: bool, most: Duration) {
    let (mut link, start) = (link(), start_of_time());
    let first = link.confirm(start, &answer(1, 20), 7 * MS);
    assert!(matches!(first, Change::Moved(path) if path.way == way(1) && path.elapsed == 7 * MS));
    link.confirm(start, &answer(2, 25), MS);
    if is_busy {
        link.busy(start);
    }
    let mut now = start;
    while link.has_route(way(1)) {
        now = link.deadline().unwrap();
        while let Some((due, ..)) = link.next_consent(now) {
            if due == way(2) {
                link.confirm(now, &answer(2, 25), MS);
            }
        }
    }
    assert!(now - start <= most, "{:?}", now - start);
    link.choose();
    assert_eq!(link.current, Some(way(2)));
    while link.has_route(way(2)) {
        now = link.deadline().unwrap();
        while link.next_consent(now).is_some() {}
    }
    assert_eq!(link.choose(), Change::Lost);
    assert!(!link.is_open());
    assert_eq!(link.deadline(), None);
}

fn relayed(n: u8) -> Way {
    Way { leg: Leg::Relay(AllocationId(1)), ..way(n) }
}

fn by(way: Way, rtt_ms: u32) -> Confirmation {
    Confirmation { way, ..answer(1, rtt_ms) }
}

/// By the own relay to the peer, and from here to the peer's: both nodes let go of the same one, unless data flows.
#[test]
fn of_two_relayed_ways_an_idle_pair_keeps_one() {
    let ids = [[1; 32], [2; 32]].map(NodeId::from_bytes);
    for (own, peer, is_busy) in [(0, 1, false), (1, 0, false), (0, 1, true)] {
        let mut link = Link::new(ids[own], ids[peer], "bob".parse().unwrap());
        link.add_keys(keys(1));
        let (by_own, by_peers) = (relayed(1), way(9));
        link.add_relay(by_peers.remote);
        let mut now = start_of_time();
        for (way, rtt_ms) in [(by_own, 40), (by_peers, 41)] {
            link.confirm(now, &by(way, rtt_ms), MS);
        }
        for _ in 0..8 {
            if is_busy {
                link.busy(now);
            }
            now = link.deadline().unwrap();
            while let Some((due, ..)) = link.next_consent(now) {
                link.confirm(now, &by(due, 40), MS);
            }
        }
        let kept = [by_own, by_peers].map(|way| link.has_route(way));
        assert_eq!(kept, [own == 1 || is_busy, own == 0 || is_busy], "{own}");
        link.choose();
        assert!(link.is_open());
    }
}

#[test]
fn direct_beats_relayed_and_ipv6_beats_ipv4_at_equal_cost() {
    let v6 = Way::main("[2606:4700::1]:4000".parse().unwrap());
    let cases: &[(&[(Way, u32)], Way)] = &[
        (&[(relayed(1), 5), (way(2), 200)], way(2)),
        (&[(way(2), 200), (relayed(1), 5)], way(2)),
        (&[(relayed(1), 40), (relayed(2), 5)], relayed(2)),
        (&[(relayed(1), 40), (relayed(2), 38)], relayed(1)),
        (&[(way(1), 20), (v6, 20)], v6),
        (&[(v6, 20), (way(1), 18)], v6),
        (&[(way(1), 20), (v6, 30)], way(1)),
        (&[(relayed(1), 5), (v6, 90), (way(2), 80)], v6),
    ];
    for (answers, expect) in cases {
        let (mut link, now) = (link(), start_of_time());
        for &(way, rtt_ms) in *answers {
            link.confirm(now, &by(way, rtt_ms), MS);
        }
        assert_eq!(link.current, Some(*expect), "{answers:?}");
    }
}

/// What is met at the peer's own relay is relayed too, whichever socket it leaves by.
#[test]
fn a_relay_of_the_peer_is_no_direct_way() {
    let (mut link, now) = (link(), start_of_time());
    link.add_relay(way(1).remote);
    let change = link.confirm(now, &by(way(1), 5), MS);
    assert!(matches!(change, Change::Moved(path) if path.kind == PathKind::Relayed), "{change:?}");
    let change = link.confirm(now, &by(way(2), 50), 9 * MS);
    let is_direct = |path: Path| (path.kind, path.elapsed) == (PathKind::Direct, 9 * MS);
    assert!(matches!(change, Change::Moved(path) if is_direct(path)), "{change:?}");
}

#[test]
fn a_relayed_way_is_used_once_it_has_a_channel() {
    let (mut link, now) = (link(), start_of_time());
    let unready = Confirmation { is_ready: false, ..by(relayed(1), 5) };
    assert_eq!((link.confirm(now, &unready, MS), link.is_open()), (Change::None, false));
    assert!(matches!(link.ready(relayed(1)), Change::Moved(path) if path.way == relayed(1)));
    assert_eq!(link.leg_lost(AllocationId(1)), Change::Lost);
}

/// The relay takes over within two seconds of the first unanswered check, and gives way to the next answer.
#[test]
fn a_doubtful_way_is_left_while_it_is_asked() {
    let (mut link, start) = (link(), start_of_time());
    link.confirm(start, &by(relayed(1), 50), MS);
    link.confirm(start, &by(way(2), 20), MS);
    let (mut now, mut first) = (start, None);
    while link.kind() == Some(PathKind::Direct) {
        now = link.deadline().unwrap();
        while let Some((due, ..)) = link.next_consent(now) {
            if due == way(2) {
                first.get_or_insert(now);
            } else {
                link.confirm(now, &by(due, 50), MS);
            }
        }
        link.choose();
    }
    assert!(now - first.unwrap() <= 2000 * MS, "{:?}", now - first.unwrap());
    assert_eq!(link.current, Some(relayed(1)));
    link.confirm(now, &by(way(2), 20), MS);
    assert_eq!(link.current, Some(way(2)));
}

#[test]
fn relayed_ways_end_when_a_direct_one_has_lasted() {
    let (mut link, start) = (link(), start_of_time());
    link.confirm(start, &by(relayed(1), 50), MS);
    link.confirm(start, &by(way(2), 20), MS);
    while link.uses_relay() {
        let now = link.deadline().unwrap();
        while let Some((due, ..)) = link.next_consent(now) {
            link.confirm(now, &by(due, 30), MS);
        }
        assert!(now <= start + RELAY_WARM + KEEPALIVE, "it has been kept for too long");
    }
    let now = link.deadline().unwrap();
    assert!(now >= start + RELAY_WARM && !link.wants(now, relayed(1)) && link.wants(now, way(3)));
}

#[test]
fn small_changes_of_the_round_trip_are_not_told() {
    let (mut link, now) = (link(), start_of_time());
    assert!(matches!(link.confirm(now, &answer(1, 20), MS), Change::Moved(_)));
    assert_eq!(link.confirm(now, &answer(1, 21), MS), Change::None);
    assert!(matches!(link.confirm(now, &answer(1, 90), MS), Change::Moved(_)));
}

#[test]
fn each_direction_has_its_own_key() {
    use rand_chacha::rand_core::SeedableRng;
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([0; 32]);
    let link = link();
    for (key, expect) in [(keys(1).recv, Some(ticket(1))), (keys(1).send, None), (keys(2).recv, None)] {
        let check = crate::stun::check(TransactionId::random(&mut rng), link.check_name(), &key);
        assert_eq!(link.authenticate(&Datagram::parse(&check).unwrap()), expect);
    }
}

/// A node that knows no short names never sees one.
#[test]
fn a_peer_is_called_by_a_short_name_once_it_has_said_so() {
    let mut link = link();
    let (own, peer) = (NodeId::from_bytes([1; 32]).to_string(), NodeId::from_bytes([2; 32]).to_string());
    assert_eq!(link.check_name(), CheckName::Long(&format!("{peer}:{own}")));
    link.takes_short_names = true;
    assert_eq!(link.check_name(), CheckName::Short(&own[..8]));
}

#[test]
fn keys_are_bounded_and_the_proven_ones_stay() {
    let (mut link, now) = (link(), start_of_time());
    link.confirm(now, &answer(1, 20), MS);
    for n in 2..20 {
        link.add_keys(keys(n));
    }
    assert_eq!(link.keys.len(), MAX_KEYS);
    assert!(link.keys(ticket(1)).is_some() && link.keys(ticket(19)).is_some());
}

#[test]
fn repeated_checks_are_noticed() {
    use rand_chacha::rand_core::SeedableRng;
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([0; 32]);
    let mut link = link();
    let ids: Vec<TransactionId> = (0..MAX_SEEN * 3).map(|_| TransactionId::random(&mut rng)).collect();
    assert!(ids.iter().all(|id| link.is_new(*id)));
    assert!(!link.is_new(ids[MAX_SEEN * 3 - 1]));
    assert_eq!((link.seen.len(), link.seen_order.len()), (MAX_SEEN, MAX_SEEN));
}

/// Neither the number of ways nor their age keeps a way out that has just proven itself.
#[test]
fn a_silent_way_makes_room_for_one_that_answers() {
    let (mut link, start) = (link(), start_of_time());
    for n in 1..=4 {
        link.confirm(start, &answer(n, 20), MS);
    }
    link.confirm(start, &answer(5, 20), MS);
    let has = |link: &Link, n| link.has_route(answer(n, 20).way);
    assert!(!has(&link, 5), "all of them answer");
    let mut now = start;
    while has(&link, 2) && !has(&link, 6) {
        now = link.deadline().unwrap();
        while let Some((way, ..)) = link.next_consent(now) {
            if way != answer(2, 20).way {
                link.confirm(now, &Confirmation { way, ..answer(1, 20) }, MS);
            }
        }
        link.confirm(now, &answer(6, 20), MS);
    }
    assert!(has(&link, 6) && !has(&link, 2));
    assert!([1, 3, 4].into_iter().all(|n| has(&link, n)));
    assert!(now - start <= KEEPALIVE, "{:?}", now - start);
}

/// Where data goes and none comes back the way in use is asked at once, and once.
#[test]
fn who_is_not_heard_is_asked_at_once() {
    let (mut link, start) = (link(), start_of_time());
    link.confirm(start, &answer(1, 20), MS);
    let now = start + Duration::from_secs(1);
    assert!(link.next_consent(now).is_none());
    link.unheard(now);
    assert_eq!(link.next_consent(now).map(|(way, _, unanswered)| (way, unanswered)), Some((way(1), 1)));
    link.unheard(now);
    assert!(link.next_consent(now).is_none(), "it has half a second to answer");
}
