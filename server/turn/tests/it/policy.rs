//! What changes while clients are served: quotas, rates, whom they may send to, and that nobody new is taken.

use meetpoint_turn::message::ALLOCATE;
use meetpoint_turn::{ByteRate, Input, RelayLimits, RelayPolicy, attr};

use crate::turn::{A, PEER, TurnRig, UDP, turn};

const OTHER: &str = "30.0.0.2:7000";

fn tell(turn: &mut TurnRig, change: impl FnOnce(&mut RelayPolicy)) {
    let limits = RelayLimits::default();
    let mut policy = RelayPolicy { limits, allow: Vec::new(), deny: Vec::new(), is_draining: false };
    change(&mut policy);
    turn.rig.server.handle(turn.rig.now, Input::Policy(Box::new(policy)));
}

fn allocates(turn: &mut TurnRig, user: &str, source: &str) -> Option<u16> {
    let client = turn.client(user, source);
    turn.code(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP)])
}

#[test]
fn a_policy_takes_back_nothing_that_was_granted() {
    let mut turn = turn();
    let alice = turn.client("alice", "20.0.0.1:40000");
    turn.allocate(&alice);
    assert_eq!(turn.permit(&alice, PEER), None);
    tell(&mut turn, |policy| {
        policy.limits.allocations_per_user = 1;
        policy.limits.permissions = 1;
        policy.deny = vec!["30.0.0.1/32".parse().expect("a block")];
    });
    assert!(turn.send(&alice, PEER, b"still").is_some(), "while the permission lasts");
    assert_eq!(turn.permit(&alice, PEER), Some(403), "it is not renewed");
    assert_eq!(turn.permit(&alice, OTHER), Some(508), "one is enough now");
    assert_eq!(turn.refresh(&alice, 600), None);
    assert_eq!(allocates(&mut turn, "alice", "20.0.0.1:40001"), Some(486));
    assert_eq!(allocates(&mut turn, "bob", "20.0.0.2:40000"), None);
    tell(&mut turn, |_| {});
    assert_eq!(turn.permit(&alice, OTHER), None);
    assert_eq!(allocates(&mut turn, "alice", "20.0.0.1:40001"), None);
    // A rate of a few bytes: the next packets find it spent.
    tell(&mut turn, |policy| policy.limits.rate = ByteRate::new(10, 10));
    let sent = (0..100).filter(|_| turn.send(&alice, OTHER, &[7; 100]).is_some()).count();
    assert!(sent < 100, "{sent}");
}

#[test]
fn who_drains_refreshes_and_allocates_nothing_new() {
    let mut turn = turn();
    let alice = turn.client("alice", "20.0.0.1:40000");
    turn.allocate(&alice);
    tell(&mut turn, |policy| policy.is_draining = true);
    assert_eq!(allocates(&mut turn, "bob", "20.0.0.2:40000"), Some(508));
    assert_eq!(turn.refresh(&alice, 600), None);
    assert_eq!(turn.permit(&alice, PEER), None);
    assert!(turn.send(&alice, PEER, b"on").is_some());
}
