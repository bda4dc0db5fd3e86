//! Asks a seed for a proof: one short request, whose answer is a signature over our nonce.

use std::io;
use std::net::SocketAddr;

use hyper::StatusCode;
use meetpoint_proto::PublicKey;
use meetpoint_proto::id::Nonce;
use meetpoint_proto::vouch::{PROOF_PATH, SeedProof};

use super::fetch::{Question, fetch};
use crate::secrets;

/// Why there is no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unproven {
    /// Nobody answered, or not as a Meetpoint server does. What happened instead is not told: it would
    /// say which ports are open.
    Silent,
    /// A Meetpoint server answered, which does not know the address as its own.
    NotHere,
}

impl From<io::Error> for Unproven {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

/// Whose key is shown at this address. Time is bounded by the caller.
pub(super) async fn ask(at: SocketAddr) -> Result<PublicKey, Unproven> {
    let nonce = Nonce::from_bytes(secrets::random().map_err(io::Error::other)?);
    let here = at.to_string();
    let query = here.replace('[', "%5B").replace(']', "%5D");
    let (status, body) = fetch(at, Question::get(format!("{PROOF_PATH}?nonce={nonce}&at={query}"))).await?;
    match status {
        StatusCode::OK => {
            let proof: SeedProof = serde_json::from_slice(&body).map_err(io::Error::from)?;
            if proof.answers(&nonce, &here) { Ok(proof.public_key) } else { Err(Unproven::Silent) }
        }
        StatusCode::MISDIRECTED_REQUEST => Err(Unproven::NotHere),
        _ => Err(Unproven::Silent),
    }
}
