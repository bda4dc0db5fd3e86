//! What every method's answer has in common: who asked, whether he is who he says, what he may
//! have, and the way errors are told.

use std::net::SocketAddr;
use std::time::Instant;

use meetpoint_stun::{IntegrityKey, Writer};

use crate::attr;
use crate::auth::{Proof, Refusal};
use crate::behaviour::Place;
use crate::budget::Party;
use crate::message::{ALLOCATE, ATTRIBUTE_HEADER_LEN, BINDING, Class, HEADER_LEN, Message, REFRESH};
use crate::nonce::Origin;
use crate::server::StunServer;

/// Length of a FINGERPRINT with its header.
pub(crate) const FINGERPRINT_LEN: usize = ATTRIBUTE_HEADER_LEN + 4;
/// Unknown attributes told in a 420. One is enough to know; the rest is a courtesy, bounded
/// because the sender chooses its length.
pub(crate) const MAX_UNKNOWN: usize = 32;

/// The shortest request that is worth a challenge, FINGERPRINT aside: Allocate with its
/// REQUESTED-TRANSPORT. It is 28 bytes and its challenge three times as many; to a shorter one, which
/// asks for nothing, a challenge would be more than that.
const SHORTEST_CHALLENGED_LEN: usize = HEADER_LEN + ATTRIBUTE_HEADER_LEN + 4;

/// A request and where it came from.
pub(crate) struct Request<'a> {
    pub(crate) now: Instant,
    pub(crate) listener: Place,
    /// The source as the socket said it: where the answer goes.
    pub(crate) source: SocketAddr,
    /// The source as the rest of the world calls it.
    pub(crate) seen: SocketAddr,
    pub(crate) message: Message<'a>,
    /// Loopback sources cannot be spoofed from outside, but only a listener that is itself on
    /// loopback knows that it is not reachable from there.
    pub(crate) is_exempt: bool,
}

impl<'a> Request<'a> {
    pub(crate) fn new(now: Instant, listener: Place, source: SocketAddr, message: Message<'a>) -> Self {
        let seen = SocketAddr::new(source.ip().to_canonical(), source.port());
        Self {
            now,
            listener,
            source,
            seen,
            message,
            is_exempt: listener.addr.ip().is_loopback() && seen.ip().is_loopback(),
        }
    }

    /// Whose budget a request is paid from that proves nothing itself. TCP's handshake has proven
    /// the source of what arrives on a stream.
    pub(crate) fn stranger(&self) -> Party {
        if self.listener.transport.is_stream() {
            Party::Proven(self.seen)
        } else {
            Party::Unproven(self.seen.ip())
        }
    }

    /// Where the request's nonce comes from and is good for.
    pub(crate) fn origin(&self) -> Origin {
        Origin { source: self.seen, is_stream: self.listener.transport.is_stream() }
    }

    /// True if nobody else can have sent it in this name: then a long answer hits who asked.
    pub(crate) fn is_unspoofed(&self) -> bool {
        self.is_exempt || self.listener.transport.is_stream()
    }
}

/// What TURN adds to the errors of STUN (RFC 8656, section 19).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnError {
    BadRequest,
    Forbidden,
    /// RFC 8016, section 3.4.
    MobilityForbidden,
    AllocationMismatch,
    AddressFamilyNotSupported,
    WrongCredentials,
    UnsupportedTransport,
    PeerFamilyMismatch,
    AllocationQuotaReached,
    InsufficientCapacity,
}

impl TurnError {
    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::MobilityForbidden => 405,
            Self::AllocationMismatch => 437,
            Self::AddressFamilyNotSupported => 440,
            Self::WrongCredentials => 441,
            Self::UnsupportedTransport => 442,
            Self::PeerFamilyMismatch => 443,
            Self::AllocationQuotaReached => 486,
            Self::InsufficientCapacity => 508,
        }
    }
}

/// What an error answer says.
#[derive(Clone, Copy)]
pub(crate) enum Fault<'l> {
    /// 420, and these are the attributes.
    UnknownAttributes(&'l [u16]),
    /// What the credential mechanism says.
    Refused(Refusal),
    /// What relaying says.
    Turn(TurnError),
}

impl Fault<'_> {
    pub(crate) const BAD_REQUEST: Self = Self::Refused(Refusal::BadRequest);

    const fn code(self) -> u16 {
        match self {
            Self::Refused(Refusal::BadRequest) => 400,
            Self::Refused(Refusal::Unauthenticated) => 401,
            Self::UnknownAttributes(_) => 420,
            Self::Refused(Refusal::StaleNonce) => 438,
            Self::Turn(error) => error.code(),
        }
    }
}

impl StunServer {
    /// The user who sent a request, once credentials, nonce and budget are in order. If they are
    /// not, the sender has his answer, or is not to get one.
    pub(crate) fn authenticated<'a>(&mut self, request: &Request<'a>) -> Option<Proof<'a>> {
        let message = &request.message;
        let Some(unix_s) = self.unix_s(request.now) else {
            self.counters.dropped.no_wall_time += 1;
            return None;
        };
        let claim = self.auth.claim(message, request.origin(), unix_s);
        let party = match claim {
            Ok(_) => Party::Proven(request.seen),
            Err(_) => request.stranger(),
        };
        if !self.take_source(request, party) {
            return None;
        }
        // What an allocation was granted is used until its end; whether it is granted, or goes
        // on, is asked of credentials that hold.
        let is_grant = matches!(message.method(), BINDING | ALLOCATE | REFRESH);
        let valid_at = is_grant.then_some(unix_s);
        let known = self.relays.as_ref().and_then(|relays| relays.known_key(request));
        let proof = claim.and_then(|bearer| {
            let known = known.and_then(|known| self.auth.recognise(message, &bearer, known, valid_at));
            known.map_or_else(|| self.auth.prove(message, &bearer, valid_at), Ok)
        });
        proof.map_err(|refusal| self.fault(request, None, Fault::Refused(refusal))).ok()
    }

    pub(crate) fn take_source(&mut self, request: &Request<'_>, party: Party) -> bool {
        let taken = request.is_exempt || self.budgets.take_source(request.now, party);
        self.counters.dropped.source_budget += u64::from(!taken);
        taken
    }

    /// Sends an error response, if it may be longer than the question or is not.
    pub(crate) fn fault(&mut self, request: &Request<'_>, proof: Option<&Proof<'_>>, fault: Fault<'_>) {
        let message = &request.message;
        let fault = match fault {
            Fault::Refused(_) if !request.is_unspoofed() && asked_len(message) < SHORTEST_CHALLENGED_LEN => {
                Fault::BAD_REQUEST
            }
            fault => fault,
        };
        let mut writer = Writer::new(Class::Error, message.method(), message.transaction_id());
        writer.error_code(fault.code());
        match fault {
            Fault::Refused(Refusal::BadRequest) | Fault::Turn(_) => {}
            Fault::UnknownAttributes(kinds) => writer.unknown_attributes(kinds),
            Fault::Refused(Refusal::Unauthenticated | Refusal::StaleNonce) => {
                let unix_s = self.unix_s(request.now).unwrap_or_default();
                self.auth.write_challenge(&mut writer, request.origin(), unix_s);
            }
        }
        seal(&mut writer, proof.map(|proof| &proof.key), message.has_fingerprint());
        let is_free = writer.wire_len() <= message.wire_len() || proof.is_some() || request.is_unspoofed();
        if !is_free && !self.budgets.take_amplified(request.now) {
            self.counters.dropped.amplified_budget += 1;
            return;
        }
        self.counters.errors.count(fault.code());
        self.counters.errors_by_method.of(message.method()).count(fault.code());
        self.transmit(request.listener.id, request.source, writer.finish());
    }
}

/// The length of a message without FINGERPRINT, which its answer repeats.
fn asked_len(message: &Message<'_>) -> usize {
    message.wire_len() - if message.has_fingerprint() { FINGERPRINT_LEN } else { 0 }
}

/// The distinct comprehension-required attributes this server does not know, in their order.
pub(crate) fn unknown_attributes<'l>(
    message: &Message<'_>,
    is_known: impl Fn(u16) -> bool,
    list: &'l mut [u16; MAX_UNKNOWN],
) -> &'l [u16] {
    let mut count = 0;
    for attribute in message.attributes() {
        let kind = attribute.kind;
        let is_unknown = attr::is_comprehension_required(kind) && !is_known(kind);
        if is_unknown && count < MAX_UNKNOWN && !list[..count].contains(&kind) {
            list[count] = kind;
            count += 1;
        }
    }
    &list[..count]
}

/// Ends an answer as its question was ended: integrity of the same kind, FINGERPRINT if there
/// was one.
pub(crate) fn seal(writer: &mut Writer, key: Option<&IntegrityKey>, fingerprint: bool) {
    if let Some(key) = key {
        writer.integrity(key);
    }
    if fingerprint {
        writer.fingerprint();
    }
}
