//! The steps: which bytes do what.

use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_turn::message::{
    ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Class, REFRESH, SEND, TransactionId,
};
use meetpoint_turn::{Input as Event, ListenerId, RelayId, SessionId, Writer, attr, node_user};

use crate::input::Input;
use crate::server::model::Client;
use crate::server::question::{Manner, Nonce, Question, damage};
use crate::server::setup::{CLIENTS, PEERS, addr, is_forbidden, is_inside, node, secrets};
use crate::server::{Outcome, World};
use crate::wire::Seen;

/// Times at which something ends, and what lies around them.
const WAITS_S: [u64; 16] = [1, 4, 5, 29, 30, 31, 299, 300, 301, 599, 600, 601, 900, 1199, 3599, 3600];
/// UDP, as REQUESTED-TRANSPORT has it (RFC 8656, section 18.8).
const UDP: [u8; 4] = [17, 0, 0, 0];
/// A nonce is asked for anew when it is this old.
const NONCE_LIFE_S: u64 = 240;

impl World {
    pub(super) fn step(&mut self, input: &mut Input<'_>) {
        // Numbers that are free lead on: a new step takes one of them, and known inputs go on meaning what they did.
        match input.byte() % 32 {
            0 => self.allocate(input),
            1 => self.refresh(input),
            2 | 3 => self.create_permission(input),
            4 | 5 => self.channel_bind(input),
            6 | 7 => self.send(input),
            8 | 9 => self.channel_data(input),
            10 | 11 => self.peer_speaks(input),
            12 => self.shell_answers(input),
            13 => self.pass(input),
            14 => self.bind(input),
            15 => self.raw(input),
            16 => self.operate(input),
            17 => self.dial_back(input),
            18 => self.wall(input),
            20 => self.network_complains(input),
            21 => self.introduce(input),
            22 => self.disconnect(input),
            _ => self.short_life(input),
        }
    }

    /// The simplest way to something to relay: an allocation, a permission and a channel, nothing about them odd.
    fn short_life(&mut self, input: &mut Input<'_>) {
        let (client, peer) = (input.below(CLIENTS.len()), addr(PEERS[input.below(5)]));
        let number = [0x40, input.byte() % 4, 0, 0];
        self.signed(client, ALLOCATE, Manner::PLAIN, input, |_, writer| {
            writer.attribute(attr::REQUESTED_TRANSPORT, &UDP);
            writer.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
        });
        while let Some(id) = self.ordered.front().copied() {
            self.shell_opened(id);
        }
        self.signed(client, CHANNEL_BIND, Manner::PLAIN, input, |_, writer| {
            writer.attribute(attr::CHANNEL_NUMBER, &number);
            writer.xor_address(attr::XOR_PEER_ADDRESS, peer);
        });
    }

    fn peer(&self, input: &mut Input<'_>) -> SocketAddr {
        let which = usize::from(input.byte());
        if let Some(peer) = PEERS.get(which % 32) {
            return addr(peer);
        }
        let relayed: Vec<_> = self.model.granted.values().flat_map(|granted| &granted.relayed).collect();
        match which % 32 {
            30 => SocketAddr::from((input.array::<4>(), input.u16())),
            31 => SocketAddr::from((input.array::<16>(), input.u16())),
            index => relayed.get(index % 8).map_or_else(|| addr(PEERS[0]), |relayed| **relayed),
        }
    }

    fn transaction(&mut self, manner: Manner) -> TransactionId {
        self.transactions += u32::from(!manner.repeats_transaction());
        let mut id = *b"transactions";
        id[..4].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(id)
    }

    /// Sees to it that a client has a nonce, if it is to have one.
    fn learn(&mut self, index: usize, manner: Manner) {
        let now_s = self.unix_s().unwrap_or_default();
        let known = self.nonces[index].as_ref();
        let is_fresh =
            known.is_some_and(|nonce| nonce.unix_s <= now_s && now_s - nonce.unix_s < NONCE_LIFE_S);
        if is_fresh || manner.keeps_nonce() || !manner.is_signed() {
            return;
        }
        let id = self.transaction(Manner::PLAIN);
        let mut writer = Manner::start(ALLOCATE, id);
        writer.attribute(attr::REQUESTED_TRANSPORT, &UDP);
        let bytes = writer.finish().to_vec();
        let outcome = self.ask(self.client(index), &Question { bytes, grant: None });
        let Outcome::Answered(answer) = outcome else { return };
        let seen = Seen::read(&answer.bytes).expect("an answer");
        let nonce =
            seen.get(attr::NONCE).map(|bytes| Nonce { of: index, bytes: bytes.to_vec(), unix_s: now_s });
        self.nonces[index] = nonce.or(self.nonces[index].take());
    }

    /// Sends a request as `manner` says.
    fn signed(
        &mut self,
        index: usize,
        method: u16,
        manner: Manner,
        input: &mut Input<'_>,
        write: impl FnOnce(&mut Input<'_>, &mut Writer),
    ) {
        self.learn(index, manner);
        let id = self.transaction(manner);
        let mut writer = Manner::start(method, id);
        write(input, &mut writer);
        // Who has no nonce may try another's.
        let nonce = self.nonces[index].as_ref().or_else(|| self.nonces.iter().flatten().next());
        let question = manner.finish(writer, index, nonce, input);
        let client = self.client(index);
        self.ask(client, &question);
        if self.setup.is_prompt {
            while let Some(id) = self.ordered.front().copied() {
                self.shell_opened(id);
            }
        }
    }

    fn allocate(&mut self, input: &mut Input<'_>) {
        let (index, manner) = (input.below(CLIENTS.len()), Manner::read(input));
        let token = self.tokens.last().cloned().unwrap_or_else(|| vec![0; 8]);
        self.signed(index, ALLOCATE, manner, input, |input, writer| {
            writer.attribute(attr::REQUESTED_TRANSPORT, &UDP);
            match input.below(10) {
                0 => writer.attribute(attr::EVEN_PORT, &[0x80]),
                1 => writer.attribute(attr::EVEN_PORT, &[0]),
                2 => writer.attribute(attr::RESERVATION_TOKEN, &token),
                3 => writer.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[input.byte() % 4, 0, 0, 0]),
                4 => writer.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                5 => writer.attribute(attr::LIFETIME, &input.array::<4>()),
                6 => writer.attribute(attr::DONT_FRAGMENT, &[]),
                7 => {
                    writer.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
                    writer.attribute(attr::EVEN_PORT, &[input.byte()]);
                }
                _ => {}
            }
        });
    }

    fn refresh(&mut self, input: &mut Input<'_>) {
        let (index, manner) = (input.below(CLIENTS.len()), Manner::read(input));
        self.signed(index, REFRESH, manner, input, |input, writer| match input.below(6) {
            0 | 1 => writer.attribute(attr::LIFETIME, &[0; 4]),
            2 => writer.attribute(attr::LIFETIME, &input.array::<4>()),
            3 => {
                writer.attribute(attr::LIFETIME, &[0; 4]);
                writer.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[1 + input.byte() % 3, 0, 0, 0]);
            }
            _ => {}
        });
    }

    fn create_permission(&mut self, input: &mut Input<'_>) {
        let (index, manner) = (input.below(CLIENTS.len()), Manner::read(input));
        let peers: Vec<_> = (0..input.below(5)).map(|_| self.peer(input)).collect();
        self.signed(index, CREATE_PERMISSION, manner, input, |_, writer| {
            peers.iter().for_each(|peer| writer.xor_address(attr::XOR_PEER_ADDRESS, *peer));
        });
    }

    fn number(input: &mut Input<'_>) -> u16 {
        match input.byte() {
            0xFF => input.u16(),
            number => 0x4000 + u16::from(number % 5),
        }
    }

    fn channel_bind(&mut self, input: &mut Input<'_>) {
        let (index, manner) = (input.below(CLIENTS.len()), Manner::read(input));
        let (number, peer) = (Self::number(input), self.peer(input));
        self.signed(index, CHANNEL_BIND, manner, input, |_, writer| {
            let [high, low] = number.to_be_bytes();
            writer.attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0]);
            writer.xor_address(attr::XOR_PEER_ADDRESS, peer);
        });
    }

    fn payload(input: &mut Input<'_>) -> Vec<u8> {
        let len = usize::from(input.byte());
        // Every length up to 127, and some that use the rate up.
        vec![0xA5; if len < 128 { len } else { (len - 127) * 20 }]
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let (index, peer) = (input.below(CLIENTS.len()), self.peer(input));
        let (data, oddity) = (Self::payload(input), input.byte());
        let id = self.transaction(Manner::PLAIN);
        let mut writer = Writer::new(Class::Indication, SEND, id);
        writer.xor_address(attr::XOR_PEER_ADDRESS, peer);
        if oddity == 1 {
            writer.attribute(attr::DONT_FRAGMENT, &[]);
        }
        writer.attribute(attr::DATA, &data);
        let mut bytes = writer.finish().to_vec();
        if oddity == 2 {
            damage(&mut bytes, input);
        }
        let is_plain = !(1..=2).contains(&oddity);
        self.send_on(self.client(index), bytes, is_plain.then_some(peer));
    }

    fn channel_data(&mut self, input: &mut Input<'_>) {
        let (index, number) = (input.below(CLIENTS.len()), Self::number(input));
        let (data, oddity) = (Self::payload(input), input.byte());
        let len = data.len() as u16;
        let mut bytes = [&number.to_be_bytes()[..], &len.to_be_bytes(), &data].concat();
        match oddity {
            1 => bytes.extend(vec![0; bytes.len().next_multiple_of(4) - bytes.len()]),
            2 => damage(&mut bytes, input),
            _ => {}
        }
        let client = self.client(index);
        let peer = self.model.peer_of(self.now, client, number).filter(|_| oddity != 2);
        self.send_on(client, bytes, peer);
    }

    /// Sends a datagram to be relayed. If it is for `peer` and nothing speaks against it, it has to be.
    fn send_on(&mut self, client: Client, bytes: Vec<u8>, peer: Option<SocketAddr>) {
        let is_due = peer.is_some_and(|peer| {
            let is_permitted = self.model.permits(self.now, client, peer);
            let has_family = self.model.relayed_for(client, peer).is_some();
            let is_outside = !is_inside(peer) && !is_forbidden(peer);
            self.setup.is_generous && is_permitted && has_family && is_outside
        });
        let outcome = self.ask(client, &Question { bytes, grant: None });
        assert!(matches!(outcome, Outcome::Relayed) || !is_due, "{peer:?} is not reached");
    }

    fn relay(&self, input: &mut Input<'_>) -> Option<RelayId> {
        let which = usize::from(input.byte());
        let known: Vec<_> = self.model.sockets.keys().copied().collect();
        // Mostly one that is there.
        if which < 0xE0 && !known.is_empty() {
            return known.get(which % known.len()).copied();
        }
        self.closed.get(which % self.closed.len().max(1)).copied()
    }

    fn peer_speaks(&mut self, input: &mut Input<'_>) {
        let (at, peer, data) = (self.relay(input), self.peer(input), Self::payload(input));
        if let Some(at) = at {
            self.arrive(at, peer, &data);
        }
    }

    /// ICMP, of kinds that are told and others.
    fn network_complains(&mut self, input: &mut Input<'_>) {
        let (at, peer) = (self.relay(input), self.peer(input));
        let (kind, code) = (input.pick(&[3, 11, 1, 2, 0, 5]), input.byte());
        if let Some(at) = at {
            self.icmp(at, peer, kind, code);
        }
    }

    /// The broker introduces two nodes, or one leaves.
    fn introduce(&mut self, input: &mut Input<'_>) {
        let (a, b) = (input.below(2), input.below(2));
        let name = |number| node_user(&node(number));
        match input.below(4) {
            0 => {
                self.server.handle(self.now, Event::Parted { node: node(a) });
                self.model.part(&name(a));
            }
            which => {
                let until = self.now + Duration::from_secs([0, 10, 300][which - 1]);
                self.server.handle(self.now, Event::Introduced { a: node(a), b: node(b), until });
                self.model.introduce(&name(a), &name(b), until);
            }
        }
        self.settle(false);
    }

    /// A connection ends, and its allocation with it.
    fn disconnect(&mut self, input: &mut Input<'_>) {
        let (listener, source) = self.client(CLIENTS.len() - 1 - input.below(2));
        self.server.handle(self.now, Event::Disconnected { listener, source });
        self.settle(false);
        assert!(!self.model.granted.contains_key(&(listener, source)), "it outlives its connection");
    }

    /// The shell says that a socket is open, or is not to be had; of any socket, since words cross.
    fn shell_answers(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let id = if what & 2 == 0 { self.ordered.front().copied() } else { self.relay(input) };
        match id {
            Some(id) if what & 1 == 0 => self.shell_opened(id),
            Some(id) => self.shell_failed(id),
            None => {}
        }
    }

    fn pass(&mut self, input: &mut Input<'_>) {
        let how = input.byte();
        let time = match how % 32 {
            which @ 0..16 => Duration::from_secs(WAITS_S[usize::from(which)]),
            16..24 => Duration::from_millis(input.byte().into()),
            _ => Duration::from_secs(input.u16().into()),
        };
        self.now += time;
        // A shell may be late with its timers; what has run out is over all the same.
        if how < 224 {
            self.run_timers();
        }
    }

    /// A Binding, with what RFC 5780 adds.
    fn bind(&mut self, input: &mut Input<'_>) {
        let (index, manner) = (input.below(CLIENTS.len()), Manner::read(input));
        self.signed(index, BINDING, manner, input, |input, writer| {
            let wishes = input.byte();
            if wishes & 1 != 0 {
                writer.attribute(attr::CHANGE_REQUEST, &[0, 0, 0, input.byte()]);
            }
            if wishes & 2 != 0 {
                writer.attribute(attr::RESPONSE_PORT, &input.array::<2>());
            }
            if wishes & 4 != 0 {
                writer.attribute(attr::PADDING, &vec![0; usize::from(input.byte()) * 4]);
            }
            if wishes & 8 != 0 {
                writer.attribute(0x4242, input.take(3));
            }
        });
    }

    /// Any bytes, from anybody, to any listener.
    fn raw(&mut self, input: &mut Input<'_>) {
        let (listener, source) = self.client(input.below(CLIENTS.len()));
        let at = input.byte();
        let listener = if at < 8 { ListenerId(at) } else { listener };
        let len = usize::from(input.byte());
        let question = Question { bytes: input.take(len).to_vec(), grant: None };
        self.ask((listener, source), &question);
    }

    /// An operator ends a session or changes the secrets.
    fn operate(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        if what & 1 == 0 {
            let which: &[usize] = input.pick(&[&[0, 1][..], &[1], &[1, 2], &[0]]);
            self.secrets = which.to_vec();
            self.server.handle(self.now, Event::Secrets(secrets(which)));
        } else {
            let sessions: Vec<_> = self.server.sessions(self.now).map(|session| session.id).collect();
            let any = SessionId::from_number(input.u64());
            let id = sessions.get(usize::from(what >> 1) % 8).copied().unwrap_or(any);
            self.server.handle(self.now, Event::EndSession(id));
        }
        self.settle(false);
    }

    fn dial_back(&mut self, input: &mut Input<'_>) {
        let to = match input.byte() {
            0xFF => SocketAddr::from((input.array::<16>(), input.u16())),
            which => self.client(usize::from(which) % CLIENTS.len()).1,
        };
        let target = SocketAddr::new(to.ip().to_canonical(), to.port());
        *self.dialled.entry(target).or_default() += 3;
        self.server.handle(self.now, Event::DialBack { to, nonce: [7; 16] });
        self.settle(false);
    }

    fn wall(&mut self, input: &mut Input<'_>) {
        let unix_ms = match input.below(8) {
            0 => u64::MAX,
            1 => 0,
            2 => input.u64(),
            // Backwards.
            3 => self.unix_s().unwrap_or_default().saturating_mul(1000).saturating_sub(input.u32().into()),
            _ => self.unix_s().unwrap_or_default().saturating_mul(1000).saturating_add(input.u16().into()),
        };
        self.tell_wall(unix_ms);
    }
}
