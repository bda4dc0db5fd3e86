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
        return json!({ "mapping": null, "filtering": null, "class": null, "refused": "unreachable" });
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
    json!({ "mapping": mapping, "filtering": filtering, "class": class, "refused": null })
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
