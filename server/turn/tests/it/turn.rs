//! A relay on a clock of its own and its clients. Sockets are opened as soon as they are ordered.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use meetpoint_proto::SessionId;
use meetpoint_turn::message::{
    ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, Class, Message, REFRESH, SEND, TransactionId,
};
use meetpoint_turn::{
    Config, Holder, Input, Output, Payload, Relay, RelayConfig, RelayId, RelayIp, ShardId, Writer, attr,
    node_user,
};

use crate::common::{Login, NOW_UNIX_S, Rig, addr, config, error, login_as, lone, secrets};

pub(crate) const RELAY_IP: &str = "20.0.0.9";
pub(crate) const RELAY_IP6: &str = "2a00:9::9";
pub(crate) const PEER: &str = "30.0.0.1:7000";
pub(crate) const UDP: &[u8] = &[17, 0, 0, 0];
pub(crate) const V4: &[u8] = &[1, 0, 0, 0];
pub(crate) const V6: &[u8] = &[2, 0, 0, 0];
pub(crate) const CHANNEL: u16 = 0x4000;

/// One address of a family, seen as it is bound.
pub(crate) fn relay_ip(text: &str) -> Option<RelayIp> {
    let ip = text.parse().expect("an address");
    Some(RelayIp { bind: ip, seen: ip })
}

pub(crate) fn relay_config() -> RelayConfig {
    RelayConfig {
        ipv4: relay_ip(RELAY_IP),
        ipv6: relay_ip(RELAY_IP6),
        ports: Some(50_000..=50_099),
        ..RelayConfig::default()
    }
}

pub(crate) fn with(change: impl FnOnce(&mut Config)) -> TurnRig {
    TurnRig::of(Rig::with(turn_config(change)))
}

pub(crate) fn turn_config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config { relay: Some(relay_config()), ..config(lone()) };
    change(&mut config);
    config
}

pub(crate) fn turn() -> TurnRig {
    with(|_| {})
}

/// An attribute of a request.
#[derive(Clone)]
pub(crate) enum A<'a> {
    Raw(u16, &'a [u8]),
    Peer(&'a str),
}

/// The machine, and the sockets it ordered.
pub(crate) struct TurnRig {
    pub(crate) rig: Rig,
    pub(crate) sockets: BTreeMap<RelayId, SocketAddr>,
    /// Ports that can't be opened.
    pub(crate) broken: Vec<u16>,
    /// Nodes that were lent something, and what.
    pub(crate) lent: Vec<(SessionId, [Option<SocketAddr>; 2])>,
    next_id: u32,
}

/// A user at an address.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) login: Login,
    pub(crate) source: String,
}

/// What was relayed, in one piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Relayed {
    ToPeer { from: SocketAddr, to: SocketAddr, payload: Vec<u8> },
    ToClient { to: SocketAddr, datagram: Vec<u8> },
    Across { shard: ShardId, from: SocketAddr, holder: Holder, to: SocketAddr, payload: Vec<u8> },
}

impl TurnRig {
    pub(crate) fn of(rig: Rig) -> Self {
        Self { rig, sockets: BTreeMap::new(), broken: vec![], lent: vec![], next_id: 0 }
    }

    pub(crate) fn client(&mut self, user: &str, source: &str) -> Client {
        let login = login_as(&mut self.rig, source, user, NOW_UNIX_S + 86_400);
        Client { login, source: source.to_owned() }
    }

    /// A node with what its welcome brought at that time, and nothing else.
    pub(crate) fn welcomed(&mut self, node: u8, source: &str, unix_s: u64) -> Client {
        let user = node_user(&SessionId::from_bytes([node; 16]));
        let mut client = self.client(&user, source);
        let nonce = secrets(&["the first secret"]).stream_nonce(&client.login.username, unix_s);
        client.login.nonce = nonce.into_bytes();
        client
    }

    /// Does what a shell does, and returns the rest.
    pub(crate) fn run(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.poll()).collect()
    }

    /// The next output that does not concern a socket of its own alone.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        loop {
            match self.rig.server.poll_output()? {
                Output::OpenRelay { id, bind } if self.broken.contains(&bind.port()) => {
                    self.rig.server.handle(self.rig.now, Input::RelayFailed { id });
                }
                Output::OpenRelay { id, bind } => {
                    let is_free = self.sockets.values().all(|open| *open != bind);
                    assert!(is_free && self.sockets.insert(id, bind).is_none(), "{id:?} {bind}");
                    self.rig.server.handle(self.rig.now, Input::RelayOpened { id });
                }
                Output::CloseRelay { id } => drop(self.sockets.remove(&id)),
                Output::Allocated { session, relayed } => self.lent.push((session, relayed)),
                other => return Some(other),
            }
        }
    }

    pub(crate) fn fresh_id(&mut self) -> TransactionId {
        self.next_id += 1;
        let mut id = *b"transactions";
        id[..4].copy_from_slice(&self.next_id.to_be_bytes());
        TransactionId(id)
    }

    pub(crate) fn request(&mut self, client: &Client, method: u16, attributes: &[A<'_>]) -> Payload {
        let id = self.fresh_id();
        let mut writer = write(Class::Request, method, id, attributes);
        writer.attribute(attr::USERNAME, client.login.username.as_bytes());
        writer.attribute(attr::REALM, client.login.realm.as_bytes());
        writer.attribute(attr::NONCE, &client.login.nonce);
        client.login.sign(writer)
    }

    pub(crate) fn give(&mut self, source: &str, datagram: &[u8]) -> Option<Payload> {
        let input = Input::Datagram { listener: self.rig.at, source: addr(source), payload: datagram };
        self.rig.server.handle(self.rig.now, input);
        let outputs = self.run();
        assert!(outputs.len() <= 1, "{outputs:?}");
        outputs.into_iter().next().map(|output| match output {
            Output::Transmit { listener, to, payload } => {
                assert_eq!((listener, to), (self.rig.at, addr(source)));
                payload
            }
            other => panic!("{other:?}"),
        })
    }

    /// The answer to a signed request, which has to be signed too.
    pub(crate) fn ask(&mut self, client: &Client, method: u16, attributes: &[A<'_>]) -> Payload {
        let request = self.request(client, method, attributes);
        let answer = self.give(&client.source, &request).expect("an answer");
        let message = Message::parse(&answer).expect("a good answer");
        assert_eq!(message.method(), method);
        if !matches!(error(&answer), Some(401 | 438)) {
            assert!(message.verify(&client.login.key), "the answer is protected");
        }
        answer
    }

    pub(crate) fn code(&mut self, client: &Client, method: u16, attributes: &[A<'_>]) -> Option<u16> {
        error(&self.ask(client, method, attributes))
    }

    pub(crate) fn allocate(&mut self, client: &Client) -> SocketAddr {
        let answer = self.ask(client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP)]);
        relayed(&answer)[0]
    }

    pub(crate) fn permit(&mut self, client: &Client, peer: &str) -> Option<u16> {
        self.code(client, CREATE_PERMISSION, &[A::Peer(peer)])
    }

    pub(crate) fn bind(&mut self, client: &Client, number: u16, peer: &str) -> Option<u16> {
        let [high, low] = number.to_be_bytes();
        let number = [high, low, 0, 0];
        self.code(client, CHANNEL_BIND, &[A::Raw(attr::CHANNEL_NUMBER, &number), A::Peer(peer)])
    }

    pub(crate) fn refresh(&mut self, client: &Client, lifetime_s: u32) -> Option<u16> {
        self.code(client, REFRESH, &[A::Raw(attr::LIFETIME, &lifetime_s.to_be_bytes())])
    }

    /// A Send indication.
    pub(crate) fn send(&mut self, client: &Client, peer: &str, data: &[u8]) -> Option<Relayed> {
        let id = self.fresh_id();
        let attributes = [A::Peer(peer), A::Raw(attr::DATA, data)];
        let indication = write(Class::Indication, SEND, id, &attributes).finish();
        self.relay(&client.source, &indication)
    }

    pub(crate) fn channel(&mut self, client: &Client, number: u16, data: &[u8]) -> Option<Relayed> {
        self.relay(&client.source, &channel_data(number, data))
    }

    /// What the machine wants relayed of a client's datagram.
    pub(crate) fn relay(&mut self, source: &str, datagram: &[u8]) -> Option<Relayed> {
        let relay = self.rig.server.datagram(self.rig.now, self.rig.at, addr(source), datagram);
        let whole = relay.map(|relay| whole(&self.sockets, &relay));
        assert_eq!(self.run(), [], "relaying answers nothing");
        whole
    }

    /// What the machine wants relayed of what another shard gave it.
    pub(crate) fn across(&mut self, relayed: &Relayed) -> Option<Relayed> {
        let Relayed::Across { from, holder, to, payload, .. } = relayed else { panic!("{relayed:?}") };
        let relay = self.rig.server.from_shard(self.rig.now, *from, *holder, *to, payload);
        relay.map(|relay| whole(&self.sockets, &relay))
    }

    /// What the machine wants relayed of a peer's datagram at a relayed address.
    pub(crate) fn arrive(&mut self, at: SocketAddr, peer: &str, data: &[u8]) -> Option<Relayed> {
        let (id, _) = self.sockets.iter().find(|(_, open)| **open == at).expect("a socket");
        let relay = self.rig.server.relayed(self.rig.now, *id, addr(peer), data);
        let whole = relay.map(|relay| whole(&self.sockets, &relay));
        assert_eq!(self.run(), [], "relaying answers nothing");
        whole
    }
}

fn whole(sockets: &BTreeMap<RelayId, SocketAddr>, relay: &Relay<'_>) -> Relayed {
    match relay {
        Relay::ToPeer { from, to, payload, .. } => {
            Relayed::ToPeer { from: sockets[from], to: *to, payload: payload.to_vec() }
        }
        Relay::ToClient { to, head, payload, tail, .. } => {
            Relayed::ToClient { to: *to, datagram: [head, *payload, *tail].concat() }
        }
        Relay::ToShard { shard, from, holder, to, payload } => {
            let payload = payload.to_vec();
            Relayed::Across { shard: *shard, from: *from, holder: *holder, to: *to, payload }
        }
    }
}

pub(crate) fn write(class: Class, method: u16, id: TransactionId, attributes: &[A<'_>]) -> Writer {
    let mut writer = Writer::new(class, method, id);
    for attribute in attributes {
        match attribute {
            A::Raw(kind, value) => writer.attribute(*kind, value),
            A::Peer(text) => writer.xor_address(attr::XOR_PEER_ADDRESS, addr(text)),
        }
    }
    writer
}

pub(crate) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).expect("short");
    [&number.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

/// The relayed addresses an answer tells.
pub(crate) fn relayed(answer: &[u8]) -> Vec<SocketAddr> {
    let message = Message::parse(answer).expect("a good answer");
    let values = message.attributes().filter(|a| a.kind == attr::XOR_RELAYED_ADDRESS);
    values.map(|a| xor_address(a.value, &message.transaction_id().0)).collect()
}

/// Reads an address as XOR-MAPPED-ADDRESS has it.
pub(crate) fn xor_address(value: &[u8], id: &[u8; 12]) -> SocketAddr {
    let mask = [&[0x21, 0x12, 0xA4, 0x42], &id[..]].concat();
    let plain: Vec<u8> = value[4..].iter().zip(&mask).map(|(byte, mask)| byte ^ mask).collect();
    let port = u16::from_be_bytes([value[2] ^ mask[0], value[3] ^ mask[1]]);
    match value[1] {
        1 => (<[u8; 4]>::try_from(&plain[..]).expect("4 bytes"), port).into(),
        2 => (<[u8; 16]>::try_from(&plain[..]).expect("16 bytes"), port).into(),
        family => panic!("address family {family}"),
    }
}

pub(crate) fn to_peer(from: SocketAddr, to: &str, payload: &[u8]) -> Option<Relayed> {
    Some(Relayed::ToPeer { from, to: addr(to), payload: payload.to_vec() })
}

pub(crate) fn to_client(to: &str, datagram: &[u8]) -> Option<Relayed> {
    Some(Relayed::ToClient { to: addr(to), datagram: datagram.to_vec() })
}

/// The peer and the data of a Data indication.
pub(crate) fn data_indication(relayed: Option<Relayed>) -> Option<(SocketAddr, Vec<u8>)> {
    let Some(Relayed::ToClient { datagram, .. }) = relayed else { return None };
    let message = Message::parse(&datagram).ok()?;
    assert_eq!((message.class(), message.method()), (Class::Indication, meetpoint_turn::message::DATA));
    let peer = message.attribute(attr::XOR_PEER_ADDRESS)?;
    let data = message.attribute(attr::DATA)?;
    Some((xor_address(peer, &message.transaction_id().0), data.to_vec()))
}
