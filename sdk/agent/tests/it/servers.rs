//! A node that knows several servers: which comes next, when it waits, when it gives up, and how a visitor comes home.

use std::time::Duration;

use crate::rig::{IDLE, MS, Rig, config};
use ed25519_dalek::SigningKey;
use meetpoint_agent::{BackoffConfig, Config, Ended, Event, Input, Output, ServerRank};
use meetpoint_proto::id::SessionToken;
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{ClientMessage, Refusal, ServerMessage, Welcome};
use meetpoint_proto::{Code, Nonce, PublicKey};

const S: Duration = Duration::from_secs(1);

fn rig(ranks: &[ServerRank]) -> Rig {
    rig_with(1, ranks, BackoffConfig::default())
}

fn rig_with(n: u8, ranks: &[ServerRank], backoff: BackoffConfig) -> Rig {
    Rig::with_servers(Config { backoff, ..config(n) }, [20, 0, 0, n].into(), ranks)
}

fn equals(count: usize) -> Vec<ServerRank> {
    vec![ServerRank::default(); count]
}

/// The servers that the node has gone to since the last call, and where it has knocked; all else is forgotten.
fn gone_to(rig: &mut Rig) -> (Vec<usize>, Vec<usize>) {
    let (mut opened, mut knocked) = (Vec::new(), Vec::new());
    for output in rig.take() {
        match output {
            Output::OpenControl { server } => opened.push(server),
            Output::Knock { server } => knocked.push(server),
            _ => {}
        }
    }
    (opened, knocked)
}

/// Lets every try fail until the node waits; the order of the round.
fn failing_round(rig: &mut Rig) -> Vec<usize> {
    let mut order = gone_to(rig).0;
    loop {
        rig.input(Input::ControlClosed);
        match gone_to(rig).0[..] {
            [server] => order.push(server),
            _ => return order,
        }
    }
}

/// Lets time pass until the node goes somewhere.
fn until_it_goes(rig: &mut Rig) {
    for _ in 0..60_000 {
        rig.advance(10 * MS);
        if rig.log.iter().any(|output| matches!(output, Output::OpenControl { .. })) {
            return;
        }
    }
    panic!("it never goes");
}

fn ended(rig: &mut Rig) -> Option<Ended> {
    rig.take().into_iter().find_map(|output| match output {
        Output::Ended(ended) => Some(ended),
        _ => None,
    })
}

#[test]
fn a_round_is_every_server_once_and_then_one_failure() {
    let mut orders = std::collections::BTreeSet::new();
    for n in 1..40 {
        let mut rig = rig_with(n, &equals(3), BackoffConfig::default());
        for ceiling in [S, 2 * S, 4 * S] {
            let order = failing_round(&mut rig);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2], "each once");
            orders.insert(order);
            let before = rig.now;
            until_it_goes(&mut rig);
            assert!(rig.now - before <= ceiling + 10 * MS, "one failure a round");
        }
    }
    assert_eq!(orders.len(), 6, "every order comes");
}

#[test]
fn the_last_good_one_is_first() {
    for good in 0..3 {
        let mut rig = rig(&equals(3));
        while gone_to(&mut rig).0 != [good] {
            rig.input(Input::ControlClosed);
            if rig.log.iter().all(|output| !matches!(output, Output::OpenControl { .. })) {
                until_it_goes(&mut rig);
            }
        }
        rig.join();
        rig.input(Input::ControlClosed);
        assert!(gone_to(&mut rig).0.is_empty(), "a lost server is not stormed");
        until_it_goes(&mut rig);
        let order = failing_round(&mut rig);
        assert_eq!((order[0], order.len()), (good, 3));
    }
}

#[test]
fn priorities_and_weights() {
    let rank = |priority, weight| ServerRank { priority, weight };
    let ranks = [rank(20, 1), rank(10, 0), rank(10, 90), rank(10, 10), rank(5, 0)];
    let mut first_of_equals = [0; 5];
    for n in 1..=200 {
        let mut rig = rig_with(n, &ranks, BackoffConfig::default());
        let order = failing_round(&mut rig);
        assert_eq!((order[0], order[4]), (4, 0), "the lower number first");
        first_of_equals[order[1]] += 1;
    }
    assert!(first_of_equals[2] > 150 && (5..50).contains(&first_of_equals[3]), "{first_of_equals:?}");
    assert!(first_of_equals[1] < 5, "{first_of_equals:?}");
}

#[test]
fn a_server_that_orders_patience_is_left_out() {
    let mut rig = rig(&equals(2));
    let first = gone_to(&mut rig).0[0];
    rig.open();
    rig.tell(ServerMessage::Rejected(Refusal::new(Code::ServerFull).retry_after_ms(20_000)));
    assert_eq!(gone_to(&mut rig).0, [1 - first], "the other one at once");
    rig.input(Input::ControlClosed);
    let start = rig.now;
    loop {
        until_it_goes(&mut rig);
        let order = failing_round(&mut rig);
        if order.contains(&first) {
            break;
        }
        assert_eq!(order, [1 - first]);
    }
    assert!(rig.now - start >= 20 * S, "{:?}", rig.now - start);
}

#[test]
fn refusals_that_concern_one_server() {
    for code in [Code::NotHome, Code::UnknownCluster, Code::ProtocolVersion] {
        let refuse = |rig: &mut Rig| {
            rig.open();
            rig.tell(ServerMessage::Rejected(Refusal::new(code)));
        };
        // All say so: the node ends.
        let mut one = rig(&equals(2));
        refuse(&mut one);
        assert_eq!(gone_to(&mut one).0.len(), 1, "{code}");
        refuse(&mut one);
        assert_eq!(ended(&mut one), Some(Ended::Rejected(Refusal::new(code))));
        // One says so, the other is away: it may come back.
        let mut other = rig(&equals(2));
        refuse(&mut other);
        other.take();
        other.input(Input::ControlClosed);
        assert_eq!(ended(&mut other), None, "{code}");
        until_it_goes(&mut other);
    }
    // A verdict on the node is one, whoever says it.
    let mut rig = rig(&equals(2));
    rig.open();
    rig.tell(ServerMessage::Rejected(Refusal::new(Code::BadToken)));
    assert_eq!(ended(&mut rig), Some(Ended::Rejected(Refusal::new(Code::BadToken))));
}

#[test]
fn it_gives_up_when_told_to() {
    let backoff = BackoffConfig { give_up_after: Some(60 * S), ..BackoffConfig::default() };
    let mut rig = rig_with(1, &equals(2), backoff);
    let start = rig.now;
    let never_answered = loop {
        failing_round(&mut rig);
        rig.advance(10 * MS);
        let next = rig.agent.poll_timeout();
        if let Some(ended) = ended(&mut rig) {
            break ended;
        }
        rig.advance(next.unwrap() - rig.now);
        if let Some(Output::Ended(ended)) = rig.log.last() {
            break ended.clone();
        }
    };
    assert_eq!((never_answered, rig.now - start >= 60 * S), (Ended::NoServer, true));
    assert!(rig.now - start < 61 * S);

    // A member has all the time again from when it lost its server.
    let mut rig = rig_with(1, &equals(1), backoff);
    rig.advance(10 * S);
    rig.take();
    rig.input(Input::ControlClosed);
    rig.advance(S);
    rig.join();
    for _ in 0..20 {
        rig.advance(IDLE / 4);
        rig.tell(ServerMessage::Ping { seq: 1 });
    }
    rig.take();
    rig.input(Input::ControlClosed);
    rig.advance(59 * S);
    assert_eq!(ended(&mut rig), None);
    rig.advance(S);
    assert_eq!(ended(&mut rig), Some(Ended::NoServer));
    assert!(rig.agent.poll_timeout().is_none());
}

/// Takes the node as a visitor, by the certificate that it shows.
fn visit(rig: &mut Rig) {
    let (home, server) = (rig.cluster_key.clone(), SigningKey::from_bytes(&[55; 32]));
    let (cluster_key, server_key) = (PublicKey::from(&home), PublicKey::from(&server));
    let nonce = Nonce::from_bytes([5; 32]);
    let hello = rig.open();
    assert_eq!(hello.resume, None, "a session is its own server's");
    rig.tell(ServerMessage::Challenge { nonce, cluster_key, server_key: Some(server_key) });
    let transcript = Transcript::new(&hello, &nonce, &cluster_key).served_by(&server_key);
    let certificate = hello.certificate.as_deref().expect("a certificate").clone();
    let signature = transcript.sign(Domain::Welcome, &server);
    let mut template = Rig::new(1);
    template.open();
    template.challenge();
    let welcome = Welcome { signature, certificate, ..template.welcome() };
    rig.take();
    rig.tell(ServerMessage::Welcome(Box::new(welcome)));
    assert!(rig.log.iter().any(|output| matches!(output, Output::Event(Event::Joined { again: true, .. }))));
    rig.take();
}

/// A member of its home that has lost it and is a visitor elsewhere now; gives the home.
fn away_from_home() -> (Rig, usize) {
    let mut rig = rig(&equals(2));
    let home = gone_to(&mut rig).0[0];
    let token = SessionToken::from_bytes([7; 32]);
    rig.join_with(|welcome| welcome.session_token = Some(token));
    rig.take();
    rig.input(Input::ControlClosed);
    until_it_goes(&mut rig);
    assert_eq!(gone_to(&mut rig).0, [home]);
    rig.input(Input::ControlClosed);
    assert_eq!(gone_to(&mut rig).0, [1 - home]);
    visit(&mut rig);
    (rig, home)
}

/// Lets time pass, with a server that lives, until the node knocks.
fn until_it_knocks(rig: &mut Rig) -> usize {
    for _ in 0..600 {
        rig.advance(S);
        let (opened, knocked) = gone_to(rig);
        assert!(opened.is_empty());
        if let [server] = knocked[..] {
            return server;
        }
        rig.tell(ServerMessage::Ping { seq: 1 });
    }
    panic!("it never knocks");
}

#[test]
fn a_visitor_goes_home_when_its_home_is_there() {
    let (mut rig, home) = away_from_home();
    for _ in 0..5 {
        assert_eq!(until_it_knocks(&mut rig), home);
        rig.input(Input::Knocked { server: home, ok: false });
    }
    assert_eq!(until_it_knocks(&mut rig), home);
    rig.input(Input::Knocked { server: home, ok: true });
    assert_eq!(gone_to(&mut rig).0, [home]);
    let hello = rig.open();
    assert_eq!(hello.resume, Some(SessionToken::from_bytes([7; 32])), "its home knows it");
    rig.challenge().expect("a proof");
    let welcome = rig.welcome();
    rig.tell(ServerMessage::Welcome(Box::new(welcome)));
    rig.take();
    // At home it knocks nowhere.
    for _ in 0..60 {
        rig.advance(IDLE / 4);
        rig.tell(ServerMessage::Ping { seq: 1 });
        assert!(gone_to(&mut rig).1.is_empty());
    }
}

#[test]
fn a_home_that_opens_but_does_not_take_it_costs_a_moment() {
    let (mut rig, home) = away_from_home();
    assert_eq!(until_it_knocks(&mut rig), home);
    rig.input(Input::Knocked { server: home, ok: true });
    rig.take();
    rig.open();
    rig.tell(ServerMessage::Rejected(Refusal::new(Code::ServerFull).retry_after_ms(30_000)));
    assert_eq!(gone_to(&mut rig).0, [1 - home], "back at once");
    visit(&mut rig);
    let back = rig.now;
    assert_eq!(until_it_knocks(&mut rig), home);
    assert!(rig.now - back >= 29 * S, "it was told when");
}

#[test]
fn nobody_else_moves_a_member() {
    let mut rig = rig(&equals(2));
    let home = gone_to(&mut rig).0[0];
    rig.join();
    // No visitor, no such server, no such knock.
    for server in [home, 1 - home, 7] {
        rig.input(Input::Knocked { server, ok: true });
    }
    assert!(rig.take().is_empty());
    let (mut visitor, home) = away_from_home();
    for server in [1 - home, 7] {
        visitor.input(Input::Knocked { server, ok: true });
    }
    assert!(visitor.take().is_empty());
    let said = |output: &Output| matches!(output, Output::SendControl(ClientMessage::Hello(_)));
    assert!(!visitor.log.iter().any(said));
}

/// A server that takes long to open has the others of the round knocked at; the first to answer is gone to, and the
/// slow one comes after it.
#[test]
fn the_first_to_answer_wins() {
    let mut rig = rig(&equals(3));
    let (first, _) = gone_to(&mut rig);
    rig.advance(4 * S);
    let (opened, mut knocked) = gone_to(&mut rig);
    knocked.sort_unstable();
    let others: Vec<usize> = (0..3).filter(|at| *at != first[0]).collect();
    assert_eq!((opened, &knocked), (vec![], &others), "each once");
    rig.advance(2 * S);
    assert_eq!(gone_to(&mut rig), (vec![], vec![]));
    rig.input(Input::Knocked { server: others[0], ok: false });
    assert_eq!(gone_to(&mut rig), (vec![], vec![]));
    rig.input(Input::Knocked { server: others[1], ok: true });
    assert_eq!(gone_to(&mut rig).0, [others[1]]);
    // One that answers while the chosen one is asked changes nothing.
    rig.open();
    rig.input(Input::Knocked { server: others[0], ok: true });
    assert!(gone_to(&mut rig).0.is_empty());
    // It does not take the node after all.
    let left = [others[0], first[0]];
    for expect in left {
        rig.input(Input::ControlClosed);
        assert_eq!(gone_to(&mut rig).0, [expect]);
    }
}

#[test]
fn a_server_that_is_heard_of_is_knocked_at_while_there_is_none() {
    let mut rig = rig(&equals(1));
    let server = || Input::Server { rank: ServerRank::default() };
    rig.take();
    rig.input(server());
    assert_eq!(gone_to(&mut rig).1, [1], "while the first is asked");
    rig.input(Input::ControlClosed);
    assert_eq!(gone_to(&mut rig).0, [1], "the last of the round");
    rig.input(Input::ControlClosed);
    rig.take();
    rig.input(server());
    assert_eq!(gone_to(&mut rig).1, [2], "while it waits");
    rig.input(Input::Knocked { server: 2, ok: true });
    assert_eq!(gone_to(&mut rig).0, [2]);
    rig.join();
    rig.input(server());
    rig.input(Input::Knocked { server: 3, ok: true });
    assert_eq!(gone_to(&mut rig), (vec![], vec![]), "a member stays, and remembers it");
    rig.input(Input::ControlClosed);
    rig.take();
    until_it_goes(&mut rig);
    let mut order = failing_round(&mut rig);
    assert_eq!(order.remove(0), 2);
    order.sort_unstable();
    assert_eq!(order, [0, 1, 3]);
    // Numbers that nobody has, and more servers than anybody needs.
    rig.input(Input::Knocked { server: 99, ok: true });
    assert!(gone_to(&mut rig).0.is_empty());
    for _ in 0..1_000 {
        rig.input(server());
    }
    assert_eq!(gone_to(&mut rig).1.len(), 60);
}

#[test]
fn who_is_told_that_the_server_drains_goes_elsewhere_if_there_is_an_elsewhere() {
    let draining = || ServerMessage::Draining { in_ms: 10_000 };
    let mut alone = rig(&equals(1));
    alone.join();
    alone.tell(draining());
    assert!(gone_to(&mut alone).0.is_empty(), "it stays where it is");

    for n in 1..20 {
        let mut rig = rig_with(n, &equals(3), BackoffConfig::default());
        let first = gone_to(&mut rig).0[0];
        rig.join();
        rig.tell(draining());
        let next = gone_to(&mut rig).0;
        assert!(next.len() == 1 && next[0] != first, "at once, and to another one");
        // Not back to the one that drains, until that may be there again.
        let round = failing_round(&mut rig);
        assert!(round.len() == 1 && round[0] != next[0] && round[0] != first, "{round:?}");
    }
}
