//! Which address a node is judged by.

use std::net::IpAddr;

use super::fits;
use crate::addr::{self, AddressClass};
use crate::code::Code;

/// What the user says of the node's address (`--node-addr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Nothing.
    No,
    /// The address that the server sees.
    AsSeen,
    /// Another one.
    Other,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressOutcome {
    /// The node is where the server sees it.
    AsSeen,
    /// The server sees a NAT's address; the node behind it is private, whatever its own address claims.
    BehindNat,
    /// The user is mistaken.
    Mismatch(Code),
}

/// One row of [`ADDRESS`]. An empty list means "any".
#[derive(Debug)]
pub struct AddressRow {
    /// Stable.
    pub name: &'static str,
    /// What the user says.
    pub named: &'static [Named],
    /// The class of the address that the server sees.
    pub seen: &'static [AddressClass],
    /// Whether the node itself uses that address; `None`: either way.
    pub own: Option<bool>,
    /// What follows.
    pub outcome: AddressOutcome,
}

/// Which address counts. The last row takes whatever is left.
pub const ADDRESS: &[AddressRow] = &[
    AddressRow {
        name: "address/named-elsewhere",
        named: &[Named::Other],
        seen: &[],
        own: None,
        outcome: AddressOutcome::Mismatch(Code::NodeAddrMismatch),
    },
    AddressRow {
        name: "address/named",
        named: &[Named::AsSeen],
        seen: &[],
        own: None,
        outcome: AddressOutcome::AsSeen,
    },
    AddressRow {
        name: "address/behind-nat",
        named: &[Named::No],
        seen: &[AddressClass::Public],
        own: Some(false),
        outcome: AddressOutcome::BehindNat,
    },
    AddressRow { name: "address/own", named: &[], seen: &[], own: None, outcome: AddressOutcome::AsSeen },
];

/// The row of [`ADDRESS`] that decides.
#[must_use]
pub fn address(named: Named, seen: AddressClass, own: bool) -> &'static AddressRow {
    let row = ADDRESS.iter().find(|row| {
        fits(row.named, &named) && fits(row.seen, &seen) && row.own.is_none_or(|wanted| wanted == own)
    });
    row.unwrap_or(&ADDRESS[ADDRESS.len() - 1])
}

/// The class of the address a node is judged by.
///
/// `seen` is the address the server sees, `local` the one the node says it uses towards the server,
/// `declared` its `--node-addr`.
///
/// # Errors
/// [`Code::NodeAddrMismatch`] if the declared address is not the one the server sees.
pub fn node_address(seen: IpAddr, local: IpAddr, declared: Option<IpAddr>) -> Result<AddressClass, Code> {
    let (seen, local) = (addr::canonical(seen), addr::canonical(local));
    let named = match declared {
        None => Named::No,
        Some(declared) if addr::canonical(declared) == seen => Named::AsSeen,
        Some(_) => Named::Other,
    };
    let class = addr::classify(seen);
    match address(named, class, local == seen).outcome {
        AddressOutcome::AsSeen => Ok(class),
        AddressOutcome::BehindNat => Ok(AddressClass::Private),
        AddressOutcome::Mismatch(code) => Err(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_address_table() {
        use AddressClass::{Loopback, Private, Public};
        let cases = [
            ("127.0.0.1", "127.0.0.1", None, Ok(Loopback)),
            ("10.0.0.2", "10.0.0.2", None, Ok(Private)),
            ("20.0.0.9", "10.0.0.2", None, Ok(Private)),
            ("20.0.0.9", "20.0.0.9", None, Ok(Public)),
            ("20.0.0.9", "20.0.0.8", None, Ok(Private)),
            ("20.0.0.9", "10.0.0.2", Some("20.0.0.9"), Ok(Public)),
            ("20.0.0.9", "10.0.0.2", Some("20.0.0.7"), Err(Code::NodeAddrMismatch)),
            ("::ffff:10.0.0.2", "10.0.0.2", None, Ok(Private)),
        ];
        for (observed, local, declared, expect) in cases {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            let found = node_address(ip(observed), ip(local), declared.map(ip));
            assert_eq!(found, expect, "{observed} {local} {declared:?}");
        }
    }
}
