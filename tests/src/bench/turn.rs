//! The requests of a TURN client, one at a time: what a workload needs before and after it measures.
//!
//! It speaks the mechanism that every server knows: long-term credentials by MD5 and HMAC-SHA1.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meetpoint_turn::credentials::{PasswordAlgorithm, long_term_key, mint};
use meetpoint_turn::message::{
    ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Class, Message, REFRESH, TransactionId,
};
use meetpoint_turn::{IntegrityKey, IntegrityKind, Secret, Writer, attr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::BenchError;
use super::exchange::{CHANNEL, transaction, xor_address};
use super::wire::MAX_DATAGRAM_LEN;

/// UDP, as REQUESTED-TRANSPORT has it (RFC 8656, section 18.8).
const UDP: [u8; 4] = [17, 0, 0, 0];
/// A request is sent again after this (RFC 8489, section 6.2.1 recommends it as the first).
const RESEND_AFTER: Duration = Duration::from_millis(500);
/// And given up after so many times.
const ATTEMPTS: u32 = 7;
/// Clients of each user that is made up: servers limit what one may have.
const CLIENTS_PER_USER: usize = 4;
/// Credentials hold for this long: longer than any run.
const CREDENTIAL_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Unauthorized (RFC 8489, section 14.8).
const UNAUTHORIZED: u16 = 401;
/// Stale nonce (RFC 8489, section 14.8).
const STALE_NONCE: u16 = 438;

/// How clients are let in.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// One user for all.
    User {
        /// Its name.
        name: String,
        /// Its password.
        password: String,
    },
    /// The secret from which users' passwords follow (the time-limited REST form).
    Secret(Secret),
}

impl Credentials {
    /// Username and password of the client of this number.
    #[must_use]
    pub fn of(&self, client: usize) -> (String, String) {
        match self {
            Self::User { name, password } => (name.clone(), password.clone()),
            Self::Secret(secret) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let user = format!("bench{}", client / CLIENTS_PER_USER);
                mint(secret, &user, (now + CREDENTIAL_LIFE).as_secs())
            }
        }
    }
}

/// What a server demands: the answer to a request without credentials.
#[derive(Debug, Clone)]
pub struct Challenge {
    /// REALM.
    pub realm: String,
    /// NONCE.
    pub nonce: Vec<u8>,
}

impl Challenge {
    /// Reads a 401 or 438.
    #[must_use]
    pub fn read(message: &Message<'_>) -> Option<Self> {
        if !matches!(error_code(message), Some(UNAUTHORIZED | STALE_NONCE)) {
            return None;
        }
        let realm = std::str::from_utf8(message.attribute(attr::REALM)?).ok()?.to_owned();
        Some(Self { realm, nonce: message.attribute(attr::NONCE)?.to_vec() })
    }
}

/// The number in ERROR-CODE (RFC 8489, section 14.8).
#[must_use]
pub fn error_code(message: &Message<'_>) -> Option<u16> {
    let value = message.attribute(attr::ERROR_CODE)?;
    Some(u16::from(*value.get(2)?) * 100 + u16::from(*value.get(3)?))
}

/// Who somebody is, ready to sign requests.
#[derive(Debug, Clone)]
pub struct Identity {
    username: String,
    password: String,
    key: IntegrityKey,
    challenge: Challenge,
}

impl Identity {
    /// Computes the key for what the server demands.
    #[must_use]
    pub fn new((username, password): (String, String), challenge: Challenge) -> Self {
        let (algorithm, kind) = (PasswordAlgorithm::Md5, IntegrityKind::Sha1);
        let key = long_term_key(algorithm, kind, &username, &challenge.realm, password.as_bytes());
        Self { username, password, key, challenge }
    }

    /// Takes a new nonce. The key is computed anew only for another realm.
    pub fn renew(&mut self, challenge: Challenge) {
        if challenge.realm == self.challenge.realm {
            self.challenge = challenge;
        } else {
            *self = Self::new((self.username.clone(), self.password.clone()), challenge);
        }
    }

    /// Adds what authenticates a request.
    pub fn sign(&self, writer: &mut Writer) {
        writer.attribute(attr::USERNAME, self.username.as_bytes());
        writer.attribute(attr::REALM, self.challenge.realm.as_bytes());
        writer.attribute(attr::NONCE, &self.challenge.nonce);
        writer.integrity(&self.key);
    }

    /// Whether a response is the server's: it knows the password too.
    #[must_use]
    pub fn verifies(&self, message: &Message<'_>) -> bool {
        message.verify(&self.key)
    }
}

/// An Allocate request that still lacks its end.
#[must_use]
pub fn allocate(id: TransactionId) -> Writer {
    let mut writer = Writer::new(Class::Request, ALLOCATE, id);
    writer.attribute(attr::REQUESTED_TRANSPORT, &UDP);
    writer
}

/// A Refresh request that ends the allocation and still lacks its own end.
#[must_use]
pub fn release(id: TransactionId) -> Writer {
    let mut writer = Writer::new(Class::Request, REFRESH, id);
    writer.attribute(attr::LIFETIME, &[0; 4]);
    writer
}

/// A client with an allocation.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    identity: Identity,
    next_number: u64,
    /// Where peers reach it.
    pub relayed: SocketAddrV4,
}

impl Client {
    /// Allocates on a connected, non-blocking socket.
    ///
    /// # Errors
    /// If the server refuses or does not answer.
    pub fn allocate(socket: UdpSocket, credentials: (String, String)) -> Result<Self, BenchError> {
        let challenge = challenge(&socket)?;
        let identity = Identity::new(credentials, challenge);
        let unspecified = SocketAddrV4::new([0; 4].into(), 0);
        let mut client = Self { socket, identity, next_number: 1, relayed: unspecified };
        let answer = client.request("Allocate", &|id| allocate(id))?;
        client.relayed = Message::parse(&answer)
            .ok()
            .and_then(|message| xor_address(&message, attr::XOR_RELAYED_ADDRESS))
            .ok_or_else(|| refused("Allocate", &answer))?;
        Ok(client)
    }

    /// Lets a peer in.
    ///
    /// # Errors
    /// If the server refuses or does not answer.
    pub fn permit(&mut self, peer: SocketAddrV4) -> Result<(), BenchError> {
        self.request("CreatePermission", &|id| {
            let mut writer = Writer::new(Class::Request, CREATE_PERMISSION, id);
            writer.xor_address(attr::XOR_PEER_ADDRESS, peer.into());
            writer
        })?;
        Ok(())
    }

    /// Gives a peer the channel [`CHANNEL`].
    ///
    /// # Errors
    /// If the server refuses or does not answer.
    pub fn bind_channel(&mut self, peer: SocketAddrV4) -> Result<(), BenchError> {
        self.request("ChannelBind", &|id| {
            let mut writer = Writer::new(Class::Request, CHANNEL_BIND, id);
            let [high, low] = CHANNEL.to_be_bytes();
            writer.attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0]);
            writer.xor_address(attr::XOR_PEER_ADDRESS, peer.into());
            writer
        })?;
        Ok(())
    }

    /// Ends the allocation.
    ///
    /// # Errors
    /// If the server refuses or does not answer.
    pub fn release(mut self) -> Result<(), BenchError> {
        self.request("Refresh", &|id| release(id))?;
        Ok(())
    }

    /// The same socket once more, for the data.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn socket(&self) -> Result<UdpSocket, BenchError> {
        self.socket.try_clone().map_err(BenchError::io("a socket"))
    }

    /// Signs, asks, and checks that the answer is good.
    fn request(
        &mut self,
        what: &str,
        write: &dyn Fn(TransactionId) -> Writer,
    ) -> Result<Vec<u8>, BenchError> {
        for _ in 0..ATTEMPTS {
            let mut writer = write(transaction(self.next_number));
            self.next_number += 1;
            self.identity.sign(&mut writer);
            let answer = ask(&self.socket, &writer.finish())?;
            let Ok(message) = Message::parse(&answer) else { return Err(refused(what, &answer)) };
            if message.class() == Class::Success && self.identity.verifies(&message) {
                return Ok(answer);
            }
            // Also after a 401: a server that was asked twice for a challenge may only know the second nonce.
            match Challenge::read(&message) {
                Some(challenge) => self.identity.renew(challenge),
                None => return Err(refused(what, &answer)),
            }
        }
        Err(BenchError::Unexpected(format!("{what}: the server demands credentials again and again")))
    }
}

fn refused(what: &str, answer: &[u8]) -> BenchError {
    let code = Message::parse(answer).ok().and_then(|message| error_code(&message));
    BenchError::Unexpected(match code {
        Some(code) => format!("{what}: the server answered with error {code}"),
        None => format!("{what}: an answer that makes no sense"),
    })
}

/// Asks without credentials, to learn what the server demands.
///
/// # Errors
/// If the server does not answer, or does not demand anything.
pub fn challenge(socket: &UdpSocket) -> Result<Challenge, BenchError> {
    let answer = ask(socket, &allocate(transaction(0)).finish())?;
    let challenge = Message::parse(&answer).ok().and_then(|message| Challenge::read(&message));
    challenge.ok_or_else(|| refused("Allocate without credentials", &answer))
}

/// Waits until something at the other end of the socket answers a Binding request in any way.
///
/// # Errors
/// If nothing does for that long.
pub fn await_server(socket: &UdpSocket, patience: Duration) -> Result<(), BenchError> {
    let request = Writer::new(Class::Request, BINDING, transaction(0)).finish();
    let deadline = Instant::now() + patience;
    let mut buffer = [0; MAX_DATAGRAM_LEN];
    while Instant::now() < deadline {
        // Refused as long as nobody listens, which is what is waited for.
        let _ = socket.send(&request);
        if readable(socket, Duration::from_millis(20))? && socket.recv(&mut buffer).is_ok() {
            return Ok(());
        }
    }
    Err(BenchError::Unexpected(format!("the server does not answer within {patience:?}")))
}

/// Waits until a server grants an allocation: it may answer before it has read its users. The allocation is released.
///
/// # Errors
/// If it does not for that long: its last answer.
pub fn await_relay(
    open: impl Fn() -> Result<UdpSocket, BenchError>,
    credentials: &Credentials,
    patience: Duration,
) -> Result<(), BenchError> {
    let deadline = Instant::now() + patience;
    loop {
        // A new client each time: what a server thinks of the last one must not matter.
        let outcome = open().and_then(|socket| Client::allocate(socket, credentials.of(0))?.release());
        if outcome.is_ok() || Instant::now() >= deadline {
            return outcome;
        }
    }
}

/// Sends a request until the answer to it comes.
fn ask(socket: &UdpSocket, request: &[u8]) -> Result<Vec<u8>, BenchError> {
    let id = &request[8..20];
    for _ in 0..ATTEMPTS {
        let _ = socket.send(request);
        let deadline = Instant::now() + RESEND_AFTER;
        while readable(socket, deadline.saturating_duration_since(Instant::now()))? {
            let mut buffer = vec![0; MAX_DATAGRAM_LEN];
            let Ok(len) = socket.recv(&mut buffer) else { continue };
            buffer.truncate(len);
            if buffer.get(8..20) == Some(id) {
                return Ok(buffer);
            }
        }
    }
    Err(BenchError::Unexpected("the server does not answer".to_owned()))
}

fn readable(socket: &UdpSocket, patience: Duration) -> Result<bool, BenchError> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let count = poll(&mut fds, timeout).map_err(BenchError::os("waiting"))?;
    Ok(count > 0)
}
