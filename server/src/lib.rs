//! The Meetpoint rendezvous service: STUN, control channel, REST, registry.
//!
//! [`ServeArgs`] are the flags, [`ServeArgs::validate`] makes a [`ServeConfig`] of them,
//! [`Server::bind`] takes the sockets and the data directory, [`Server::run`] serves.
//!
//! # Who does what
//!
//! * `http` listens, answers the REST interface and carries the control channel's frames;
//! * `rendezvous` is the one task that holds the broker;
//! * `udp` is the one task that holds the STUN server;
//! * `stream` carries STUN and TURN over TCP and TLS to it;
//! * `identity` is the certificate of all listeners, and is reloaded while they run;
//! * `api_tokens` are those of the REST interface, and are replaced while it is in use;
//! * `anybody` is TLS for connections on which the other side proves itself in another way;
//! * `seeds` judges the seeds at the start, and asks them whether they are there;
//! * `events` is the ring of what happened lately, and who reads along;
//! * `limits` counts who comes how often;
//! * `service` has the use cases, `store` the SQL and the one task that writes.
//!
//! Tasks talk by bounded channels. The unexpected end of any of them ends the server with an error.
//!
//! Deliberately absent: decisions about nodes (they are the broker's and the rules'), printing, and
//! the handling of signals (both are the binary's).

mod anybody;
mod api_tokens;
mod chain;
mod clock;
mod config;
mod data_dir;
mod defence;
mod drain;
mod events;
mod http;
mod identity;
mod limits;
mod listen;
mod live;
mod metrics;
mod pace;
mod reload;
mod rendezvous;
mod restore;
mod secrets;
mod seeds;
mod server;
mod service;
mod store;
mod stream;
mod udp;
mod warning;

pub use anybody::connector as tls_with_anybody;
pub use chain::{AuditBroken, AuditChain, AuditEntry, AuditHash, AuditHead, ParseHashError, canonical_json};
pub use config::{
    AccessArgs, AccessLimits, ClusterArgs, ConfigError, ForeignCluster, GivenToken, Invocation, LayerError,
    Layered, LimitArgs, ListenArgs, MAX_ADMIN_TOKEN_LEN, MIN_ADMIN_TOKEN_LEN, Origin, PortRange, QuotaArgs,
    RegisterWith, RelayArgs, RelaySettings, Secret, SeedTiming, ServeArgs, ServeConfig, Setting, StreamAddr,
    StreamAddrs, TlsArgs, TlsFiles,
};
pub use data_dir::DataError;
pub use drain::Drain;
pub use identity::IdentityError;
pub use limits::{Block, ParsePolicyError, Policy, Quota};
pub use live::{ConfigSource, Fresh};
pub use reload::Reload;
pub use restore::{BackupError, BackupInfo, Restored, restore, verify_backup};
pub use secrets::SecretsError;
pub use server::{Info, RunError, Server, StartError};
pub use service::{AuditError, verify_audit};
pub use store::{OpenError, newest_schema};
pub use udp::StunError;
pub use warning::Warning;

/// The REST contract, as it is committed in `openapi.yaml`.
#[must_use]
pub fn openapi_yaml() -> String {
    http::contract()
}
