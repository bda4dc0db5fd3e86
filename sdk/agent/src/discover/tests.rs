//! What the answers of a NAT amount to.

use super::*;

const INSIDE: &str = "10.0.0.2:50000";

fn discovery(server: StunServer, outcomes: &[(Test, Outcome)]) -> Discovery {
    Discovery {
        phase: Phase::Mapping,
        outcomes: outcomes.iter().copied().collect(),
        ..Discovery::asleep(server)
    }
}

fn server() -> StunServer {
    let primary = "20.0.0.1:3478".parse().unwrap();
    StunServer { primary, alternate: Some([20, 0, 0, 2].into()), alternate_port: Some(3479) }
}

fn mapped(port: u16) -> Outcome {
    Outcome::Mapped(SocketAddr::from(([20, 0, 9, 1], port)))
}

/// RFC 5780, section 4.4. Without an answer that settles it, nothing is claimed.
#[test]
fn filtering_table() {
    use Filtering as F;
    use Outcome::{Silent, Untold};
    let cases = [
        (Some(mapped(1)), Some(mapped(1)), Some(F::EndpointIndependent)),
        (Some(mapped(1)), Some(Silent), Some(F::EndpointIndependent)),
        (Some(Silent), Some(mapped(1)), Some(F::AddressDependent)),
        (Some(Silent), Some(Silent), Some(F::AddressAndPortDependent)),
        (Some(Untold), Some(mapped(1)), None),
        (Some(Untold), Some(Silent), Some(F::AddressAndPortDependent)),
        (None, Some(mapped(1)), None),
        (None, Some(Silent), Some(F::AddressAndPortDependent)),
        (Some(mapped(1)), None, Some(F::EndpointIndependent)),
        (Some(Silent), None, None),
        (None, None, None),
    ];
    for (ip, port, expect) in cases {
        let outcomes = [(Test::FromOtherIp, ip), (Test::FromOtherPort, port)];
        let outcomes: Vec<(Test, Outcome)> =
            outcomes.into_iter().filter_map(|(test, outcome)| Some((test, outcome?))).collect();
        assert_eq!(discovery(server(), &outcomes).filtering(), expect, "{ip:?} {port:?}");
    }
}

/// RFC 5780, section 4.3; the ports are those of the mapping towards each place.
#[test]
fn mapping_table() {
    use Mapping as M;
    let cases = [
        ([Some(1), Some(1), Some(1)], Some(M::EndpointIndependent)),
        ([Some(2), Some(2), Some(1)], Some(M::AddressDependent)),
        ([Some(2), Some(3), Some(4)], Some(M::AddressAndPortDependent)),
        ([Some(2), Some(3), None], Some(M::AddressAndPortDependent)),
        ([Some(2), Some(2), None], Some(M::AddressDependent)),
        // With one address only the worst can be told, with one port only the best.
        ([None, None, Some(4)], Some(M::AddressAndPortDependent)),
        ([None, None, Some(1)], None),
        ([Some(1), None, None], Some(M::EndpointIndependent)),
        ([Some(2), None, None], None),
        ([None, None, None], None),
    ];
    let network = Network::default();
    for (ports, expect) in cases {
        let tests = [Test::ToOtherIp, Test::ToOtherBoth, Test::ToOtherPort];
        let found =
            tests.into_iter().zip(ports).map(|(test, port)| (test, port.map_or(Outcome::Silent, mapped)));
        let outcomes: Vec<(Test, Outcome)> = found.chain([(Test::Baseline, mapped(1))]).collect();
        assert_eq!(discovery(server(), &outcomes).mapping(&network), expect, "{ports:?}");
    }
}

#[test]
fn the_own_address_is_no_nat() {
    let inside: SocketAddr = INSIDE.parse().unwrap();
    let interface = crate::api::Interface { ip: inside.ip(), prefix_len: 24 };
    let network = Network::new(vec![interface], Some(1), None);
    let found = discovery(server(), &[(Test::Baseline, Outcome::Mapped(inside))]);
    assert_eq!(found.mapping(&network), Some(Mapping::None));
}

/// A server that ignores CHANGE-REQUEST answers from where it was asked.
#[test]
fn answers_count_only_from_where_they_were_asked_for() {
    let found = discovery(server(), &[]);
    let cases = [
        (Test::Baseline, "20.0.0.1:3478", true),
        (Test::Baseline, "20.0.0.1:3479", false),
        (Test::FromOtherIp, "20.0.0.2:3479", true),
        (Test::FromOtherIp, "20.0.0.1:3478", false),
        (Test::FromOtherPort, "20.0.0.1:3479", true),
        (Test::FromOtherPort, "20.0.0.1:3478", false),
        (Test::ToOtherIp, "20.0.0.2:3478", true),
        (Test::ToOtherBoth, "20.0.0.2:3479", true),
        (Test::ToOtherPort, "20.0.0.1:3479", true),
        (Test::ToOtherPort, "20.0.0.2:3479", false),
    ];
    for (test, source, expect) in cases {
        assert_eq!(found.is_from_where_asked(test, source.parse().unwrap()), expect, "{test:?} {source}");
    }
}
