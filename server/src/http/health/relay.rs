//! A datagram through the relay: from one allocation to another, both of the server's own making.
//!
//! They are those of a user whom no credential that is handed out can name, so they count against nobody's quota. A
//! relay that has as many allocations as it may answers so, and that is an answer.

use std::io;
use std::net::SocketAddr;

use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key};
use meetpoint_turn::message::{ALLOCATE, CREATE_PERMISSION, Class, Message, REFRESH, SEND, TransactionId};
use meetpoint_turn::{IntegrityKey, IntegrityKind, Writer, attr, read_xor_address};
use tokio::net::UdpSocket;

use super::socket_towards;
use crate::secrets;
use crate::service::{Service, UnixMs};

/// With a space, which names that are handed out can't have.
const USER: &str = "the server itself";
/// Seconds that its credentials hold.
const LIFETIME_S: u64 = 60;
/// UDP (RFC 8656, section 18.8).
const UDP: [u8; 4] = [17, 0, 0, 0];
/// Those that say that there is enough (RFC 8656, section 19).
const FULL: [[u8; 2]; 2] = [[4, 86], [5, 8]];
/// That there are no addresses of this family.
const NO_FAMILY: [u8; 2] = [4, 40];
/// IPv6 (RFC 8656, section 18.6).
const IPV6: [u8; 4] = [2, 0, 0, 0];
const MAX_ANSWER_BYTES: usize = 1500;

/// One of the two.
struct Client {
    socket: UdpSocket,
    username: String,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: IntegrityKey,
}

/// What the relay says to an Allocate.
enum Allocated {
    At(SocketAddr),
    Full,
}

fn unexpected(what: &'static str) -> io::Error {
    io::Error::other(what)
}

/// Carries a datagram from one allocation to another, and ends both.
pub(super) async fn round_trip(service: &Service, server: SocketAddr) -> io::Result<()> {
    let until_s = UnixMs::now().unsigned() / 1000 + LIFETIME_S;
    let (username, password) = service.mint_for_probe(USER, until_s);
    let mut one = Client::new(server, &username, &password).await?;
    let mut other = Client::new(server, &username, &password).await?;
    let (Allocated::At(here), Allocated::At(there)) = (one.allocate().await?, other.allocate().await?) else {
        one.release().await?;
        return other.release().await;
    };
    let carried = carry(&mut one, here, &mut other, there).await;
    one.release().await?;
    other.release().await?;
    carried
}

async fn carry(one: &mut Client, here: SocketAddr, other: &mut Client, there: SocketAddr) -> io::Result<()> {
    one.permit(there).await?;
    other.permit(here).await?;
    let word: [u8; 16] = secrets::random().map_err(io::Error::other)?;
    let mut writer = writer(Class::Indication, SEND)?;
    writer.xor_address(attr::XOR_PEER_ADDRESS, there);
    writer.attribute(attr::DATA, &word);
    one.socket.send(&writer.finish()).await?;
    let datagram = other.receive().await?;
    let message = Message::parse(&datagram).map_err(|_| unexpected("what arrived is no STUN"))?;
    if message.attribute(attr::DATA) == Some(&word) { Ok(()) } else { Err(unexpected("other data arrived")) }
}

fn writer(class: Class, method: u16) -> io::Result<Writer> {
    let id: [u8; 12] = secrets::random().map_err(io::Error::other)?;
    Ok(Writer::new(class, method, TransactionId(id)))
}

fn allocate_request(family: Option<[u8; 4]>) -> io::Result<Writer> {
    let mut request = writer(Class::Request, ALLOCATE)?;
    request.attribute(attr::REQUESTED_TRANSPORT, &UDP);
    if let Some(family) = family {
        request.attribute(attr::REQUESTED_ADDRESS_FAMILY, &family);
    }
    Ok(request)
}

impl Client {
    /// Asks for the challenge.
    async fn new(server: SocketAddr, username: &str, password: &str) -> io::Result<Self> {
        let socket = socket_towards(server).await?;
        let mut ask = writer(Class::Request, ALLOCATE)?;
        ask.attribute(attr::REQUESTED_TRANSPORT, &UDP);
        socket.send(&ask.finish()).await?;
        let mut answer = [0; MAX_ANSWER_BYTES];
        let len = socket.recv(&mut answer).await?;
        let challenge = Message::parse(&answer[..len]).map_err(|_| unexpected("the challenge is no STUN"))?;
        let part = |kind| challenge.attribute(kind).map(<[u8]>::to_vec);
        let (Some(realm), Some(nonce)) = (part(attr::REALM), part(attr::NONCE)) else {
            return Err(unexpected("the challenge lacks realm or nonce"));
        };
        let name = std::str::from_utf8(&realm).map_err(io::Error::other)?;
        let (algorithm, kind) = (PasswordAlgorithm::Md5, IntegrityKind::Sha1);
        let key = long_term_key(algorithm, kind, username, name, password.as_bytes());
        Ok(Self { socket, username: username.to_owned(), realm, nonce, key })
    }

    async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; MAX_ANSWER_BYTES];
        let len = self.socket.recv(&mut buffer).await?;
        buffer.truncate(len);
        Ok(buffer)
    }

    /// Signs a request, sends it, and gives the answer. The caller bounds the time.
    async fn ask(&self, mut request: Writer) -> io::Result<Vec<u8>> {
        request.attribute(attr::USERNAME, self.username.as_bytes());
        request.attribute(attr::REALM, &self.realm);
        request.attribute(attr::NONCE, &self.nonce);
        request.integrity(&self.key);
        self.socket.send(&request.finish()).await?;
        self.receive().await
    }

    /// An IPv4 address, or an IPv6 one where there are no others.
    async fn allocate(&mut self) -> io::Result<Allocated> {
        let mut answer = self.ask(allocate_request(None)?).await?;
        let first = Message::parse(&answer).map_err(|_| unexpected("the answer is no STUN"))?;
        if let Some([_, _, class, number, ..]) = first.attribute(attr::ERROR_CODE)
            && [*class, *number] == NO_FAMILY
        {
            answer = self.ask(allocate_request(Some(IPV6))?).await?;
        }
        let answer = Message::parse(&answer).map_err(|_| unexpected("the answer is no STUN"))?;
        if let Some([_, _, class, number, ..]) = answer.attribute(attr::ERROR_CODE)
            && FULL.contains(&[*class, *number])
        {
            return Ok(Allocated::Full);
        }
        let relayed = answer.attribute(attr::XOR_RELAYED_ADDRESS);
        let relayed = relayed.and_then(|value| read_xor_address(value, answer.transaction_id()));
        relayed.map(Allocated::At).ok_or_else(|| unexpected("no relayed address"))
    }

    async fn permit(&mut self, peer: SocketAddr) -> io::Result<()> {
        let mut request = writer(Class::Request, CREATE_PERMISSION)?;
        request.xor_address(attr::XOR_PEER_ADDRESS, peer);
        let answer = self.ask(request).await?;
        match Message::parse(&answer) {
            Ok(answer) if answer.class() == Class::Success => Ok(()),
            _ => Err(unexpected("the permission was refused")),
        }
    }

    /// Ends the allocation, if there is one.
    async fn release(&mut self) -> io::Result<()> {
        let mut request = writer(Class::Request, REFRESH)?;
        request.attribute(attr::LIFETIME, &[0; 4]);
        self.ask(request).await.map(drop)
    }
}
