//! Several shards as one server: what is granted is counted once, whichever of them grants it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Barrier;
use std::time::Duration;

use meetpoint_turn::message::{ALLOCATE, CREATE_PERMISSION, REFRESH};
use meetpoint_turn::{
    ByteRate, Config, ConfigError, Holder, Input, Limits, Output, Payload, Rate, RelayIp, ShardId,
    ShardMessage, Shared, StunServer, attr,
};

use crate::common::{CLIENT, PRIMARY_MAIN, Rig, SEED, addr, error, plain, request_with, square, start};
use crate::turn::{
    A, CHANNEL, Client, PEER, Relayed, TurnRig, UDP, data_indication, relayed, to_client, to_peer,
    turn_config,
};

const TRANSPORT: A<'_> = A::Raw(attr::REQUESTED_TRANSPORT, UDP);

/// All shards of a server, and what their shells do. A client is at the shard a test says.
pub(crate) struct Shards {
    pub(crate) shards: Vec<TurnRig>,
    /// Messages between shards are lost.
    pub(crate) is_lossy: bool,
}

pub(crate) fn shards(count: u8, change: impl FnOnce(&mut Config)) -> Shards {
    let (config, now) = (turn_config(change), start());
    let shared = Shared::new(&config, SEED, now, count).expect("a good configuration");
    let shard = |id| {
        let server = StunServer::shard(config.clone(), &shared, ShardId(id)).expect("a shard");
        TurnRig::of(Rig::of(server, now))
    };
    Shards { shards: (0..count).map(shard).collect(), is_lossy: false }
}

impl Shards {
    pub(crate) fn at(&mut self, shard: usize) -> &mut TurnRig {
        &mut self.shards[shard]
    }

    /// Lets time pass, and whatever is due happen. Returns what is sent to clients.
    pub(crate) fn pass(&mut self, time: Duration) -> Vec<Payload> {
        for shard in &mut self.shards {
            shard.rig.pass(time);
            shard.rig.server.handle_timeout(shard.rig.now);
        }
        self.settle()
    }

    /// Does what the shells do until there is nothing more to do, and returns the answers.
    pub(crate) fn settle(&mut self) -> Vec<Payload> {
        let mut answers = vec![];
        while let Some((shard, output)) = self.next_output() {
            match output {
                Output::ToShard { shard, message } => self.tell(shard, message),
                Output::HandOver { id, shard: to, message } => {
                    let socket = self.shards[shard].sockets.remove(&id).expect("a socket");
                    self.hand_over(socket, to, message);
                }
                Output::Transmit { payload, .. } => answers.push(payload),
                other => panic!("{other:?}"),
            }
        }
        let open: Vec<_> = self.shards.iter().flat_map(|shard| shard.sockets.values()).collect();
        assert_eq!(open.iter().collect::<BTreeSet<_>>().len(), open.len(), "no port is open twice");
        answers
    }

    fn next_output(&mut self) -> Option<(usize, Output)> {
        self.shards.iter_mut().enumerate().find_map(|(index, shard)| {
            let output = shard.poll()?;
            Some((index, output))
        })
    }

    fn tell(&mut self, ShardId(to): ShardId, message: ShardMessage) {
        let to = &mut self.shards[usize::from(to)].rig;
        if !self.is_lossy {
            to.server.handle(to.now, Input::FromShard(message));
        }
    }

    fn hand_over(&mut self, socket: SocketAddr, ShardId(to): ShardId, message: ShardMessage) {
        let to = &mut self.shards[usize::from(to)];
        if !self.is_lossy
            && let Some(id) = to.rig.server.adopt(to.rig.now, message)
        {
            assert!(to.sockets.insert(id, socket).is_none(), "{id:?}");
        }
    }

    /// Gives a request after which the first shard hands a socket over, and keeps what comes with it.
    pub(crate) fn hold_hand_over(&mut self, shard: usize, client: &Client, request: &[u8]) -> ShardMessage {
        let rig = &mut self.at(shard).rig;
        let source = addr(&client.source);
        rig.server.handle(rig.now, Input::Datagram { listener: PRIMARY_MAIN, source, payload: request });
        loop {
            match self.next_output().expect("a socket is handed over") {
                (_, Output::ToShard { shard, message }) => self.tell(shard, message),
                (from, Output::HandOver { id, message, .. }) => {
                    self.at(from).sockets.remove(&id);
                    return message;
                }
                (_, other) => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn client(&mut self, shard: usize, user: &str, source: &str) -> Client {
        self.at(shard).client(user, source)
    }

    pub(crate) fn give(&mut self, shard: usize, client: &Client, request: &[u8]) -> Option<Payload> {
        let rig = &mut self.at(shard).rig;
        let source = addr(&client.source);
        rig.server.handle(rig.now, Input::Datagram { listener: PRIMARY_MAIN, source, payload: request });
        let answers = self.settle();
        assert!(answers.len() <= 1);
        answers.into_iter().next()
    }

    pub(crate) fn ask(&mut self, shard: usize, client: &Client, method: u16, what: &[A<'_>]) -> Payload {
        let request = self.at(shard).request(client, method, what);
        self.give(shard, client, &request).expect("an answer")
    }

    fn allocate(&mut self, shard: usize, client: &Client) -> Result<SocketAddr, u16> {
        let answer = self.ask(shard, client, ALLOCATE, &[TRANSPORT]);
        error(&answer).map_or_else(|| Ok(relayed(&answer)[0]), Err)
    }

    /// The counters of all shards, of which `count` is one.
    fn sum(&self, count: impl Fn(&meetpoint_turn::RelayCounters) -> u64) -> u64 {
        self.shards.iter().map(|shard| count(&shard.rig.counters().relay)).sum()
    }

    fn sizes(&self) -> usize {
        self.shards.iter().flat_map(|shard| shard.rig.server.relay_sizes()).sum()
    }
}

/// A spoofer who spreads his packets over all shards gets his victim no more than one of them would
/// send, and the budgets for all are for all.
#[test]
fn a_budget_is_one_for_all_shards() {
    let mut shards = shards(4, |config| {
        config.listeners = square();
        config.limits = Limits {
            source: Rate::new(10, 25),
            amplified: Rate::new(1, 7),
            redirected: Rate::new(1, 5),
            ..config.limits
        };
    });
    let mut answered = |source: &dyn Fn(usize) -> String, question: &[u8]| {
        let mut answers = vec![];
        for packet in 0..100 {
            let rig = &mut shards.at(packet % 4).rig;
            for output in rig.give(PRIMARY_MAIN, &source(packet), question) {
                let Output::Transmit { payload, .. } = output else { panic!("{output:?}") };
                answers.push(payload.len());
            }
        }
        shards.pass(Duration::from_secs(1));
        answers
    };
    let victim = |packet| format!("20.0.1.1:{}", packet + 1);
    let many = |packet| format!("20.0.2.{}:9", packet + 1);
    let answers = answered(&victim, &plain());
    assert_eq!((answers.len(), answers.iter().filter(|len| **len > 32).count()), (25, 7));
    assert_eq!(answered(&victim, &plain()).len(), 10);
    let elsewhere = request_with(&[(attr::CHANGE_REQUEST, &[0, 0, 0, 6])]);
    assert_eq!(answered(&many, &elsewhere).len(), 5);
}

/// Each limit holds over all shards, exactly, and what is given back at one may be had at another.
#[test]
fn quotas_are_counted_over_all_shards() {
    let check = |user: fn(usize) -> String, source: fn(usize) -> String, granted: usize, code: u16| {
        let mut shards = shards(3, |config| {
            config.limits.relay.allocations_per_user = 4;
            config.limits.relay.allocations_per_source = 6;
            config.limits.relay.allocations = 10;
        });
        let clients: Vec<_> = (0..20).map(|n| shards.client(n % 3, &user(n), &source(n))).collect();
        let mut held = vec![];
        for (n, client) in clients.iter().enumerate() {
            match shards.allocate(n % 3, client) {
                Ok(_) => held.push(n),
                Err(got) => assert_eq!(got, code),
            }
        }
        assert_eq!(held.len(), granted);
        let refused = |shards: &Shards| {
            shards.sum(|relay| {
                let refused = relay.refused;
                refused.allocations_per_user + refused.allocations_per_source + refused.allocations
            })
        };
        assert_eq!(refused(&shards), 20 - granted as u64);
        let (first, late) = (held[0], (0..20).rev().find(|n| n % 3 != held[0] % 3).expect("another"));
        assert_eq!(error(&shards.ask(first % 3, &clients[first], REFRESH, &[END])), None);
        assert!(shards.allocate(late % 3, &clients[late]).is_ok());
        assert_eq!(shards.allocate(first % 3, &clients[first]), Err(code));
    };
    let many = |n| format!("user{n}");
    let everywhere = |n| format!("20.0.1.{}:9", n + 1);
    check(|_| "mallory".to_owned(), everywhere, 4, 486);
    check(many, |n| format!("20.0.1.1:{}", 1000 + n), 6, 486);
    check(many, |n| format!("[2a00:1:2:3::{n:x}]:9"), 6, 486);
    check(many, everywhere, 10, 508);
}

const END: A<'_> = A::Raw(attr::LIFETIME, &[0; 4]);

/// Permissions and channels have bounds in all, and what has run out is given back.
#[test]
fn permissions_and_channels_are_counted_over_all_shards() {
    let mut shards = shards(2, |config| {
        config.limits.relay.permissions_total = 5;
        config.limits.relay.channels_total = 3;
    });
    let clients = [shards.client(0, "alice", CLIENT), shards.client(1, "bob", "20.0.1.2:9")];
    for (shard, client) in clients.iter().enumerate() {
        shards.allocate(shard, client).expect("an allocation");
        for channel in 0..2 {
            let code = shards.at(shard).bind(client, CHANNEL + channel, &format!("30.0.0.{channel}:1"));
            assert_eq!(code, (shard == 1 && channel == 1).then_some(508));
        }
    }
    let three = ["30.0.0.7:1", "30.0.0.8:1", "30.0.0.9:1"].map(A::Peer);
    assert_eq!(shards.at(1).code(&clients[1], CREATE_PERMISSION, &three), Some(508), "all or none");
    assert_eq!(shards.at(1).code(&clients[1], CREATE_PERMISSION, &three[..2]), None);
    assert_eq!(shards.at(0).permit(&clients[0], "30.0.0.9:1"), Some(508));
    assert_eq!(shards.at(0).permit(&clients[0], "30.0.0.1:9"), None, "renewed");
    assert_eq!(shards.sum(|relay| relay.refused.permissions), 2);
    assert_eq!(shards.sum(|relay| relay.refused.channels), 1);

    assert_eq!(error(&shards.ask(0, &clients[0], REFRESH, &[END])), None);
    assert_eq!(shards.at(1).bind(&clients[1], CHANNEL + 1, "30.0.0.1:1"), None);
    assert_eq!(shards.at(1).code(&clients[1], CREATE_PERMISSION, &three), None);
    shards.pass(Duration::from_secs(300));
    let peers = [1, 2, 3, 4, 5].map(|n| format!("30.0.1.{n}:1"));
    let client = shards.client(1, "bob", "20.0.1.2:9");
    let peers = [0, 1, 2, 3, 4].map(|n| A::Peer(&peers[n]));
    assert_eq!(shards.at(1).code(&client, CREATE_PERMISSION, &peers), None);
}

/// Bytes of a user, of a source and of the server are bounded whichever shards relay them.
#[test]
fn bytes_are_counted_over_all_shards() {
    type Limit = fn(&mut meetpoint_turn::RelayLimits) -> &mut ByteRate;
    type Count = fn(&meetpoint_turn::RelayDropCounters) -> u64;
    let check = |limit: Limit, count: Count, users: [&str; 2], sources: [&str; 2]| {
        let mut shards = shards(2, |config| {
            *limit(&mut config.limits.relay) = ByteRate::new(1000, 3000);
        });
        let clients = [0, 1].map(|n| shards.client(n, users[n], sources[n]));
        let mut relayed = vec![];
        for (shard, client) in clients.iter().enumerate() {
            relayed.push(shards.allocate(shard, client).expect("an allocation"));
            assert_eq!(shards.at(shard).bind(client, CHANNEL, PEER), None);
        }
        let mut passed = |time_s| {
            shards.pass(Duration::from_secs(time_s));
            let sent = (0..20).filter(|n| {
                let (shard, data) = (n % 2, [7; 500]);
                let there = shards.at(shard).channel(&clients[shard], CHANNEL, &data).is_some();
                there || shards.at(shard).arrive(relayed[shard], PEER, &data).is_some()
            });
            sent.count()
        };
        assert_eq!([passed(0), passed(1), passed(100)], [6, 2, 6]);
        assert_eq!(shards.sum(|relay| count(&relay.dropped)), 2 * (14 + 18 + 14));
        assert_eq!(shards.sum(|relay| relay.dropped.rate), 0);
    };
    let (users, sources) = (["alice", "bob"], [CLIENT, "20.0.1.2:9"]);
    check(|limits| &mut limits.rate_per_user, |dropped| dropped.rate_per_user, ["alice"; 2], sources);
    let one = ["20.0.1.1:1", "20.0.1.1:2"];
    check(|limits| &mut limits.rate_per_source, |dropped| dropped.rate_per_source, users, one);
    check(|limits| &mut limits.rate_total, |dropped| dropped.rate_total, users, sources);
}

/// What a spent source refuses is not taken from its user, who goes on from elsewhere.
#[test]
fn a_spent_source_costs_its_user_nothing() {
    let mut shards = shards(2, |config| {
        config.limits.relay.rate_per_user = ByteRate::new(1000, 2000);
        config.limits.relay.rate_per_source = ByteRate::new(1000, 1000);
    });
    for (shard, source) in [CLIENT, "20.0.1.2:9"].into_iter().enumerate() {
        let client = shards.client(shard, "alice", source);
        shards.allocate(shard, &client).expect("an allocation");
        assert_eq!(shards.at(shard).bind(&client, CHANNEL, PEER), None);
        let sent = (0..20).filter(|_| shards.at(shard).channel(&client, CHANNEL, &[7; 500]).is_some());
        assert_eq!(sent.count(), 2, "shard {shard}");
    }
}

/// Who ends his allocation and begins another has no more to spend for it; who waits has.
#[test]
fn a_new_allocation_is_no_new_rate() {
    let check = |users: [&str; 2], sources: [&str; 2], pass_s: u64, expected: usize| {
        let mut shards = shards(2, |config| {
            config.limits.relay.rate_per_user = ByteRate::new(1000, 2000);
            config.limits.relay.rate_per_source = ByteRate::new(1000, 3000);
        });
        let mut sent = 0;
        for shard in 0..2 {
            let client = shards.client(shard, users[shard], sources[shard]);
            shards.allocate(shard, &client).expect("an allocation");
            assert_eq!(shards.at(shard).bind(&client, CHANNEL, PEER), None);
            let packets = (0..20).filter(|_| shards.at(shard).channel(&client, CHANNEL, &[7; 500]).is_some());
            sent += packets.count();
            assert_eq!(error(&shards.ask(shard, &client, REFRESH, &[END])), None);
            shards.pass(Duration::from_secs(pass_s));
        }
        assert_eq!(sent, expected, "{users:?} {sources:?} {pass_s}");
    };
    let (one, two) = (["20.0.1.1:1", "20.0.1.1:2"], [CLIENT, "20.0.1.2:9"]);
    check(["alice", "alice"], two, 0, 4);
    check(["alice", "alice"], two, 1, 6);
    check(["alice", "alice"], two, 100, 8);
    check(["alice", "bob"], one, 0, 6);
    check(["alice", "bob"], two, 0, 8);
}

/// What is bought in advance is the most by which a rate is exceeded.
#[test]
fn a_large_rate_holds_within_what_is_bought_in_advance() {
    const BURST: usize = 1_000_000;
    const ALLOCATIONS: usize = 8;
    let mut shards = shards(2, |config| {
        config.limits.relay.rate_per_user = ByteRate::new(1, BURST as u64);
    });
    let clients: Vec<_> = (0..ALLOCATIONS)
        .map(|n| {
            let client = shards.client(n % 2, "alice", &format!("20.0.1.{}:9", n + 1));
            shards.allocate(n % 2, &client).expect("an allocation");
            assert_eq!(shards.at(n % 2).bind(&client, CHANNEL, PEER), None);
            client
        })
        .collect();
    let mut sent = |time_s| {
        shards.pass(Duration::from_secs(time_s));
        let is_sent = |n: &usize| {
            let (n, data) = (n % ALLOCATIONS, [7; 1000]);
            shards.at(n % 2).channel(&clients[n], CHANNEL, &data).is_some()
        };
        (0..2000).filter(is_sent).count() * 1000
    };
    let first = sent(0);
    assert!((BURST - ALLOCATIONS * 1000..=BURST).contains(&first), "{first}");
    assert!(sent(1) <= ALLOCATIONS * 16 * 1024);
}

/// A small range is used to its end by whoever comes, and again when it is given back.
#[test]
fn all_shards_draw_from_one_range() {
    let mut shards = shards(3, |config| {
        let relay = config.relay.as_mut().expect("a relay");
        relay.ports = Some(50_000..=50_009);
        relay.own_listeners = vec![addr("0.0.0.0:50003"), addr("0.0.0.0:50003"), addr("0.0.0.0:50007")];
    });
    // Nobody is at the third one.
    let clients: Vec<_> =
        (0..9).map(|n| shards.client(n % 2, &format!("user{n}"), &format!("20.0.1.{}:9", n + 1))).collect();
    let ports: BTreeSet<_> =
        (0..8).map(|n| shards.allocate(n % 2, &clients[n]).expect("a port").port()).collect();
    assert_eq!(
        ports.into_iter().collect::<Vec<_>>(),
        [50_000, 50_001, 50_002, 50_004, 50_005, 50_006, 50_008, 50_009]
    );
    assert_eq!(shards.allocate(0, &clients[8]), Err(508));
    assert_eq!(shards.sum(|relay| relay.refused.ports), 1);
    assert_eq!(error(&shards.ask(1, &clients[3], REFRESH, &[END])), None);
    assert!(shards.allocate(0, &clients[8]).is_ok());

    // A pair needs two that are next to each other; what is tried is given back.
    let reserve = [TRANSPORT, A::Raw(attr::EVEN_PORT, &[0x80])];
    assert_eq!(error(&shards.ask(1, &clients[3], ALLOCATE, &reserve)), Some(508));
    for n in [0, 1, 2, 4, 5, 6, 7, 8] {
        let shard = if n == 8 { 0 } else { n % 2 };
        assert_eq!(error(&shards.ask(shard, &clients[n], REFRESH, &[END])), None);
    }
    let pairs: BTreeSet<_> =
        (0..3).map(|n| relayed(&shards.ask(n % 2, &clients[n], ALLOCATE, &reserve))[0].port()).collect();
    assert_eq!(pairs.into_iter().collect::<Vec<_>>(), [50_000, 50_004, 50_008]);
}

/// A port is nobody's before the socket on it is closed: the shell says so by asking for more.
#[test]
fn a_port_is_free_when_its_socket_is_closed() {
    let mut shards = shards(2, |config| {
        config.relay.as_mut().expect("a relay").ports = Some(50_000..=50_000);
    });
    let clients = [shards.client(0, "alice", CLIENT), shards.client(1, "bob", "20.0.1.2:9")];
    shards.allocate(0, &clients[0]).expect("the port");
    let end = shards.at(0).request(&clients[0], REFRESH, &[END]);
    let (rig, source) = (&mut shards.at(0).rig, addr(CLIENT));
    rig.server.handle(rig.now, Input::Datagram { listener: PRIMARY_MAIN, source, payload: &end });
    let Some(Output::CloseRelay { id }) = rig.server.poll_output() else { panic!("no order to close") };
    let allocate = shards.at(1).request(&clients[1], ALLOCATE, &[TRANSPORT]);
    let answer = shards.at(1).give("20.0.1.2:9", &allocate).expect("an answer");
    assert_eq!(error(&answer), Some(508));
    shards.at(0).sockets.remove(&id);
    shards.settle();
    assert!(shards.allocate(1, &clients[1]).is_ok());
}

/// Two clients of one server at different shards: if both agreed, to exactly that address, in both
/// directions, and within the rates of both.
#[test]
fn clients_of_two_shards_reach_each_other_inside() {
    let check = |here: bool, there: bool| {
        let mut shards = shards(2, |_| {});
        let alice = shards.client(0, "alice", CLIENT);
        let bob = shards.client(1, "bob", "20.0.1.2:9");
        let eve = shards.client(0, "eve", "20.0.1.3:9");
        let [at_alice, at_bob] = [(0, &alice), (1, &bob)].map(|(n, c)| shards.allocate(n, c).expect("one"));
        shards.allocate(0, &eve).expect("one");
        let [alices, bobs] = [at_alice, at_bob].map(|at| at.to_string());
        if here {
            assert_eq!(shards.at(0).bind(&alice, CHANNEL, &bobs), None);
        }
        if there {
            assert_eq!(shards.at(1).permit(&bob, &alices), None);
        }
        assert_eq!(shards.at(0).permit(&eve, &bobs), None);
        let sent = shards.at(0).channel(&alice, CHANNEL, b"hello");
        let (shard, payload) = (ShardId(1), b"hello".to_vec());
        let across = Relayed::Across { shard, from: at_alice, holder: Holder::Other, to: at_bob, payload };
        assert_eq!(sent, here.then_some(across));
        let arrived = sent.and_then(|sent| shards.at(1).across(&sent));
        assert_eq!(data_indication(arrived), (here && there).then(|| (at_alice, b"hello".to_vec())));
        // Bob's permission for one client of this server is none for another.
        let sent = shards.at(0).send(&eve, &bobs, b"hello").expect("a permission of her own");
        assert_eq!(shards.at(1).across(&sent), None);
        assert_eq!(shards.sum(|relay| relay.inside.packets), u64::from(here && there));
        let answered = shards.at(1).send(&bob, &alices, b"hi");
        assert_eq!(answered.is_some(), there);
        let arrived = answered.and_then(|sent| shards.at(0).across(&sent));
        let datagram = crate::turn::channel_data(CHANNEL, b"hi");
        assert_eq!(arrived, if here && there { to_client(CLIENT, &datagram) } else { None });
    };
    check(true, true);
    check(true, false);
    check(false, true);
}

#[test]
fn what_goes_to_no_client_is_dropped_at_either_end() {
    let mut shards = shards(2, |config| {
        config.relay.as_mut().expect("a relay").ports = Some(50_000..=50_003);
        config.limits.relay.rate = ByteRate::new(1, 10);
    });
    let alice = shards.client(0, "alice", CLIENT);
    let bob = shards.client(1, "bob", "20.0.1.2:9");
    let [at_alice, at_bob] = [(0, &alice), (1, &bob)].map(|(n, c)| shards.allocate(n, c).expect("one"));
    let nobody = (50_000..=50_003).find(|port| ![at_alice.port(), at_bob.port()].contains(port));
    let nobody = SocketAddr::new(at_alice.ip(), nobody.expect("four are more than two"));
    for at in [at_bob, nobody] {
        assert_eq!(shards.at(0).permit(&alice, &at.to_string()), None);
    }
    assert_eq!(shards.at(1).permit(&bob, &at_alice.to_string()), None);
    assert_eq!(shards.at(0).send(&alice, &nobody.to_string(), b"x"), None);
    assert_eq!(shards.at(0).rig.counters().relay.dropped.no_allocation, 1);
    // The rate of the sender, at his shard; that of the receiver, at his.
    let sent = shards.at(0).send(&alice, &at_bob.to_string(), b"sixsix").expect("within the rate");
    assert_eq!(shards.at(0).send(&alice, &at_bob.to_string(), b"sixsix"), None);
    assert!(shards.at(1).across(&sent).is_some());
    assert_eq!(shards.at(1).across(&sent), None);
    assert_eq!([0, 1].map(|n| shards.at(n).rig.counters().relay.dropped.rate), [1, 1]);
    // On its way the receiver's allocation ended.
    assert_eq!(error(&shards.ask(1, &bob, REFRESH, &[END])), None);
    assert_eq!(shards.at(1).across(&sent), None);
    assert_eq!(shards.at(1).rig.counters().relay.dropped.no_allocation, 1);
}

/// Behind a 1:1 NAT relayed addresses are known by the outer address alone.
#[test]
fn the_inner_address_is_nobodys_at_another_shard_either() {
    let mut shards = shards(2, |config| {
        let relay = config.relay.as_mut().expect("a relay");
        relay.ipv4 = Some(RelayIp { bind: addr("10.0.0.9:1").ip(), seen: addr("20.0.0.9:1").ip() });
        relay.allow = vec!["10.0.0.0/8".parse().expect("a block")];
    });
    let alice = shards.client(0, "alice", CLIENT);
    let bob = shards.client(1, "bob", "20.0.1.2:9");
    let [at_alice, at_bob] = [(0, &alice), (1, &bob)].map(|(n, c)| shards.allocate(n, c).expect("one"));
    assert_eq!(shards.at(1).permit(&bob, &at_alice.to_string()), None);
    for (ip, is_relayed) in [("20.0.0.9", true), ("10.0.0.9", false)] {
        let peer = format!("{ip}:{}", at_bob.port());
        assert_eq!(shards.at(0).permit(&alice, &peer), None);
        assert_eq!(shards.at(0).send(&alice, &peer, b"x").is_some(), is_relayed);
    }
}

/// A shell that has only inputs and outputs carries packets between shards as well.
#[test]
fn outputs_alone_carry_packets_across() {
    let mut shards = shards(2, |_| {});
    let alice = shards.client(0, "alice", CLIENT);
    let bob = shards.client(1, "bob", "20.0.1.2:9");
    let [at_alice, at_bob] = [(0, &alice), (1, &bob)].map(|(n, c)| shards.allocate(n, c).expect("one"));
    assert_eq!(shards.at(0).bind(&alice, CHANNEL, &at_bob.to_string()), None);
    assert_eq!(shards.at(1).bind(&bob, CHANNEL, &at_alice.to_string()), None);
    let datagram = crate::turn::channel_data(CHANNEL, b"hello");
    let arrived = shards.give(0, &alice, &datagram).expect("a datagram");
    assert_eq!(*arrived, datagram);
}

/// An operator's question names the shard.
#[test]
fn a_session_knows_its_shard() {
    let mut shards = shards(3, |_| {});
    let client = shards.client(2, "alice", CLIENT);
    shards.allocate(2, &client).expect("an allocation");
    let now = shards.at(2).rig.now;
    let session = shards.at(2).rig.server.sessions(now).next().expect("one").id;
    let session = meetpoint_turn::SessionId::from_number(session.number());
    assert_eq!(session.shard(), ShardId(2));
    for (shard, ended) in [(0, 0), (1, 0), (2, 1), (2, 1)] {
        shards.at(shard).rig.server.handle(now, Input::EndSession(session));
        assert_eq!(shards.settle().len(), 0);
        assert_eq!(shards.sum(|relay| relay.ended), ended);
    }
    assert_eq!(shards.sizes(), 0);
}

/// A million sources that do not exist, spread over all shards: nothing grows.
#[test]
fn a_flood_over_all_shards_is_not_remembered() {
    const PACKETS: u32 = 1_000_000;
    let mut shards = shards(4, |_| {});
    let allocate = shards.client(0, "mallory", "20.0.6.6:6");
    let allocate = shards.at(0).request(&allocate, ALLOCATE, &[TRANSPORT]);
    let questions: [&[u8]; 4] = [&plain(), &allocate, &[0xFF; 64], &[0x40, 0, 0, 4, 1, 2, 3, 4]];
    let grown = allocation_counter::measure(|| {
        for packet in 0..PACKETS {
            let ip = Ipv4Addr::from_bits(0x3000_0000 + packet.wrapping_mul(0x9E37_79B1) % 0x1000_0000);
            let rig = &mut shards.shards[packet as usize / 4 % 4].rig;
            let payload = questions[packet as usize % 4];
            rig.server
                .handle(rig.now, Input::Datagram { listener: PRIMARY_MAIN, source: (ip, 9).into(), payload });
            while rig.server.poll_output().is_some() {}
            rig.now += Duration::from_micros(4 * 33);
        }
    });
    assert_eq!((grown.bytes_current, grown.bytes_max), (0, 0), "nothing was allocated");
    assert_eq!(shards.sizes(), 0);
}

/// The same at once on as many threads: no limit gives way to a race.
#[test]
fn limits_hold_among_threads() {
    const THREADS: u8 = 4;
    const ANSWERS: usize = 50_000;
    let barrier = &Barrier::new(THREADS.into());
    let mut shards = shards(THREADS, |config| {
        config.relay.as_mut().expect("a relay").ports = Some(50_000..=50_047);
        config.limits.source = Rate::new(1, ANSWERS as u32);
        config.limits.relay.allocations_per_user = 30;
        config.limits.relay.rate_per_user = ByteRate::new(1, 64_000);
    });
    let totals = std::thread::scope(|scope| {
        let run = move |(id, shard): (usize, &mut TurnRig)| {
            barrier.wait();
            let answered: usize =
                (0..ANSWERS).map(|_| shard.rig.give(PRIMARY_MAIN, "20.0.7.7:7", &plain()).len()).sum();
            let mut granted = [0, 0];
            let mut bytes = 0;
            for n in 0..40 {
                for (user, granted) in ["alice", "bob"].into_iter().zip(&mut granted) {
                    let client = shard.client(user, &format!("20.{id}.{n}.{}:9", user.len()));
                    if shard.code(&client, ALLOCATE, &[TRANSPORT]).is_none() {
                        *granted += 1;
                        assert_eq!(shard.bind(&client, CHANNEL, PEER), None);
                        let sent = (0..10).filter(|_| shard.channel(&client, CHANNEL, &[7; 500]).is_some());
                        bytes += sent.count() * 500;
                    }
                }
            }
            [answered, granted[0], granted[1], bytes]
        };
        let threads: Vec<_> =
            shards.shards.iter_mut().enumerate().map(|each| scope.spawn(move || run(each))).collect();
        let results = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        results.fold([0; 4], |all, one| std::array::from_fn(|n| all[n] + one[n]))
    });
    let [answered, alices, bobs, bytes] = totals;
    // The two rows of the table are charged one after the other: a thread in between may see one
    // answer left in either.
    assert!((ANSWERS..ANSWERS + usize::from(THREADS)).contains(&answered), "{answered}");
    assert!(alices <= 30 && bobs <= 30 && alices + bobs == 48, "{alices} {bobs}");
    assert!(bytes <= 2 * 64_000 && bytes > 64_000, "{bytes}");
    shards.settle();
    let ports: BTreeSet<_> = shards.shards.iter().flat_map(|shard| shard.sockets.values()).collect();
    assert_eq!(ports.len(), 48);
}

#[test]
fn a_server_has_its_shards_and_no_others() {
    let config = turn_config(|_| {});
    let shared = |count| Shared::new(&config, SEED, start(), count);
    assert_eq!(shared(0).err(), Some(ConfigError::Shards));
    assert_eq!(shared(255).err(), Some(ConfigError::Shards));
    let shared = shared(254).expect("the most there may be");
    let check = |id: u8, change: fn(&mut Config), expected: Option<ConfigError>| {
        let got = StunServer::shard(turn_config(change), &shared, ShardId(id)).err();
        assert_eq!(got, expected);
    };
    check(253, |_| {}, None);
    check(254, |_| {}, Some(ConfigError::Shards));
    check(0, |config| config.limits.source_slots = 1, Some(ConfigError::Shards));
    check(0, |config| config.relay = None, Some(ConfigError::Shards));
    let ports = |config: &mut Config| config.relay.as_mut().expect("a relay").ports = None;
    check(0, ports, Some(ConfigError::Shards));
}

/// What a shell moves between threads can be moved.
#[test]
fn shards_and_their_messages_cross_threads() {
    const fn can_move<T: Send>() {}
    const fn can_be_shared<T: Sync>() {}
    can_move::<StunServer>();
    can_move::<ShardMessage>();
    can_move::<Output>();
    can_be_shared::<Shared>();
}

/// A packet between a client and an outside peer concerns its shard alone.
#[test]
fn peers_are_relayed_to_by_the_clients_shard() {
    let mut shards = shards(2, |_| {});
    let client = shards.client(1, "alice", CLIENT);
    let at = shards.allocate(1, &client).expect("an allocation");
    assert_eq!(shards.at(1).bind(&client, CHANNEL, PEER), None);
    assert_eq!(shards.at(1).channel(&client, CHANNEL, b"x"), to_peer(at, PEER, b"x"));
    assert_eq!(shards.at(0).channel(&client, CHANNEL, b"x"), None);
}
