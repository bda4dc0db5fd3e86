//! `meetpoint netcheck` behind each kind of NAT: what it says is what the lab's own probe measures.

use std::process::Stdio;

use meetpoint_cli::lab::probe::{Dependence, Measurement};
use meetpoint_cli::lab::{Host, Lab, NatKind, SERVER_ADDRS};
use meetpoint_tests::binary::{Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;
use serde_json::{Value, json};

fn serve(lab: &Lab, data: &std::path::Path) -> Server {
    let [stun, alternate] = SERVER_ADDRS.map(|ip| format!("{ip}:3478"));
    let seed = format!("main@{}:8080", SERVER_ADDRS[0]);
    let args = ["--http", "0.0.0.0:8080", "--stun", &stun, "--stun", &alternate, "--seed", &seed];
    Server::start(lab.server().command(meetpoint()), data, &args)
}

/// What the probe promises of this kind, in netcheck's words.
fn expected(kind: NatKind) -> Value {
    let Measurement::Passes(behavior) = kind.promise() else {
        return json!({ "mapping": null, "filtering": null, "depth": null, "class": null, "refused": "unreachable" });
    };
    let mapping = match (behavior.translated, behavior.mapping) {
        (false, _) => "none",
        (true, Dependence::Nothing) => "endpoint-independent",
        (true, Dependence::Address) => "address-dependent",
        (true, Dependence::AddressAndPort) => "address-and-port-dependent",
    };
    let (filtering, class) = match behavior.filtering {
        Dependence::Nothing => ("endpoint-independent", "PublicReachable"),
        Dependence::Address => ("address-dependent", "Private"),
        Dependence::AddressAndPort => ("address-and-port-dependent", "Private"),
    };
    let depth = match kind {
        NatKind::Open => Value::Null,
        NatKind::DoubleNat => json!({ "at_most": 2, "proven": false }),
        _ => json!({ "at_most": 1, "proven": false }),
    };
    json!({ "mapping": mapping, "filtering": filtering, "depth": depth, "class": class, "refused": null })
}

/// What the lab's router of this kind lets its hosts ask for ports by: PCP, NAT-PMP, UPnP.
fn protocols(kind: NatKind) -> [bool; 3] {
    match kind {
        NatKind::UpnpRouter => [false, false, true],
        NatKind::PcpRouter => [true, true, false],
        _ => [false; 3],
    }
}

#[test]
fn each_nat_is_named_as_what_it_is() {
    let Some(mut lab) = lab_or_skip("each_nat_is_named_as_what_it_is") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let server = serve(&lab, data.path());
    let token = server.join_token();
    let url = format!("https://{}:8080", SERVER_ADDRS[0]);
    let hosts: Vec<(NatKind, Host)> =
        NatKind::ALL.iter().map(|kind| (*kind, lab.node(*kind).expect("a host"))).collect();
    let check = |(kind, host): &(NatKind, Host)| {
        let mut command = host.command(meetpoint());
        command.args(["netcheck", "--rendezvous", &url, "--join-token", &token, "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        (*kind, host.public_addr(), child)
    };
    let running: Vec<_> = hosts.iter().map(check).collect();
    for (kind, public, child) in running {
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{kind:?}: {said}");
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let summary = json!({
            "mapping": found["nat"]["mapping"],
            "filtering": found["nat"]["filtering"],
            "depth": found["nat"]["depth"],
            "class": found["class"],
            "refused": found["refused"],
        });
        assert_eq!(summary, expected(kind), "{kind:?}: {found}");
        let ports = &found["port_mapping"];
        assert_eq!(
            ["pcp", "nat_pmp", "upnp"].map(|name| ports[name] == true),
            protocols(kind),
            "{kind:?}: {ports}"
        );
        let external = protocols(kind).contains(&true).then(|| public.to_string());
        assert_eq!(
            (ports["external"].as_str(), ports["opens"] == true),
            (external.as_deref(), external.is_some())
        );
        let first = &found["servers"][0];
        let passes_udp = kind != NatKind::UdpBlocked;
        let reached = ["control", "udp", "tcp", "tls"].map(|way| first[way]["ok"] == true);
        assert_eq!(reached, [true, passes_udp, true, true], "{kind:?}: {first}");
        assert_eq!(found["udp_blocked"], !passes_udp, "{kind:?}: {found}");
        let mapped = found["mapped"].as_str().unwrap_or_default();
        assert_eq!(mapped.starts_with(&format!("{public}:")), passes_udp, "{kind:?}: {found}");
    }
}

/// A silent router, two of which the first is silent, two that say who they are, and one that answers from the address
/// under which the world sees it.
#[test]
fn routers_tell_who_translates() {
    let Some(mut lab) = lab_or_skip("routers_tell_who_translates") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let server = serve(&lab, data.path());
    let (url, token) = (format!("https://{}:8080", SERVER_ADDRS[0]), server.join_token());
    let silence = "add table ip mute; add chain ip mute out { type filter hook output priority filter; }; \
                   add rule ip mute out ip protocol icmp drop";
    let one_by_its_name = "one address translator: the first router answers from the public address";
    let two_at_most = "likely 2 address translators, at most";
    let cases: [(NatKind, &[&str], &str); 4] = [
        (NatKind::PortRestricted, &["nft", silence], "unknown"),
        (NatKind::DoubleNat, &["nft", silence], "unknown"),
        (NatKind::DoubleNat, &[], two_at_most),
        (NatKind::PortRestricted, &["ip", "route"], one_by_its_name),
    ];
    let mut hosts = Vec::new();
    for (kind, change, ..) in &cases {
        let mut gateway = lab.gateway(*kind).expect("a gateway");
        let host = lab.host_behind(&mut gateway).expect("a host");
        let [a, b, c, _] = host.addr().octets();
        let (lan, public) = (format!("{a}.{b}.{c}.0/24"), gateway.addr().to_string());
        let more: &[&str] = match change {
            // What it says to its LAN comes from its other address.
            ["ip", ..] => &["replace", &lan, "dev", "lan", "src", &public],
            _ => &[],
        };
        if let [program, args @ ..] = change {
            let status = lab.router(&gateway).command(program).args(args).args(more).status();
            assert!(status.expect("it runs").success(), "{change:?}");
        }
        hosts.push(host);
    }
    let check = |host: &Host| {
        let mut command = host.command(meetpoint());
        command.args(["netcheck", "--rendezvous", &url, "--join-token", &token]);
        command.stdout(Stdio::piped()).spawn().expect("it runs")
    };
    let running: Vec<_> = hosts.iter().map(check).collect();
    for (running, (kind, change, words)) in running.into_iter().zip(&cases) {
        let text = running.wait_with_output().expect("it ends").stdout;
        let text = String::from_utf8(text).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix("depth")).expect("a line about it");
        assert!(line.trim_start().starts_with(words), "{kind:?} {change:?}: {text}");
    }
}

#[test]
fn who_reaches_no_server_is_told_so() {
    let output = std::process::Command::new(meetpoint())
        .args(["netcheck", "--rendezvous", "http://127.0.0.1:1", "--json"])
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON all the same");
    assert_eq!(found["servers"][0]["control"]["ok"], false, "{found}");
    assert_eq!(found["udp_blocked"], Value::Null, "silence of everything is no verdict: {found}");
}
