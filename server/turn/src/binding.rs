//! Answers Binding requests: who asks, what he may have, and the bytes.

use meetpoint_stun::Writer;

use crate::answer::{FINGERPRINT_LEN, Fault, MAX_UNKNOWN, Request, seal, unknown_attributes};
use crate::attr;
use crate::auth::{Proof, is_anonymous};
use crate::behaviour::{Change, Place, response_port};
use crate::message::{ATTRIBUTE_HEADER_LEN, BINDING, Class, Message};
use crate::server::{Output, StunServer};

/// The longest attribute value.
const MAX_VALUE_LEN: usize = u16::MAX as usize;
/// What PADDING is made of.
static ZEROS: [u8; MAX_VALUE_LEN] = [0; MAX_VALUE_LEN];

/// What a request wants of RFC 5780.
struct Wishes {
    change: Option<Change>,
    response_port: Option<u16>,
    padding: bool,
}

impl Wishes {
    /// Nothing if a wish is malformed, or if RESPONSE-PORT comes with PADDING, which RFC 5780,
    /// section 6.1 forbids: it would send long answers to somebody who did not ask.
    fn read(message: &Message<'_>) -> Option<Self> {
        let change = match message.attribute(attr::CHANGE_REQUEST) {
            Some(value) => Some(Change::from_attribute(value)?),
            None => None,
        };
        let response_port = match message.attribute(attr::RESPONSE_PORT) {
            Some(value) => Some(response_port(value)?),
            None => None,
        };
        let padding = message.attribute(attr::PADDING).is_some();
        (!padding || response_port.is_none()).then_some(Self { change, response_port, padding })
    }

    const fn is_any(&self) -> bool {
        self.change.is_some() || self.response_port.is_some() || self.padding
    }
}

impl StunServer {
    /// Finds out who asks and takes the answer out of his budget.
    pub(crate) fn binding(&mut self, request: &Request<'_>) {
        let message = &request.message;
        if is_anonymous(message) {
            if self.take_source(request, request.stranger()) {
                self.answer(request, None);
            }
            return;
        }
        if let Some(proof) = self.authenticated(request) {
            self.answer(request, Some(&proof));
        }
    }

    /// Answers a request whose sender is in order: anybody, or the user of `proof`.
    fn answer(&mut self, request: &Request<'_>, proof: Option<&Proof<'_>>) {
        let mut unknown = [0; MAX_UNKNOWN];
        let is_stream = request.listener.transport.is_stream();
        let is_known = |kind| attr::is_known_in_binding(kind) && !(is_stream && attr::is_redirection(kind));
        let unknown = unknown_attributes(&request.message, is_known, &mut unknown);
        if !unknown.is_empty() {
            return self.fault(request, proof, Fault::UnknownAttributes(unknown));
        }
        let Some(wishes) = Wishes::read(&request.message) else {
            return self.fault(request, proof, Fault::BAD_REQUEST);
        };
        let Some(from) = self.origin(request, &wishes) else {
            return self.fault(request, proof, Fault::UnknownAttributes(&[attr::CHANGE_REQUEST]));
        };
        let mut to = request.source;
        to.set_port(wishes.response_port.unwrap_or(to.port()));
        let is_redirected = from.id != request.listener.id || to != request.source;
        let is_trusted = proof.is_some() || request.is_exempt;
        if is_redirected && !is_trusted && !self.budgets.take_redirected(request.now) {
            self.counters.dropped.redirected_budget += 1;
            return;
        }
        let writer = self.success(request, &wishes, from, proof);
        self.counters.binding.redirected += u64::from(is_redirected);
        match proof {
            None => self.counters.binding.anonymous += 1,
            Some(_) => self.counters.binding.authenticated += 1,
        }
        self.transmit(from.id, to, writer.finish());
        // A mapping of TCP's is none that a peer's datagrams could go to.
        if let Some(proof) = proof.filter(|_| !is_stream) {
            self.push(Output::Observed {
                username: proof.username().to_owned(),
                source: request.seen,
                listener: request.listener.id,
            });
        }
    }

    /// The listener to answer from (RFC 5780, section 6.1), if there is one.
    fn origin(&self, request: &Request<'_>, wishes: &Wishes) -> Option<Place> {
        let at = &request.listener;
        match wishes.change {
            None => Some(*at),
            Some(change) if self.listeners.has_alternates(at) => self.listeners.changed(at, change).copied(),
            Some(_) => None,
        }
    }

    /// Writes a success response, complete but for its length.
    fn success(
        &mut self,
        request: &Request<'_>,
        wishes: &Wishes,
        from: Place,
        proof: Option<&Proof<'_>>,
    ) -> Writer {
        let transaction_id = request.message.transaction_id();
        let mut writer = Writer::new(Class::Success, BINDING, transaction_id);
        writer.xor_address(attr::XOR_MAPPED_ADDRESS, request.seen);
        let tail_len = tail_len(&request.message, proof);
        let question_len = request.message.wire_len();
        if self.listeners.has_alternates(&from) || wishes.is_any() {
            let mut full = writer.clone();
            full.address(attr::MAPPED_ADDRESS, request.seen);
            if !from.addr.ip().is_unspecified() {
                full.address(attr::RESPONSE_ORIGIN, from.addr);
            }
            if let Some(other) = self.listeners.other_address(&request.listener) {
                full.address(attr::OTHER_ADDRESS, other);
            }
            let is_short = full.wire_len() + tail_len <= question_len;
            let is_free = is_short || proof.is_some() || request.is_unspoofed();
            if is_free || self.budgets.take_amplified(request.now) {
                writer = full;
            } else {
                self.counters.binding.trimmed += 1;
            }
        }
        if wishes.padding {
            pad(&mut writer, question_len, tail_len);
        }
        seal(&mut writer, proof.map(|proof| &proof.key), request.message.has_fingerprint());
        writer
    }
}

/// The length of what [`seal`] will add.
fn tail_len(question: &Message<'_>, proof: Option<&Proof<'_>>) -> usize {
    let integrity = proof.map_or(0, |proof| ATTRIBUTE_HEADER_LEN + proof.key.kind().value_len());
    let fingerprint = if question.has_fingerprint() { FINGERPRINT_LEN } else { 0 };
    integrity + fingerprint
}

/// Adds as much PADDING as keeps the answer no longer than the question: RFC 5780 suggests a
/// whole MTU, which would let one packet ask for a larger one.
fn pad(writer: &mut Writer, question_len: usize, tail_len: usize) {
    let used = writer.wire_len() + ATTRIBUTE_HEADER_LEN + tail_len;
    if let Some(room) = question_len.checked_sub(used) {
        writer.attribute(attr::PADDING, &ZEROS[..room.min(MAX_VALUE_LEN)]);
    }
}
