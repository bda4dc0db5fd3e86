//! The client against the real server, on a line that loses, repeats and forges.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use meetpoint_proto::SessionId;
use meetpoint_turn::{
    Config as ServerConfig, Input, ListenerId, Output as Said, RelayConfig, RelayIp, RelayLimits, Secret,
    Secrets, StunServer, node_user,
};

use super::answers::{MAX_REDIRECTIONS, RETRY_MISMATCH, RETRY_QUOTA};
use super::peers::MAX_PEERS;
use super::*;
use crate::api::{BackoffConfig, Config, Output, StreamId};
use crate::stun::{self, Datagram};
use crate::testing::start_of_time;

const MS: Duration = Duration::from_millis(1);
const SERVER: &str = "20.0.0.1:3478";
const SOURCE: &str = "20.0.9.1:40000";
const UNIX_S: u64 = 1_800_000_000;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn secrets() -> Secrets {
    Secrets::new(vec![Secret::new(b"the server's one secret").unwrap()]).unwrap()
}

fn server(limits: RelayLimits) -> StunServer {
    let ip = addr(SERVER).ip();
    let listener = meetpoint_turn::Listener {
        id: ListenerId(0),
        role: meetpoint_turn::ListenerRole::PrimaryMain,
        addr: addr(SERVER),
    };
    let config = ServerConfig {
        listeners: vec![listener],
        streams: Vec::new(),
        realm: meetpoint_proto::stun::REALM.to_owned(),
        secrets: secrets(),
        limits: meetpoint_turn::Limits { source_slots: 64, relay: limits, ..Default::default() },
        relay: Some(RelayConfig { ipv4: Some(RelayIp { bind: ip, seen: ip }), ..Default::default() }),
    };
    StunServer::new(config, [7; 32]).unwrap()
}

fn env() -> Env {
    let config = Config {
        key: SigningKey::from_bytes(&[1; 32]),
        cluster: "default".parse().unwrap(),
        name: "node".parse().unwrap(),
        token: None,
        secrets: Vec::new(),
        membership: None,
        profile: Default::default(),
        declared: None,
        node_addr: None,
        expect: None,
        ephemeral: true,
        version: "test".to_owned(),
        backoff: BackoffConfig::default(),
    };
    Env::new(config, [3; 32])
}

/// Credentials of a session, that expire so many seconds after the beginning.
fn access(session: u8, life_s: u64) -> Access {
    let user = node_user(&SessionId::from_bytes([session; 16]));
    let (username, password) = secrets().mint(&user, UNIX_S + life_s);
    Access { socket: Socket::Main, server: addr(SERVER), username, password, others: Vec::new() }
}

struct Rig {
    env: Env,
    server: StunServer,
    now: Instant,
    source: SocketAddr,
    /// Where the server is expected to be asked.
    at: SocketAddr,
    /// Datagrams to the server that are still to be lost.
    lose: usize,
    /// Requests that name this peer are lost.
    lose_about: Option<SocketAddr>,
    /// The server's newest datagram.
    newest: Vec<u8>,
    /// What peers were sent.
    relayed: Vec<(SocketAddr, Vec<u8>)>,
}

impl Rig {
    fn new(limits: RelayLimits) -> Self {
        let now = start_of_time();
        let mut server = server(limits);
        server.handle(now, Input::Wall { unix_ms: UNIX_S * 1000 });
        let source = addr(SOURCE);
        Self {
            env: env(),
            server,
            now,
            source,
            at: addr(SERVER),
            lose: 0,
            lose_about: None,
            newest: Vec::new(),
            relayed: Vec::new(),
        }
    }

    fn client(&mut self, access: Access) -> Client {
        Client::new(&mut self.env, self.now, AllocationId(1), access, None)
    }

    /// Carries datagrams until neither side says more; the client's news.
    fn carry(&mut self, client: &mut Client) -> Vec<News> {
        loop {
            let mut answers = Vec::new();
            while let Some(output) = self.env.pop() {
                let Output::Transmit { socket: Socket::Main, to, payload, .. } = output else {
                    panic!("{output:?}")
                };
                assert_eq!(to, self.at);
                let about = Datagram::parse(&payload).and_then(|datagram| datagram.peer());
                let is_lost = self.lose > 0 || (about.is_some() && about == self.lose_about);
                self.lose = self.lose.saturating_sub(1);
                if !is_lost {
                    answers.extend(self.give(&payload));
                }
            }
            if answers.is_empty() {
                return std::iter::from_fn(|| client.poll_news()).collect();
            }
            for answer in answers {
                self.newest.clone_from(&answer);
                self.tell(client, &answer);
            }
        }
    }

    fn tell(&mut self, client: &mut Client, payload: &[u8]) -> bool {
        client.handle(&mut self.env, self.now, &Datagram::parse(payload).unwrap())
    }

    fn give(&mut self, payload: &[u8]) -> Vec<Vec<u8>> {
        let input = Input::Datagram { listener: ListenerId(0), source: self.source, payload };
        self.server.handle(self.now, input);
        let mut answers = Vec::new();
        while let Some(said) = self.server.poll_output() {
            match said {
                Said::Transmit { payload, .. } => answers.push(payload.to_vec()),
                Said::OpenRelay { id, .. } => self.server.handle(self.now, Input::RelayOpened { id }),
                Said::TransmitRelayed { to, payload, .. } => self.relayed.push((to, payload.to_vec())),
                _ => {}
            }
        }
        answers
    }

    fn pass(&mut self, client: &mut Client, time: Duration) -> Vec<News> {
        let (end, mut news) = (self.now + time, Vec::new());
        while let Some(due) = client.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let unix_ms = UNIX_S * 1000 + u64::try_from((self.now - (end - time)).as_millis()).unwrap();
            self.server.handle(self.now, Input::Wall { unix_ms });
            self.server.handle_timeout(self.now);
            client.handle_timeout(&mut self.env, self.now);
            news.extend(self.carry(client));
        }
        self.now = end;
        self.server.handle_timeout(end);
        news
    }

    /// Requests and indications that the client has sent and nobody has taken.
    fn unsent(&mut self) -> usize {
        std::iter::from_fn(|| self.env.pop()).count()
    }

    fn allocations(&self) -> usize {
        self.server.sessions(self.now).count()
    }
}

#[test]
fn an_allocation_costs_two_round_trips_and_one_with_a_known_nonce() {
    let mut rig = Rig::new(RelayLimits::default());
    let mut client = rig.client(access(1, 3600));
    let mut trips = 0;
    while !client.is_granted() {
        trips += 1;
        let Some(Output::Transmit { payload, .. }) = rig.env.pop() else { panic!("nothing is asked") };
        for answer in rig.give(&payload) {
            rig.tell(&mut client, &answer);
        }
    }
    assert_eq!((trips, client.poll_news()), (2, Some(News::Granted)));
    assert_eq!(client.relayed().map(|relayed| relayed.ip()).collect::<Vec<_>>(), [addr(SERVER).ip()]);

    let known = client.credential.clone();
    rig.source = addr("20.0.9.1:40001");
    // A nonce is bound to the source, so another one is challenged anew, with what is known of the realm.
    let mut other = Client::new(&mut rig.env, rig.now, AllocationId(2), access(1, 3600), known);
    assert_eq!(rig.carry(&mut other), [News::Granted]);
    other.end(&mut rig.env, rig.now);
    rig.carry(&mut other);
    let mut third =
        Client::new(&mut rig.env, rig.now, AllocationId(3), access(1, 3600), other.credential.clone());
    let Some(Output::Transmit { payload, .. }) = rig.env.pop() else { panic!("nothing is asked") };
    let answers = rig.give(&payload);
    rig.tell(&mut third, &answers[0]);
    assert!(third.is_granted(), "one round trip");
}

#[test]
fn what_is_lost_is_asked_again_and_in_the_end_given_up() {
    for lose in 0..MAX_SENDS as usize {
        let mut rig = Rig::new(RelayLimits::default());
        rig.lose = lose;
        let mut client = rig.client(access(1, 3600));
        let mut news = rig.carry(&mut client);
        news.extend(rig.pass(&mut client, Duration::from_secs(8)));
        assert_eq!(news, [News::Granted], "{lose} lost");
    }
    let mut rig = Rig::new(RelayLimits::default());
    rig.lose = usize::MAX;
    let mut client = rig.client(access(1, 3600));
    assert_eq!(rig.pass(&mut client, Duration::from_secs(7)), []);
    assert_eq!(rig.pass(&mut client, Duration::from_secs(1)), [News::Over { retry: RETRY_SOON }]);
    assert_eq!((client.is_over(), client.deadline()), (true, None));
}

#[test]
fn a_lost_request_delays_no_other_peer() {
    let mut rig = Rig::new(RelayLimits::default());
    let mut client = rig.client(access(1, 3600));
    rig.carry(&mut client);
    let (slow, quick) = (addr("20.0.7.1:1"), addr("20.0.7.2:1"));
    rig.lose_about = Some(slow);
    client.bind(&mut rig.env, rig.now, slow);
    client.bind(&mut rig.env, rig.now, quick);
    assert_eq!(rig.carry(&mut client), [News::Bound { remote: quick }], "within one round trip");
    assert_eq!((client.channel(slow), client.channel(quick)), (None, Some(0x4001)));
    client.send(&mut rig.env, rig.now, quick, b"data");
    rig.carry(&mut client);
    assert_eq!(rig.relayed, [(quick, b"data".to_vec())]);
    rig.lose_about = None;
    assert_eq!(rig.pass(&mut client, 200 * MS), [News::Bound { remote: slow }]);
}

/// Only who holds the key can answer, but for a challenge; and nobody can answer twice.
#[test]
fn forged_repeated_and_late_answers_change_nothing() {
    let mut rig = Rig::new(RelayLimits::default());
    let mut client = rig.client(access(1, 3600));
    rig.carry(&mut client);
    let peer = addr("20.0.7.1:1");
    client.bind(&mut rig.env, rig.now, peer);
    let Some(Output::Transmit { payload, .. }) = rig.env.pop() else { panic!("nothing is asked") };
    let real = rig.give(&payload).remove(0);
    let id = Datagram::parse(&payload).unwrap().id();
    for forged in [
        stun::testing::answer(id, meetpoint_stun::message::CHANNEL_BIND, None),
        stun::testing::answer(id, meetpoint_stun::message::CHANNEL_BIND, Some(437)),
        stun::testing::answer(id, meetpoint_stun::message::CHANNEL_BIND, Some(401)),
        [&real[..real.len() - 1], &[real[real.len() - 1] ^ 1]].concat(),
    ] {
        assert!(rig.tell(&mut client, &forged), "it is about a request of ours");
        assert_eq!((client.channel(peer), client.poll_news(), rig.unsent()), (None, None, 0));
    }
    assert!(rig.tell(&mut client, &real));
    assert_eq!(client.poll_news(), Some(News::Bound { remote: peer }));
    assert!(!rig.tell(&mut client, &real), "a repeated answer is about nothing");
    client.end(&mut rig.env, rig.now);
    rig.carry(&mut client);
    assert!(!rig.tell(&mut client, &real), "and so is a late one");
}

#[test]
fn an_old_allocation_of_ones_own_is_cleared_away() {
    let mut rig = Rig::new(RelayLimits::default());
    let mut old = rig.client(access(1, 3600));
    rig.carry(&mut old);
    let mut client = rig.client(access(1, 4600));
    assert_eq!(rig.carry(&mut client), [News::Granted]);
    assert_eq!(rig.allocations(), 1);
    // One of another session is not ours to end.
    let mut other = rig.client(access(2, 3600));
    assert_eq!(rig.carry(&mut other), [News::Over { retry: RETRY_MISMATCH }]);
    assert_eq!(rig.allocations(), 1);
}

#[test]
fn what_the_server_refuses_is_tried_later() {
    let quota = RelayLimits { allocations_per_user: 1, ..RelayLimits::default() };
    let full = RelayLimits { allocations: 1, ..RelayLimits::default() };
    for (limits, second_session, retry) in [(quota, 1, RETRY_QUOTA), (full, 2, RETRY_SOON)] {
        let mut rig = Rig::new(limits);
        let mut first = rig.client(access(1, 3600));
        rig.carry(&mut first);
        rig.source = addr("20.0.9.1:40001");
        let mut second = rig.client(access(second_session, 3600));
        let news = rig.carry(&mut second);
        assert_eq!(news, [News::Over { retry }]);
    }
}

/// Hours: nonces, permissions, channels and the allocation itself run out and are renewed, and so is the credential.
#[test]
fn it_lasts_for_as_long_as_it_is_used() {
    let mut rig = Rig::new(RelayLimits::default());
    let mut client = rig.client(access(1, 86_400));
    rig.carry(&mut client);
    let (used, idle) = (addr("20.0.7.1:1"), addr("20.0.7.2:1"));
    client.bind(&mut rig.env, rig.now, used);
    client.bind(&mut rig.env, rig.now, idle);
    rig.carry(&mut client);
    let mut forgotten = Vec::new();
    for minute in 0..240 {
        client.send(&mut rig.env, rig.now, used, b"consent");
        rig.carry(&mut client);
        forgotten.extend(rig.pass(&mut client, Duration::from_secs(60)));
        assert_eq!(rig.relayed.len(), minute + 1, "minute {minute}");
        if minute == 100 {
            let Access { username, password, .. } = access(1, 90_000);
            client.renew(&username, &password);
        }
    }
    assert_eq!(forgotten, [News::Forgotten { remote: idle }]);
    assert_eq!((client.channel(used), client.channel(idle)), (Some(0x4000), None));
    // For ten minutes a server gives a peer no other channel than the one it had.
    let late = addr("20.0.7.3:1");
    client.bind(&mut rig.env, rig.now, late);
    rig.carry(&mut client);
    let number = client.channel(late).expect("a channel");
    let forgotten = rig.pass(&mut client, Duration::from_secs(250));
    assert!(forgotten.contains(&News::Forgotten { remote: late }), "{forgotten:?}");
    client.bind(&mut rig.env, rig.now, addr("20.0.7.4:1"));
    client.bind(&mut rig.env, rig.now, late);
    rig.carry(&mut client);
    assert_eq!(client.channel(late), Some(number));
    client.end(&mut rig.env, rig.now);
    rig.carry(&mut client);
    assert_eq!((rig.allocations(), client.is_over()), (0, true), "given back, not left to expire");
}

/// RFC 8016: peers and channels stay, however the client learns that it is elsewhere.
#[test]
fn an_allocation_follows_the_node() {
    let mut rig = Rig::new(RelayLimits::default());
    let mut client = rig.client(access(1, 3600));
    rig.carry(&mut client);
    let (peer, other) = (addr("20.0.7.1:1"), addr("20.0.7.2:1"));
    client.bind(&mut rig.env, rig.now, peer);
    rig.carry(&mut client);
    let (relayed, channel) = (client.relayed().collect::<Vec<_>>(), client.channel(peer));
    for (port, lose) in [(40_001, 0), (40_002, 1), (40_003, 3)] {
        rig.source.set_port(port);
        rig.lose = lose;
        client.moved(&mut rig.env, rig.now, None, true);
        let mut news = rig.carry(&mut client);
        news.extend(rig.pass(&mut client, Duration::from_secs(2)));
        assert_eq!(news, [News::Followed], "{lose} lost");
        client.send(&mut rig.env, rig.now, peer, b"data");
        rig.carry(&mut client);
        assert_eq!(rig.relayed.pop(), Some((peer, b"data".to_vec())));
    }
    // Whichever request tells.
    rig.source.set_port(40_004);
    client.bind(&mut rig.env, rig.now, other);
    assert_eq!(rig.carry(&mut client), [News::Followed]);
    assert_eq!(rig.pass(&mut client, FIRST_RTO), [News::Bound { remote: other }]);
    rig.source.set_port(40_005);
    let mut news = Vec::new();
    for _ in 0..LIFETIME.as_secs() / 120 {
        client.send(&mut rig.env, rig.now, peer, b"consent");
        news.extend(rig.pass(&mut client, Duration::from_secs(60)));
    }
    assert!(news.contains(&News::Followed), "a Refresh");
    assert_eq!((rig.allocations(), client.relayed().collect::<Vec<_>>()), (1, relayed));
    assert_eq!(client.channel(peer), channel);
    // What is not needed stays where it was, and so it does with a server that gives no tickets.
    rig.source.set_port(40_006);
    client.moved(&mut rig.env, rig.now, None, false);
    assert_eq!(rig.carry(&mut client), [News::Over { retry: RETRY_SOON }]);
}

/// What is asked for over a stream asks for no ticket.
#[test]
fn a_stream_has_no_ticket() {
    let mut rig = Rig::new(RelayLimits::default());
    for (socket, expect) in [(Socket::Main, true), (Socket::Stream(StreamId(1)), false)] {
        let _client = rig.client(Access { socket, ..access(1, 3600) });
        let Some(Output::Transmit { payload, .. }) = rig.env.pop() else { panic!("nothing is asked") };
        let asked = Datagram::parse(&payload).unwrap();
        assert_eq!(asked.asks_for_ticket(), expect);
    }
}

#[test]
fn tables_are_bounded() {
    let mut rig = Rig::new(RelayLimits::default());
    let mut client = rig.client(access(1, 3600));
    rig.carry(&mut client);
    let peers: BTreeMap<u16, SocketAddr> =
        (0..1000).map(|n| (n, SocketAddr::from(([20, 1, (n >> 8) as u8, n as u8], 1)))).collect();
    for peer in peers.values() {
        client.permit(&mut rig.env, rig.now, &[*peer]);
        client.bind(&mut rig.env, rig.now, *peer);
        client.send(&mut rig.env, rig.now, *peer, b"x");
    }
    assert_eq!((client.peers.len(), client.numbers.len()), (MAX_PEERS, MAX_PEERS));
    assert!(client.transactions.len() <= 2 * MAX_PEERS);
}

/// A client that has answered the challenge of its server and waits for its allocation.
fn asking(rig: &mut Rig, access: Access) -> (Client, TransactionId) {
    let mut client = rig.client(access);
    let request = rig.request().1;
    let challenge = rig.give(&request).remove(0);
    rig.tell(&mut client, &challenge);
    let request = rig.request().1;
    (client, Datagram::parse(&request).unwrap().id())
}

impl Rig {
    /// The next request, and where to.
    fn request(&mut self) -> (SocketAddr, Vec<u8>) {
        match self.env.pop() {
            Some(Output::Transmit { to, payload, .. }) => (to, payload),
            other => panic!("{other:?}"),
        }
    }
}

/// Only to where the welcome allows, and only under our key.
#[test]
fn whoever_is_sent_on_goes_where_he_may() {
    const OTHER: &str = "20.0.0.9:3479";
    let named = || vec![addr(OTHER).ip(), addr(SERVER).ip(), addr("[2a00::1]:1").ip()];
    for (to, others, signed, expect) in [
        (Some(OTHER), named(), true, Some(OTHER)),
        // The same address, another port.
        (Some("20.0.0.1:3479"), named(), true, Some("20.0.0.1:3479")),
        (Some("[::ffff:20.0.0.9]:3479"), named(), true, Some(OTHER)),
        // Nobody who lacks the key sends a client anywhere, nor does he end what it asks for.
        (Some(OTHER), named(), false, None),
        (None, named(), true, None),
        (Some(OTHER), vec![], true, None),
        (Some("30.0.0.1:3478"), named(), true, None),
        (Some("127.0.0.1:3478"), named(), true, None),
        (Some("20.0.0.9:0"), named(), true, None),
        (Some("[2a00::1]:3478"), named(), true, None),
        // Round in a circle.
        (Some(SERVER), named(), true, None),
    ] {
        let mut rig = Rig::new(RelayLimits::default());
        let (mut client, id) = asking(&mut rig, Access { others, ..access(1, 3600) });
        let key = client.credential.as_ref().unwrap().key().clone();
        let answer = stun::testing::redirection(id, to.map(addr), Some(&key).filter(|_| signed));
        assert!(rig.tell(&mut client, &answer));
        match expect {
            Some(expect) => {
                let (to, payload) = rig.request();
                assert_eq!(to, addr(expect));
                let asked = Datagram::parse(&payload).unwrap();
                assert!(asked.id() != id && !asked.verify(&key), "the nonce is the other server's");
                assert_eq!((client.access().server, client.poll_news()), (addr(expect), None));
            }
            None if signed => {
                assert_eq!(client.poll_news(), Some(News::Over { retry: RETRY_LATE }), "{to:?}");
            }
            None => assert_eq!((client.poll_news(), rig.unsent()), (None, 0), "the real answer may come"),
        }
    }
}

/// Servers that send a client round end it soon, and it stays away for as long as the RFC says.
#[test]
fn nobody_is_sent_on_for_ever() {
    let servers = ["20.0.0.2:3478", "20.0.0.3:3478", "20.0.0.4:3478"].map(addr);
    let others: Vec<_> = servers.iter().map(SocketAddr::ip).collect();
    let mut rig = Rig::new(RelayLimits::default());
    let (mut client, mut id) = asking(&mut rig, Access { others, ..access(1, 3600) });
    for (at, to) in servers.into_iter().enumerate() {
        // Each server challenges with a nonce of its own; its key is that of the same user.
        let key = client.credential.as_ref().unwrap().key().clone();
        rig.tell(&mut client, &stun::testing::redirection(id, Some(to), Some(&key)));
        if at == MAX_REDIRECTIONS {
            break;
        }
        let (asked, request) = rig.request();
        assert_eq!(asked, to);
        let challenge = rig.give(&request).remove(0);
        rig.tell(&mut client, &challenge);
        let (asked, request) = rig.request();
        assert_eq!(asked, to);
        id = Datagram::parse(&request).unwrap().id();
    }
    assert_eq!((client.poll_news(), rig.unsent()), (Some(News::Over { retry: RETRY_LATE }), 0));
}

/// The other server grants what was asked, and from then on it is the one. One that is silent is not gone to again
/// soon.
#[test]
fn the_other_server_is_the_one_from_then_on() {
    const OTHER: &str = "20.0.0.9:3478";
    for is_there in [true, false] {
        let mut rig = Rig::new(RelayLimits::default());
        let (mut client, id) = asking(&mut rig, Access { others: vec![addr(OTHER).ip()], ..access(1, 3600) });
        let key = client.credential.as_ref().unwrap().key().clone();
        rig.tell(&mut client, &stun::testing::redirection(id, Some(addr(OTHER)), Some(&key)));
        rig.at = addr(OTHER);
        rig.lose = if is_there { 0 } else { usize::MAX };
        let mut news = rig.carry(&mut client);
        news.extend(rig.pass(&mut client, Duration::from_secs(8)));
        let expect = if is_there { News::Granted } else { News::Over { retry: RETRY_LATE } };
        assert_eq!(news, [expect]);
        if is_there {
            rig.lose = 0;
            client.bind(&mut rig.env, rig.now, addr("20.0.7.1:1"));
            assert_eq!(rig.carry(&mut client), [News::Bound { remote: addr("20.0.7.1:1") }]);
        }
    }
}
