//! What was found, in JSON and for people. Pure: it looks at nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meetpoint::PortMapping;
use meetpoint_proto::explain::{Party, Prospect, nat, prospect};
use meetpoint_proto::rules::{self, Admission, NodeFacts, StunOutcome};
use meetpoint_proto::{
    ClusterNetwork, Code, EffectiveNetwork, Filtering, Mapping, NatBehavior, NetworkClass, addr,
};
use serde_json::{Value, json};

/// How long it took, or what was in the way.
pub(super) type Reached = Result<Duration, String>;

/// What was found about one server.
#[derive(Debug)]
pub(super) struct ServerFindings {
    pub(super) url: String,
    /// A TCP connection.
    pub(super) control: Reached,
    /// Its state, by TLS if the URL says so.
    pub(super) status: Result<Value, String>,
    /// STUN by UDP over IPv4 and IPv6; `None` if the server has no such address.
    pub(super) udp: [Option<Reached>; 2],
    /// By TCP and by TLS; `None` if the server says that it does not answer there.
    pub(super) tcp: Option<Reached>,
    pub(super) tls: Option<Reached>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) servers: Vec<ServerFindings>,
    /// The address that this machine uses towards the first server that answered.
    pub(super) local: Option<IpAddr>,
    /// The address under which that server sees it, by UDP.
    pub(super) mapped: Option<SocketAddr>,
    pub(super) behavior: Option<NatBehavior>,
    /// This machine has a way to the IPv6 internet.
    pub(super) has_ipv6: bool,
    /// What the router answers to; `None` if that could not be asked.
    pub(super) ports: Option<PortMapping>,
}

/// What other nodes may sit behind, from the easiest to the hardest.
const PEERS: [(Mapping, Filtering); 5] = [
    (Mapping::None, Filtering::EndpointIndependent),
    (Mapping::EndpointIndependent, Filtering::EndpointIndependent),
    (Mapping::EndpointIndependent, Filtering::AddressDependent),
    (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent),
    (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent),
];

impl Findings {
    /// A server answers, and none does by UDP; `None` if no server was asked by UDP, or none answers at all.
    fn udp_blocked(&self) -> Option<bool> {
        let asked = || self.servers.iter().flat_map(|server| server.udp.iter().flatten());
        if asked().any(Result::is_ok) {
            return Some(false);
        }
        (asked().next().is_some() && self.any_answer()).then_some(true)
    }

    /// What is known of the NAT. Silence alone says nothing of it, but together with an answer by TCP it does.
    fn known(&self) -> Option<NatBehavior> {
        let udp_blocked = self.udp_blocked() == Some(true);
        let blocked = NatBehavior { udp_blocked, ..NatBehavior::default() };
        self.behavior.or(udp_blocked.then_some(blocked))
    }

    /// What a server would make of this machine as a node: the tables decide, by what STUN alone can tell.
    fn class(&self) -> Option<Result<NetworkClass, Code>> {
        let status = self.servers.iter().find_map(|server| server.status.as_ref().ok())?;
        let cluster = status["clusters"].as_array()?.iter().find(|cluster| cluster["name"] == "default")?;
        let kind: ClusterNetwork = cluster["type"].as_str()?.parse().ok()?;
        let effective: EffectiveNetwork = cluster["effective"].as_str()?.parse().ok()?;
        let local = self.local?;
        let seen = self.mapped.map_or(local, |mapped| mapped.ip());
        let address = match (effective, rules::node_address(seen, local, None)) {
            // As the server sees a connection that no NAT is needed for.
            (EffectiveNetwork::Private, _) => addr::classify(local),
            (EffectiveNetwork::Public, Ok(address)) => address,
            (EffectiveNetwork::Public, Err(code)) => return Some(Err(code)),
        };
        Some(match rules::admit(&NodeFacts { effective, kind, address, declared: None }) {
            Admission::Admit { class, .. } => Ok(class),
            Admission::Reject(code) => Err(code),
            Admission::Discover(discovery) => {
                let (_, found) = rules::refine(discovery, self.stun(), false);
                found.map(|found| found.class)
            }
        })
    }

    /// An answer that came from a place that nothing was sent to is what a dial-back proves.
    fn stun(&self) -> StunOutcome {
        let filtering = self.behavior.and_then(|behavior| behavior.filtering);
        match (self.mapped, filtering) {
            (None, _) => StunOutcome::NoAnswer,
            (Some(_), Some(Filtering::EndpointIndependent)) => StunOutcome::Proven,
            (Some(_), _) => StunOutcome::Answered,
        }
    }

    /// How this machine would meet nodes behind each kind of NAT.
    fn meets(&self) -> Vec<(&'static str, &'static str)> {
        let class = match self.stun() {
            StunOutcome::NoAnswer => Some(NetworkClass::Unreachable),
            StunOutcome::Proven | StunOutcome::Unsolicited => Some(NetworkClass::PublicReachable),
            StunOutcome::Answered => None,
        };
        let party = |class, behavior| Party { name: "", present: true, class, behavior };
        let own = party(class, self.known());
        let how = |(mapping, filtering)| {
            let mut behavior = NatBehavior::default();
            (behavior.mapping, behavior.filtering) = (Some(mapping), Some(filtering));
            let peer = party(None, Some(behavior));
            (nat(peer.behavior), word(prospect(&own, &peer)))
        };
        PEERS.into_iter().map(how).collect()
    }

    /// The router that would map a port is the one that the server sees: a node by it could be reached by anybody.
    fn opens(&self, ports: &PortMapping) -> bool {
        let maps = ports.pcp || ports.nat_pmp || ports.upnp;
        maps && ports.external.is_some() && ports.external == self.mapped.map(|mapped| mapped.ip())
    }

    fn ports_json(&self) -> Value {
        let Some(ports) = &self.ports else { return Value::Null };
        json!({
            "router": ports.router.map(|ip| ip.to_string()),
            "pcp": ports.pcp,
            "nat_pmp": ports.nat_pmp,
            "upnp": ports.upnp,
            "external": ports.external.map(|ip| ip.to_string()),
            "opens": self.opens(ports),
        })
    }

    fn ports_text(&self) -> String {
        let Some(ports) = &self.ports else { return "unknown: the router could not be asked".to_owned() };
        let spoken = [(ports.pcp, "PCP"), (ports.nat_pmp, "NAT-PMP"), (ports.upnp, "UPnP IGD")];
        let spoken: Vec<&str> =
            spoken.into_iter().filter(|(is_spoken, _)| *is_spoken).map(|(_, name)| name).collect();
        let router = ports.router.map_or_else(String::new, |ip| format!(" {ip}"));
        match (&spoken[..], ports.external) {
            ([], _) if ports.router.is_none() => "mapped by no router: none is known".to_owned(),
            ([], _) => format!("not mapped: the router{router} answers to neither PCP, NAT-PMP nor UPnP IGD"),
            (_, Some(external)) if self.opens(ports) => format!(
                "mapped by the router{router} ({external}) by {}: a node here can be reached by all",
                spoken.join(", ")
            ),
            (_, Some(external)) => format!(
                "mapped by the router{router} by {}, whose address {external} is not the one that is seen",
                spoken.join(", ")
            ),
            (_, None) => format!("mapped by the router{router} by {}", spoken.join(", ")),
        }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let behavior = self.behavior.unwrap_or_default();
        let class = self.class();
        let meets = self.meets().into_iter().map(|(peer, how)| json!({ "peer": peer, "how": how }));
        json!({
            "servers": self.servers.iter().map(ServerFindings::json).collect::<Vec<_>>(),
            "local": self.local.map(|ip| ip.to_string()),
            "mapped": self.mapped.map(|addr| addr.to_string()),
            "nat": {
                "kind": self.known().map(|_| nat(self.known())),
                "mapping": behavior.mapping.map(Mapping::as_str),
                "filtering": behavior.filtering.map(Filtering::as_str),
                "double_nat": behavior.double_nat,
                "depth": behavior.depth,
            },
            "udp_blocked": self.udp_blocked(),
            "ipv6": self.has_ipv6,
            "port_mapping": self.ports_json(),
            "class": class.and_then(Result::ok).map(NetworkClass::as_str),
            "refused": class.and_then(Result::err).map(|code| code.as_str()),
            "meets": meets.collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut lines: Vec<String> = self.servers.iter().map(ServerFindings::text).collect();
        let mut line = |name: &str, text: String| lines.push(format!("{name:<10} {text}"));
        let local = self.local.map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
        line(
            "address",
            match self.mapped {
                Some(mapped) => format!("{local}, seen as {mapped}"),
                None => format!("{local}, and no answer by UDP"),
            },
        );
        line(
            "nat",
            match self.behavior {
                None if self.udp_blocked() == Some(true) => nat(self.known()).to_owned(),
                None => "unknown: no answer by UDP".to_owned(),
                Some(NatBehavior { mapping, filtering, .. }) => format!(
                    "{} (mapping {}, filtering {})",
                    nat(self.behavior),
                    mapping.map_or("unknown", Mapping::as_str),
                    filtering.map_or("unknown", Filtering::as_str)
                ),
            },
        );
        if let Some(behavior) = self.behavior.filter(|behavior| behavior.mapping != Some(Mapping::None)) {
            let silent = || "unknown: the first routers do not all say who they are".to_owned();
            line("depth", behavior.depth.map_or_else(silent, |depth| depth.to_string()));
        }
        line("ipv6", if self.has_ipv6 { "yes" } else { "no" }.to_owned());
        line("ports", self.ports_text());
        match self.class() {
            Some(Ok(class)) => line("class", format!("{class}, as far as STUN alone can tell")),
            Some(Err(code)) => line("class", format!("refused by this cluster: {code}; {}", code.hint())),
            None => {}
        }
        let meets = self.meets();
        for how in ["directly", "directly, if ports are guessed", "by a relay", "unknown"] {
            let peers: Vec<&str> =
                meets.iter().filter(|(_, word)| *word == how).map(|(peer, _)| *peer).collect();
            if !peers.is_empty() {
                line("meets", format!("{how}: nodes behind {}", peers.join(", ")));
            }
        }
        lines.join("\n")
    }

    /// At least one server answered at all.
    pub(super) fn any_answer(&self) -> bool {
        self.servers
            .iter()
            .any(|server| server.control.is_ok() || server.udp.iter().flatten().any(Result::is_ok))
    }
}

const fn word(prospect: Prospect) -> &'static str {
    match prospect {
        Prospect::Direct => "directly",
        Prospect::Guess | Prospect::GuessBoth => "directly, if ports are guessed",
        Prospect::TooFewPorts | Prospect::Relay | Prospect::NoUdp => "by a relay",
        Prospect::Unknown => "unknown",
    }
}

impl ServerFindings {
    fn parts(&self) -> [(&'static str, Option<&Reached>); 5] {
        let [udp4, udp6] = self.udp.each_ref().map(Option::as_ref);
        [
            ("control", Some(&self.control)),
            ("udp", udp4),
            ("udp6", udp6),
            ("tcp", self.tcp.as_ref()),
            ("tls", self.tls.as_ref()),
        ]
    }

    fn json(&self) -> Value {
        let mut server = json!({
            "url": self.url,
            "version": self.status.as_ref().ok().map(|status| status["version"].clone()),
            "status_error": self.status.as_ref().err(),
        });
        for (name, reached) in self.parts() {
            server[name] = match reached {
                None => Value::Null,
                Some(Ok(rtt)) => json!({ "ok": true, "rtt_ms": millis(*rtt) }),
                Some(Err(error)) => json!({ "ok": false, "error": error }),
            };
        }
        server
    }

    fn text(&self) -> String {
        let parts = self.parts().into_iter().filter_map(|(name, reached)| {
            Some(match reached? {
                Ok(rtt) => format!("{name} {:.1} ms", millis(*rtt)),
                Err(error) => format!("{name} not reached ({error})"),
            })
        });
        let status = self.status.as_ref().err().map(|error| format!("its state is unknown ({error})"));
        format!("{:<10} {}: {}", "server", self.url, parts.chain(status).collect::<Vec<_>>().join(", "))
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(
        kind: &str,
        effective: &str,
        mapped: Option<&str>,
        nat: Option<(Mapping, Filtering)>,
    ) -> Findings {
        let status = json!({ "clusters": [{ "name": "default", "type": kind, "effective": effective }] });
        let behavior = nat.map(|(mapping, filtering)| {
            let mut behavior = NatBehavior::default();
            (behavior.mapping, behavior.filtering) = (Some(mapping), Some(filtering));
            behavior
        });
        let server = ServerFindings {
            url: "https://20.0.0.1:8080".to_owned(),
            control: Ok(Duration::from_micros(12_345)),
            status: Ok(status),
            udp: [
                Some(mapped.map(|_| Duration::from_millis(11)).ok_or_else(|| "no answer".to_owned())),
                None,
            ],
            tcp: None,
            tls: Some(Err("refused".to_owned())),
        };
        Findings {
            servers: vec![server],
            local: Some([10, 0, 1, 2].into()),
            mapped: mapped.map(|addr| addr.parse().unwrap()),
            behavior,
            has_ipv6: false,
            ports: Some(ports(true, false, "20.0.8.1")),
        }
    }

    /// A router that speaks NAT-PMP, or UPnP, and says that this is its address.
    fn ports(nat_pmp: bool, upnp: bool, external: &str) -> PortMapping {
        let mut ports = PortMapping::default();
        (ports.router, ports.external) = (Some([10, 0, 1, 1].into()), external.parse().ok());
        (ports.nat_pmp, ports.upnp) = (nat_pmp, upnp);
        ports
    }

    #[test]
    fn what_the_router_does() {
        let none = PortMapping::default();
        for (ports, text, opens) in [
            (Some(none), "mapped by no router: none is known", Some(false)),
            (
                Some(ports(false, false, "")),
                "not mapped: the router 10.0.1.1 answers to neither PCP, NAT-PMP nor UPnP IGD",
                Some(false),
            ),
            (
                Some(ports(true, true, "20.0.9.1")),
                "mapped by the router 10.0.1.1 (20.0.9.1) by NAT-PMP, UPnP IGD: a node here can be reached by all",
                Some(true),
            ),
            (
                Some(ports(false, true, "100.64.0.2")),
                "mapped by the router 10.0.1.1 by UPnP IGD, whose address 100.64.0.2 is not the one that is seen",
                Some(false),
            ),
            (Some(ports(true, false, "")), "mapped by the router 10.0.1.1 by NAT-PMP", Some(false)),
            (None, "unknown: the router could not be asked", None),
        ] {
            let found = Findings { ports, ..findings("DYNAMIC", "PUBLIC", Some("20.0.9.1:7000"), None) };
            assert_eq!(found.ports_text(), text);
            assert_eq!(found.json()["port_mapping"]["opens"].as_bool(), opens, "{text}");
        }
    }

    #[test]
    fn classes_are_those_of_the_tables() {
        use Filtering::{AddressAndPortDependent as Port, EndpointIndependent as Open};
        let (home, cone) = ((Mapping::EndpointIndependent, Port), (Mapping::EndpointIndependent, Open));
        let seen = Some("20.0.9.1:7000");
        let cases = [
            ("DYNAMIC", "PUBLIC", seen, Some(home), Ok(NetworkClass::Private)),
            ("DYNAMIC", "PUBLIC", seen, Some(cone), Ok(NetworkClass::PublicReachable)),
            ("DYNAMIC", "PUBLIC", None, None, Err(Code::Unreachable)),
            ("DYNAMIC", "PRIVATE", seen, Some(home), Ok(NetworkClass::Private)),
            ("PUBLIC", "PUBLIC", seen, Some(home), Err(Code::PrivateNodeInPublicCluster)),
        ];
        for (kind, effective, mapped, nat, expect) in cases {
            let found = findings(kind, effective, mapped, nat).class();
            assert_eq!(found, Some(expect), "{kind} {effective} {mapped:?} {nat:?}");
        }
    }

    #[test]
    fn it_says_what_that_means() {
        let nat = Some((Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent));
        let text = findings("DYNAMIC", "PUBLIC", Some("20.0.9.1:7000"), nat).text();
        let expect = "\
server     https://20.0.0.1:8080: control 12.3 ms, udp 11.0 ms, tls not reached (refused)
address    10.0.1.2, seen as 20.0.9.1:7000
nat        a symmetric NAT (mapping address-and-port-dependent, filtering address-and-port-dependent)
depth      unknown: the first routers do not all say who they are
ipv6       no
ports      mapped by the router 10.0.1.1 by NAT-PMP, whose address 20.0.8.1 is not the one that is seen
class      Private, as far as STUN alone can tell
meets      directly: nodes behind no NAT, a full-cone NAT, an address-restricted NAT
meets      directly, if ports are guessed: nodes behind a port-restricted NAT
meets      by a relay: nodes behind a symmetric NAT";
        assert_eq!(text, expect);
        let json = findings("DYNAMIC", "PUBLIC", None, None).json();
        assert_eq!(json["refused"], "unreachable");
        assert_eq!(
            (&json["udp_blocked"], &json["nat"]["kind"]),
            (&json!(true), &json!("a network that passes no UDP"))
        );
        assert_eq!(json["servers"][0]["udp"], json!({ "ok": false, "error": "no answer" }));
        assert!(json["meets"].as_array().unwrap().iter().all(|meets| meets["how"] == "by a relay"), "{json}");
    }
}
