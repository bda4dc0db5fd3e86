//! What is known of NATs, for the next node behind one of them.
//!
//! Nodes say what they found out about the NAT in front of them. Whoever joins the same cluster from the same address
//! is told what the last one has said, so that it asks in a better order. It is a hint and no evidence: carriers put
//! many customers with routers of all kinds behind one address, and who speaks may lie. No class and no ticket rests on
//! it; a node that follows a wrong one loses a round trip.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::{ClusterName, Mapping, NatBehavior};

use crate::source::principal;

/// Places remembered; the one that nobody has spoken of for longest is forgotten first. About 200 bytes each.
const MAX_HINTS: usize = 4_096;
/// How long a hint is given: people change their routers seldom, and their networks more often.
const LIFETIME: Duration = Duration::from_secs(3_600);

/// An IPv4 address, or an IPv6 /64, as a cluster's nodes come from.
type Place = (ClusterName, IpAddr);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    known: BTreeMap<Place, (Instant, NatBehavior)>,
    by_age: BTreeSet<(Instant, Place)>,
}

impl Hints {
    /// A node that comes from there has found this out.
    pub(crate) fn note(&mut self, now: Instant, cluster: &ClusterName, source: IpAddr, found: NatBehavior) {
        // Where there is no NAT, or none was found, there is nothing to hint at.
        if found.mapping.is_none_or(|mapping| mapping == Mapping::None) || source.is_loopback() {
            return;
        }
        let place = (cluster.clone(), principal(source));
        let before = self.known.get(&place).copied();
        if let Some((at, _)) = before {
            self.by_age.remove(&(at, place.clone()));
        } else if self.known.len() >= MAX_HINTS
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.known.remove(&oldest);
        }
        // What takes minutes to measure is not forgotten because somebody has just come.
        let lifetime_s = found.lifetime_s.or(before.and_then(|(_, known)| known.lifetime_s));
        // Ports are each node's own.
        let hint = NatBehavior { allocator: None, lifetime_s, ..found };
        self.known.insert(place.clone(), (now, hint));
        self.by_age.insert((now, place));
    }

    /// What is known of the NAT that a node comes from behind.
    pub(crate) fn of(&self, now: Instant, cluster: &ClusterName, source: IpAddr) -> Option<NatBehavior> {
        let (at, hint) = self.known.get(&(cluster.clone(), principal(source)))?;
        (now < *at + LIFETIME).then_some(*hint)
    }
}

#[cfg(test)]
mod tests {
    use meetpoint_proto::Allocator;

    use super::*;

    fn cluster(name: &str) -> ClusterName {
        name.parse().unwrap()
    }

    fn found(mapping: Mapping, lifetime_s: Option<u32>) -> NatBehavior {
        let allocator = Some(Allocator::Random);
        NatBehavior { mapping: Some(mapping), allocator, lifetime_s, ..NatBehavior::default() }
    }

    #[allow(clippy::disallowed_methods, reason = "a test starts its own clock")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn who_is_told_what() {
        let symmetric = Mapping::AddressAndPortDependent;
        let cases = [
            // By cluster, and by address or prefix.
            ("a", "20.0.0.1", Some(symmetric)),
            ("b", "20.0.0.1", None),
            ("a", "20.0.0.2", None),
            ("a", "2606:4700::99", Some(Mapping::EndpointIndependent)),
            ("a", "2606:4700:0:1::1", None),
        ];
        let (mut hints, now) = (Hints::default(), start());
        hints.note(now, &cluster("a"), "20.0.0.1".parse().unwrap(), found(symmetric, None));
        hints.note(
            now,
            &cluster("a"),
            "2606:4700::1".parse().unwrap(),
            found(Mapping::EndpointIndependent, None),
        );
        for (name, source, expect) in cases {
            let hint = hints.of(now, &cluster(name), source.parse().unwrap());
            assert_eq!(hint.and_then(|hint| hint.mapping), expect, "{name} {source}");
            assert_eq!(hint.and_then(|hint| hint.allocator), None);
        }
        let (late, source) = (now + LIFETIME, "20.0.0.1".parse().unwrap());
        assert_eq!(hints.of(late, &cluster("a"), source), None, "it expires");
    }

    #[test]
    fn what_is_noted() {
        let (mut hints, now, name) = (Hints::default(), start(), cluster("a"));
        let source = IpAddr::from([20, 0, 0, 1]);
        hints.note(now, &name, source, NatBehavior::default());
        hints.note(now, &name, source, found(Mapping::None, None));
        hints.note(now, &name, [127, 0, 0, 1].into(), found(Mapping::EndpointIndependent, None));
        assert_eq!(hints.known.len(), 0, "no NAT, no hint");
        hints.note(now, &name, source, found(Mapping::EndpointIndependent, Some(60)));
        hints.note(now, &name, source, found(Mapping::AddressDependent, None));
        let hint = hints.of(now, &name, source).unwrap();
        assert_eq!((hint.mapping, hint.lifetime_s), (Some(Mapping::AddressDependent), Some(60)));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let (mut hints, now, name) = (Hints::default(), start(), cluster("a"));
        let place = |n: usize| IpAddr::from([20, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
        for n in 0..2 * MAX_HINTS {
            // The first one speaks again and again.
            for n in [n, 0] {
                let at = now + Duration::from_micros(n as u64);
                hints.note(at, &name, place(n), found(Mapping::EndpointIndependent, None));
            }
        }
        assert_eq!((hints.known.len(), hints.by_age.len()), (MAX_HINTS, MAX_HINTS));
        assert!(hints.of(now, &name, place(2 * MAX_HINTS - 1)).is_some());
        assert!(hints.of(now, &name, place(1)).is_none());
    }
}
