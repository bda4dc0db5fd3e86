//! `--help` is the reference: it names every flag with its environment variable.

use std::process::Command;

use crate::scratch::Scratch;

fn help(command: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_meetpoint")).args(command).arg("--help").output().expect("it runs");
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_flag_of_the_contract_is_there_with_its_variable() {
    let serve = [
        "http",
        "stun",
        "stun-alt-port",
        "stun-tcp",
        "stun-tls",
        "data",
        "cluster-network-type",
        "seed",
        "external-ip",
        "node-network-type",
        "admit-relayed",
        "join-token",
        "open-join",
        "admin-token-file",
        "admin-token",
        "viewer-token-file",
        "tls-cert",
        "tls-key",
        "relay-username-anonymity",
        "nodes-per-source",
        "foreign-cluster",
        "config",
        "metrics",
        "drain-timeout",
        "announce",
        "announce-name",
        "announce-group",
        "announce-interval",
    ];
    let node = [
        "rendezvous",
        "seed",
        "seeds-of",
        "discover",
        "discover-timeout",
        "retry-base",
        "retry-max",
        "give-up-after",
        "port-lease",
        "cluster",
        "name",
        "join-token",
        "cluster-secret-file",
        "fingerprint",
        "membership-file",
        "capability",
        "datacenter",
        "rack",
        "meta",
        "key",
        "node-addr",
        "node-network-type",
        "insecure-http",
        "connect",
        "ping-interval",
        "echo",
        "json",
    ];
    for (command, flags) in [("serve", &serve[..]), ("node", &node[..])] {
        let text = help(&[command]);
        for flag in flags {
            assert!(text.contains(&format!("--{flag}")), "{command} --{flag}");
            // What comes as a list has a variable that says so.
            let variable = match *flag {
                "seed" => "MEETPOINT_SEEDS".to_owned(),
                "foreign-cluster" => "MEETPOINT_FOREIGN_CLUSTERS".to_owned(),
                "capability" => "MEETPOINT_CAPABILITIES".to_owned(),
                flag => format!("MEETPOINT_{}", flag.replace('-', "_").to_uppercase()),
            };
            let shown = ["=", "]"].map(|end| text.contains(&format!("[env: {variable}{end}")));
            assert!(shown.contains(&true), "{command} --{flag}: {variable}");
        }
    }
}

#[test]
fn secrets_in_the_environment_do_not_show() {
    let output = Command::new(env!("CARGO_BIN_EXE_meetpoint"))
        .args(["serve", "--help"])
        .env("MEETPOINT_JOIN_TOKEN", "hunter2hunter2hunter2")
        .env("MEETPOINT_ADMIN_TOKEN", "hunter3hunter3hunter3")
        .output()
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(!text.contains("hunter"), "{text}");
}

#[test]
fn exit_codes_and_commands_are_documented() {
    let text = help(&[]);
    for part in [
        "Exit codes",
        "serve",
        "node",
        "demo",
        "tokens",
        "secrets",
        "revocations",
        "nodes",
        "relay",
        "audit",
        "status",
        "seeds",
        "explain",
        "netcheck",
        "events",
        "backup",
        "restore",
        "bundle",
        "ping",
        "healthcheck",
        "config",
        "completions",
        "man",
        "MEETPOINT_LOG",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let run =
        |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_meetpoint")).args(args).output().expect("it runs");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]);
        let text = String::from_utf8(script.stdout).expect("UTF-8");
        assert!(script.status.success() && text.contains("healthcheck"), "{shell}");
    }
    let dir = Scratch::new();
    assert!(run(&["man", dir.path().to_str().expect("UTF-8")]).status.success());
    for page in ["meetpoint", "meetpoint-serve", "meetpoint-backup"] {
        assert!(dir.path().join(format!("{page}.1")).exists(), "{page}");
    }
}

/// Who reads the documentation finds the exit codes that the code has.
#[test]
fn the_reference_has_every_exit_code() {
    let page = include_str!("../../../../docs/cli.md");
    for code in ["| 0 |", "| 1 |", "| 2 |", "| 3 |", "| 4 |"] {
        assert!(page.contains(code), "{code}");
    }
}
