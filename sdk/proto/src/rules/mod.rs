//! Who may join, and as what: the rules as data.
//!
//! Each table is a list of rows, read from the top; the first row that fits decides. Server, node and
//! simulator decide by these rows alone, and `docs/rules.md` is printed from them. A row's name is stable:
//! events, tests and documents speak of it.
//!
//! * [`CLUSTER`]: what a cluster amounts to, by its type and its seeds.
//! * [`SEED`]: what a seed counts as, by what was said of it and what its address is.
//! * [`ADDRESS`]: which address a node is judged by.
//! * [`ADMISSION`]: who is admitted, and as what.
//! * [`DISCOVERY`]: what the STUN discovery's outcome makes of a node.
//! * [`EVIDENCE`]: what a mapping tells of the NAT in front of a node.
//!
//! Deliberately absent: how the facts are found, and time. How long a member may fail is
//! [`PROBATION_MS`]; who counts it is the broker.

mod address;
mod admission;
mod cluster;
mod discovery;
mod seed;

pub use address::{ADDRESS, AddressOutcome, AddressRow, Named, address, node_address};
pub use admission::{ADMISSION, Admission, AdmissionRow, NodeFacts, admission, admit};
pub use cluster::{CLUSTER, ClusterRow, SeedFacts, Seeds, cluster, effective};
pub use discovery::{
    Becomes, DISCOVERY, Discovery, DiscoveryRow, EVIDENCE, EvidenceRow, Found, Mapped, Punchable,
    StunOutcome, evidence, refine,
};
pub use seed::{SEED, SeedOutcome, SeedRow, SeedWord, seed, seed_check};

/// How long a member may fail before it is rejected: a new member of a PUBLIC cluster until it has
/// proven that it is reachable, and any member after its cluster or its own network changed. A node
/// that moves has found its new place, and been observed there, in far less.
pub const PROBATION_MS: u64 = 60_000;

/// How long nothing may have been sent to an address for what comes from there to be unsolicited. Some
/// five times as long as a NAT must remember a packet (RFC 4787, REQ-5).
pub const UNSOLICITED_MS: u64 = 600_000;

/// True if the row's list is empty, which means "any", or has the value.
fn fits<T: PartialEq>(list: &[T], value: &T) -> bool {
    list.is_empty() || list.contains(value)
}
