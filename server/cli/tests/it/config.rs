//! Each flag of `serve` and `node`, with a value that it can't have: one line that names the flag, the value and what
//! may be, and exit code 2. The flags are those that the command itself tells; one without a row fails.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use serde_json::Value;

/// A flag, a value that is refused, and what the refusal says of values that are not.
type Row = (&'static str, &'static str, &'static str);

/// What a switch says to a value.
const SWITCH: &str = "no more were expected";
const NUMBER: &str = "a whole number from 1 to";
const BYTES: &str = "for example";
const DURATION: &str = "as in 500ms";
const QUOTA: &str = "for example 600/60s";
const CIDR: &str = "10.0.0.0/8";

const SERVE: &[Row] = &[
    ("--admin-token", "short", "16 to 256 visible ASCII characters"),
    ("--admin-token-file", "/nonexistent/file", "No such file"),
    ("--admit-relayed", "perhaps", "[possible values: true, false]"),
    ("--announce", "smoke", "[possible values: mdns, multicast]"),
    ("--announce-group", "10.0.0.1:1", "multicast"),
    ("--announce-interval", "soon", DURATION),
    ("--announce-name", "no name", "letters, digits"),
    ("--cluster-network-type", "OPEN", "PRIVATE|PUBLIC|DYNAMIC"),
    ("--config", "/nonexistent/file", "No such file"),
    ("--data", "/dev/null/data", "Not a directory"),
    ("--drain-timeout", "forever", "from 1s to 24h"),
    ("--external-ip", "nowhere", "expected an IP address"),
    ("--foreign-cluster", "nameless", "expected NAME=PUBLICKEY"),
    ("--http", "8080", "expected IP:PORT"),
    ("--join-token", "short", "characters"),
    ("--limit-connections", "0", NUMBER),
    ("--limit-introductions", "many", QUOTA),
    ("--limit-introductions-block", "never", "N/TIME|off"),
    ("--limit-join-failures", "1/0s", "from 1s to 24h"),
    ("--limit-join-failures-block", "1", "N/TIME|off"),
    ("--limit-joins", "-1x", NUMBER),
    ("--limit-rest", "0/1s", "a whole one from 1"),
    ("--limit-rest-block", "x/y", "a whole one from 1"),
    ("--log-format", "xml", "[possible values: text, json]"),
    ("--log-level", "loud", "off, error, warn"),
    ("--metrics", "9100", "expected IP:PORT"),
    ("--node-network-type", "DYNAMIC", "PRIVATE|PUBLIC"),
    ("--nodes-per-source", "0", NUMBER),
    ("--open-join", "maybe", SWITCH),
    ("--register-with", "a@b:1", "expected HOST:PORT"),
    ("--relay-allocations", "0", NUMBER),
    ("--relay-allocations-per-source", "1.5", NUMBER),
    ("--relay-allocations-per-user", "x", NUMBER),
    ("--relay-allow-peer", "10.0.0.0/40", "longer than the address"),
    ("--relay-deny-peer", "everybody", CIDR),
    ("--relay-ip", "localhost", "expected an IP address"),
    ("--relay-peers", "70000", NUMBER),
    ("--relay-ports", "9-1", "MIN <= MAX"),
    ("--relay-rate", "fast", BYTES),
    ("--relay-rate-per-source", "0", BYTES),
    ("--relay-rate-per-user", "-5", BYTES),
    ("--relay-rate-total", "1Q", BYTES),
    ("--relay-username-anonymity", "x", SWITCH),
    ("--seed", "192.168.1.10:4369", "NAME@HOST:PORT"),
    ("--seed-token", "short", "characters"),
    ("--stun", "x", "expected IP:PORT"),
    ("--stun-alt-port", "70000", "from 0 to 65535"),
    ("--stun-budget", "0", NUMBER),
    ("--stun-tcp", "on", "off"),
    ("--stun-threads", "65", "from 1 to 64"),
    ("--stun-tls", "1.2.3.4", "off"),
    ("--tls-cert", "/nonexistent/cert", "No such file"),
    ("--tls-key", "/nonexistent/key", "No such file"),
    ("--trusted-proxy", "proxy", CIDR),
    ("--unsolicited-after", "forever", "from 1s to 24h"),
    ("--viewer-token-file", "/nonexistent/file", "No such file"),
];

const NODE: &[Row] = &[
    ("--capability", "can fly", "letters, digits"),
    ("--cluster", "a b", "letters, digits"),
    ("--cluster-network-type", "OPEN", "PRIVATE|PUBLIC|DYNAMIC"),
    ("--cluster-secret-file", "/nonexistent/file", "No such file"),
    ("--connect", "", "a peer's name or id"),
    ("--datacenter", "a b", "letters, digits"),
    ("--discover", "smoke", "expected mdns, multicast"),
    ("--discover-timeout", "soon", DURATION),
    ("--echo", "x", SWITCH),
    ("--fingerprint", "abc", "52 characters"),
    ("--give-up-after", "0", "1ms to a year"),
    ("--insecure-http", "x", SWITCH),
    ("--join-token", "mpj1xx", "token"),
    ("--json", "x", SWITCH),
    ("--key", "/nonexistent/dir/key", "No such file"),
    ("--log-format", "xml", "[possible values: text, json]"),
    ("--log-level", "loud", "off, error, warn"),
    ("--membership-file", "/dev/null/x", "Not a directory"),
    ("--meta", "colour", "expected KEY=VALUE"),
    ("--name", "a b", "letters, digits"),
    ("--node-addr", "here", "expected IP:PORT"),
    ("--node-network-type", "OPEN", "PRIVATE|PUBLIC"),
    ("--ping-interval", "1d", DURATION),
    ("--port-lease", "1s", "expected 4s to 24h"),
    ("--rack", "a b", "letters, digits"),
    ("--rendezvous", "ftp://x", "http"),
    ("--retry-base", "40s", "at most --retry-max"),
    ("--retry-max", "never", DURATION),
    ("--seed", "192.168.1.10:4369", "NAME@HOST:PORT"),
    ("--seeds-of", "-", "DNS name"),
    ("--settle", "x", SWITCH),
];

/// Those that need another one beside them.
const COMPANIONS: &[(&str, &[&str])] = &[
    ("--register-with", &["--seed-token=mpj1"]),
    ("--seed-token", &["--register-with=home.example:8080"]),
    ("--tls-cert", &["--tls-key=/nonexistent/key"]),
    // A key without its certificate is the certificate's fault.
    ("--tls-key", &["--tls-cert=/dev/null"]),
    ("--membership-file", &["--key=/nonexistent/dir/key"]),
    ("--settle", &["--connect=bob"]),
];

/// What no refusal repeats.
const SECRETS: [&str; 3] = ["--admin-token", "--join-token", "--seed-token"];

fn meetpoint(args: &[String], variables: &[(String, String)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meetpoint"));
    command.args(args).env_clear();
    command.envs(variables.iter().map(|(name, value)| (name, value))).output().expect("it runs")
}

/// What a row's command is given besides.
fn base(command: &str, flag: &str) -> Vec<String> {
    let all: &[&str] = match command {
        "serve" => {
            &["--http=127.0.0.1:0", "--stun=127.0.0.1:0", "--stun-alt-port=0", "--data=/nonexistent/data"]
        }
        _ => &["--name=a", "--rendezvous=http://127.0.0.1:1", "--give-up-after=1s"],
    };
    let others = all.iter().filter(|given| given.split('=').next() != Some(flag));
    let companions = COMPANIONS.iter().filter(|(of, _)| *of == flag).flat_map(|(_, companions)| *companions);
    std::iter::once(&command).chain(others).chain(companions).map(|word| (*word).to_owned()).collect()
}

/// The flags of a command, and their variables.
fn flags(command: &str) -> BTreeMap<String, Option<String>> {
    let mut args = vec!["config".to_owned(), "explain".to_owned(), "--json".to_owned()];
    args.extend(base(command, ""));
    args.retain(|arg| !arg.starts_with("--data"));
    let output = meetpoint(&args, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let settings = told.as_array().expect("a list").iter();
    settings.map(|setting| (text(&setting["flag"]).expect("a flag"), text(&setting["variable"]))).collect()
}

fn complaint((flag, value, allowed): Row, output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let [line] = lines[..] else { return Some(format!("{flag}: {} lines: {said}", lines.len())) };
    let names_value = SECRETS.contains(&flag) != line.contains(value) || value.is_empty();
    let is_well =
        output.status.code() == Some(2) && line.contains(flag) && names_value && line.contains(allowed);
    (!is_well).then(|| format!("{flag} {value:?}, {:?}, expected {allowed:?}: {line}", output.status.code()))
}

fn check(command: &str, rows: &[Row]) {
    let known = flags(command);
    let with_row: Vec<&str> = rows.iter().map(|(flag, ..)| *flag).collect();
    let (missing, gone): (Vec<_>, Vec<_>) = (
        known.keys().filter(|flag| !with_row.contains(&flag.as_str())).collect(),
        with_row.iter().filter(|flag| !known.contains_key(**flag)).collect(),
    );
    assert!(
        missing.is_empty() && gone.is_empty(),
        "flags without a row: {missing:?}; rows without a flag: {gone:?}"
    );
    let mut complaints = Vec::new();
    for &row in rows {
        let (flag, value, allowed) = row;
        let mut args = base(command, flag);
        let by_variable = args.clone();
        args.push(format!("{flag}={value}"));
        complaints.extend(complaint(row, &meetpoint(&args, &[])));
        // By its variable a switch is told what it may be.
        let Some(Some(variable)) = known.get(flag) else { continue };
        if !value.is_empty() {
            let allowed = if allowed == SWITCH { "[possible values: true, false]" } else { allowed };
            let output = meetpoint(&by_variable, &[(variable.clone(), value.to_owned())]);
            complaints
                .extend(complaint((flag, value, allowed), &output).map(|text| format!("{variable}: {text}")));
        }
    }
    assert!(complaints.is_empty(), "{} of {command}:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn serve_names_the_flag_the_value_and_what_may_be() {
    check("serve", SERVE);
}

#[test]
fn node_names_the_flag_the_value_and_what_may_be() {
    check("node", NODE);
}

/// What is wrong with the line itself.
#[test]
fn a_line_that_makes_no_sense_is_answered_by_one() {
    for (args, says) in [
        (&["serv"][..], "serve"),
        (&["serve", "--htp", "x"], "--http"),
        (&["node"], "--name"),
        (&["node", "--name"], "a value is required"),
        (&["serve", "extra"], "unexpected argument"),
        (&["backup"], "<FILE>"),
        (&["restore", "--verify", "--force", "x"], "--force"),
        (&["serve", "--http", "a\nb"], "--http"),
    ] {
        let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
        let output = meetpoint(&args, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{args:?}: {said}");
        assert!(said.contains(says) && said.contains("--help"), "{args:?}: {said}");
    }
}

#[test]
fn each_value_is_told_with_its_origin() {
    let args = "config explain --json serve --http 127.0.0.1:9 --join-token hunter2hunter2hunter2";
    let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
    let variables = [("MEETPOINT_STUN_BUDGET", "7"), ("MEETPOINT_ADMIN_TOKEN", "hunter3hunter3hunter3")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let output = meetpoint(&args, &variables);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("hunter"), "{said}");
    let told: Value = serde_json::from_str(&said).expect("JSON");
    for (flag, value, origin) in [
        ("--http", Some("127.0.0.1:9"), "flag"),
        ("--stun-budget", Some("7"), "environment"),
        ("--relay-peers", Some("128"), "default"),
        ("--external-ip", None, "-"),
        ("--join-token", Some("(hidden)"), "flag"),
        ("--admin-token", Some("(hidden)"), "environment"),
    ] {
        let setting = told.as_array().expect("a list").iter().find(|setting| setting["flag"] == flag);
        let setting = setting.unwrap_or_else(|| panic!("{flag}"));
        assert_eq!(
            (setting["values"][0].as_str(), setting["origin"].as_str()),
            (value, Some(origin)),
            "{flag}"
        );
    }
    // It refuses what the command would.
    let args = ["config", "explain", "serve", "--join-token", "x"].map(str::to_owned);
    let output = meetpoint(&args, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--join-token"));
}
