//! What the STUN and TURN machines counted. Each has plain numbers of its own, which its thread alone changes; they
//! are asked for when somebody wants to see them, and added up here.

use meetpoint_turn::{Counters, ErrorCounters, RelayCounters, Traffic};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::instruments::Words;
use crate::udp::MachineState;

/// Numbers that only grow, by labels.
fn counters<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    numbers: impl IntoIterator<Item = (Words<N>, u64)>,
) {
    let family = Family::<Words<N>, Counter>::default();
    for (labels, number) in numbers {
        family.get_or_create(&labels).inc_by(number);
    }
    registry.register(name, help, family);
}

/// Adds what the machines counted to a registry that is made for one answer.
pub(super) fn register(registry: &mut Registry, machines: &[MachineState]) {
    let all = || machines.iter().map(|machine| &machine.counters);
    let help = "Datagrams and frames of STUN and TURN that arrived at the listeners, and that left them";
    counters(
        registry,
        "stun_datagrams",
        help,
        all().flat_map(|all| {
            [([("direction", "in")], all.datagrams_in), ([("direction", "out")], all.datagrams_out)]
        }),
    );
    let help = "Success responses by method";
    counters(registry, "stun_success_responses", help, all().flat_map(successes));
    let help = "Error responses by method and code";
    counters(registry, "stun_error_responses", help, all().flat_map(errors));
    let help = "What the STUN server did not answer, by reason";
    counters(registry, "stun_dropped", help, all().flat_map(dropped));
    let help = "Dial-backs, by which the server proves that a node is reachable";
    counters(registry, "dial_backs", help, all().flat_map(dial_backs));
    let relays = || all().map(|all| &all.relay);
    let help = "Datagrams that were relayed; those of `inside` are in the other two as well";
    counters(
        registry,
        "relay_packets",
        help,
        relays().flat_map(|relay| by_direction(relay, |way| way.packets)),
    );
    let help = "Their bytes, without what wraps them";
    counters(registry, "relay_bytes", help, relays().flat_map(|relay| by_direction(relay, |way| way.bytes)));
    let help = "Datagrams that were not relayed, by reason";
    counters(registry, "relay_dropped", help, relays().flat_map(not_relayed));
    let help = "Requests that were refused because somebody has enough, by what he has enough of";
    counters(registry, "relay_quota_refusals", help, relays().flat_map(refused));
    let ended: u64 = relays().map(|relay| relay.ended).sum();
    counters(registry, "relay_allocations_ended", "Allocations that ended", [([], ended)]);
    let allocations = Gauge::<i64>::default();
    allocations.set(machines.iter().map(|machine| machine.allocations as i64).sum());
    registry.register("relay_allocations", "Allocations there are", allocations);
}

fn successes(all: &Counters) -> [(Words<1>, u64); 5] {
    let relay = &all.relay;
    [
        ([("method", "binding")], all.binding.anonymous + all.binding.authenticated),
        ([("method", "allocate")], relay.allocate),
        ([("method", "refresh")], relay.refresh),
        ([("method", "create_permission")], relay.create_permission),
        ([("method", "channel_bind")], relay.channel_bind),
    ]
}

fn errors(all: &Counters) -> impl Iterator<Item = (Words<2>, u64)> {
    let by = &all.errors_by_method;
    let methods: [(&'static str, &ErrorCounters); 5] = [
        ("binding", &by.binding),
        ("allocate", &by.allocate),
        ("refresh", &by.refresh),
        ("create_permission", &by.create_permission),
        ("channel_bind", &by.channel_bind),
    ];
    methods.into_iter().flat_map(|(method, errors)| {
        errors.by_code().map(|(code, count)| ([("method", method), ("code", word(code))], count))
    })
}

/// A label's word for an error's code.
const fn word(code: u16) -> &'static str {
    match code {
        401 => "401",
        403 => "403",
        405 => "405",
        420 => "420",
        437 => "437",
        438 => "438",
        440 => "440",
        441 => "441",
        442 => "442",
        443 => "443",
        486 => "486",
        508 => "508",
        _ => "400",
    }
}

fn dropped(all: &Counters) -> [(Words<1>, u64); 13] {
    let dropped = &all.dropped;
    [
        ("not_stun", dropped.not_stun),
        ("malformed", dropped.malformed),
        ("fingerprint", dropped.fingerprint),
        ("indication", dropped.indication),
        ("response", dropped.response),
        ("unsupported_method", dropped.unsupported_method),
        ("unusable_source", dropped.unusable_source),
        ("unknown_listener", dropped.unknown_listener),
        ("source_budget", dropped.source_budget),
        ("amplified_budget", dropped.amplified_budget),
        ("redirected_budget", dropped.redirected_budget),
        ("no_wall_time", dropped.no_wall_time),
        ("outputs_full", dropped.outputs_full),
    ]
    .map(|(reason, count)| ([("reason", reason)], count))
}

fn dial_backs(all: &Counters) -> [(Words<1>, u64); 3] {
    let dial_back = &all.dial_back;
    [("started", dial_back.started), ("impossible", dial_back.impossible), ("refused", dial_back.refused)]
        .map(|(outcome, count)| ([("outcome", outcome)], count))
}

fn by_direction(relay: &RelayCounters, number: impl Fn(&Traffic) -> u64) -> [(Words<1>, u64); 3] {
    [("to_peer", &relay.to_peer), ("to_client", &relay.to_client), ("inside", &relay.inside)]
        .map(|(direction, traffic)| ([("direction", direction)], number(traffic)))
}

fn not_relayed(relay: &RelayCounters) -> [(Words<1>, u64); 11] {
    let dropped = &relay.dropped;
    [
        ("no_allocation", dropped.no_allocation),
        ("no_channel", dropped.no_channel),
        ("no_permission", dropped.no_permission),
        ("forbidden", dropped.forbidden),
        ("malformed", dropped.malformed),
        ("not_introduced", dropped.not_introduced),
        ("icmp", dropped.icmp),
        ("rate", dropped.rate),
        ("rate_per_user", dropped.rate_per_user),
        ("rate_per_source", dropped.rate_per_source),
        ("rate_total", dropped.rate_total),
    ]
    .map(|(reason, count)| ([("reason", reason)], count))
}

fn refused(relay: &RelayCounters) -> [(Words<1>, u64); 6] {
    let refused = &relay.refused;
    [
        ("allocations_per_user", refused.allocations_per_user),
        ("allocations_per_source", refused.allocations_per_source),
        ("allocations", refused.allocations),
        ("ports", refused.ports),
        ("permissions", refused.permissions),
        ("channels", refused.channels),
    ]
    .map(|(quota, count)| ([("quota", quota)], count))
}
