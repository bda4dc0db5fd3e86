//! Whatever clients, lost messages, broken ports and time do among several shards: no port is held
//! twice or leaks, no quota is exceeded, and everything comes to rest.

use std::time::Duration;

use meetpoint_turn::message::{ALLOCATE, REFRESH};
use meetpoint_turn::{Rate, attr};
use proptest::prelude::*;

use crate::common::{addr, error, raw};
use crate::shards::{Shards, shards};
use crate::turn::{A, Client, UDP};

const SHARDS: usize = 3;
const CLIENTS: usize = 9;
const PORTS: usize = 6;
const PER_USER: usize = 2;
const TRANSPORT: A<'_> = A::Raw(attr::REQUESTED_TRANSPORT, UDP);

#[derive(Debug, Clone)]
enum Step {
    Allocate(usize),
    Reserve(usize),
    /// The token that was told last, or another.
    Redeem(usize, Option<u8>),
    End(usize),
    Lossy(bool),
    Break(Option<u16>),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        3 => client.clone().prop_map(Step::Allocate),
        3 => client.clone().prop_map(Step::Reserve),
        4 => (client.clone(), proptest::option::weighted(0.2, any::<u8>())).prop_map(|(c, t)| Step::Redeem(c, t)),
        2 => client.prop_map(Step::End),
        1 => any::<bool>().prop_map(Step::Lossy),
        1 => proptest::option::of(50_000..50_000 + PORTS as u16).prop_map(Step::Break),
        2 => prop_oneof![0..7_u64, 0..900_u64].prop_map(Step::Pass),
    ]
}

struct World {
    shards: Shards,
    token: Vec<u8>,
    was_lossy: bool,
}

impl World {
    /// Three users, each at every shard.
    fn client(&mut self, index: usize) -> Client {
        self.shards.client(
            index % SHARDS,
            &format!("user{}", index / SHARDS),
            &format!("20.0.1.{}:9", index + 1),
        )
    }

    /// Sends a request, whose answer may be that there is none yet.
    fn ask(&mut self, index: usize, method: u16, attributes: &[A<'_>]) {
        let client = self.client(index);
        let shard = index % SHARDS;
        let request = self.shards.at(shard).request(&client, method, attributes);
        let Some(answer) = self.shards.give(shard, &client, &request) else { return };
        assert!(matches!(error(&answer), None | Some(437 | 486 | 508)), "{:?}", error(&answer));
        if let Some(token) = raw(&answer, attr::RESERVATION_TOKEN) {
            self.token = token;
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Allocate(index) => self.ask(*index, ALLOCATE, &[TRANSPORT]),
            Step::Reserve(index) => {
                self.ask(*index, ALLOCATE, &[TRANSPORT, A::Raw(attr::EVEN_PORT, &[0x80])]);
            }
            Step::Redeem(index, other) => {
                let token = other.map_or(self.token.clone(), |byte| vec![byte; 8]);
                self.ask(*index, ALLOCATE, &[TRANSPORT, A::Raw(attr::RESERVATION_TOKEN, &token)]);
            }
            Step::End(index) => self.ask(*index, REFRESH, &[A::Raw(attr::LIFETIME, &[0; 4])]),
            Step::Lossy(is_lossy) => {
                self.shards.is_lossy = *is_lossy;
                self.was_lossy |= *is_lossy;
            }
            Step::Break(port) => {
                self.shards.shards.iter_mut().for_each(|shard| shard.broken = port.iter().copied().collect());
            }
            Step::Pass(time_s) => {
                for answer in self.shards.pass(Duration::from_secs(*time_s)) {
                    assert!(self.was_lossy, "without a claim that was lost nothing is said late");
                    assert_eq!(error(&answer), Some(508));
                }
            }
        }
    }

    fn check(&mut self) {
        let mut open = 0;
        let mut of_users = [0; CLIENTS / SHARDS];
        for shard in &mut self.shards.shards {
            let server = &shard.rig.server;
            let [allocations, ports, reservations, timers] = server.relay_sizes();
            assert_eq!((timers, ports), (allocations + reservations, shard.sockets.len()));
            open += ports;
            for session in server.sessions(shard.rig.now) {
                let user: usize = session.user["user".len()..].parse().expect("a number");
                of_users[user] += 1;
            }
        }
        assert!(open <= PORTS && of_users.iter().all(|count| *count <= PER_USER), "{open} {of_users:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_among_shards_comes_to_rest(steps in proptest::collection::vec(step(), 0..80)) {
        let shards = shards(SHARDS as u8, |config| {
            let relay = config.relay.as_mut().expect("a relay");
            relay.ports = Some(50_000..=50_000 + PORTS as u16);
            relay.own_listeners = vec![addr("0.0.0.0:50003")];
            config.limits.source = Rate::unlimited();
            config.limits.amplified = Rate::unlimited();
            config.limits.relay.allocations_per_user = PER_USER as u32;
        });
        let mut world = World { shards, token: vec![0; 8], was_lossy: false };
        for step in &steps {
            world.take(step);
            world.check();
        }
        world.take(&Step::Lossy(false));
        world.take(&Step::Break(None));
        world.take(&Step::Pass(3600));
        prop_assert!(world.shards.shards.iter().all(|shard| shard.rig.server.relay_sizes() == [0; 4]));
        // Every port and every seat can be had again.
        let fresh: Vec<_> = [0, 1, 3, 4, 6, 7].map(|index| (index % SHARDS, world.client(index))).into();
        for (shard, client) in &fresh {
            let answer = world.shards.ask(*shard, client, ALLOCATE, &[TRANSPORT]);
            prop_assert_eq!(error(&answer), None);
        }
    }
}
