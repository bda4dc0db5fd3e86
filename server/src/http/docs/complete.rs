//! What the handlers do not say of themselves: each operation's examples, and which problems it can answer with.
//!
//! Most problems follow from what an operation is (it wants a token, it has a body, it is about a cluster, it changes something); the
//! rest is a table. The answer `default` stays: what libraries and proxies refuse is a problem too.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder};
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder};

use crate::http::problem::{MEDIA_TYPE, Problem, ProblemCode};

/// An example of each body, by the name of its schema. `"@Name"` stands for the example of another one.
const EXAMPLES: &str = include_str!("examples.json");
/// A parameter's example, by its name. Only of those that have to be given: the user interface fills them in.
const PARAMETERS: [(&str, &str); 5] =
    [("cluster", "default"), ("a", "alice"), ("b", "bob"), ("role", "viewer"), ("nonce", NODE)];
/// A node's id, and what an identifier is about where the path ends so.
const NODE: &str = "3l5qpr3rruk74dcs34nfahojpa5calfpay52ntq2vgptymwasesa";
const IDS: [(&str, &str); 10] = [
    ("/nodes/{id}", NODE),
    ("/nodes/{id}/session", NODE),
    ("/revocations/{id}", NODE),
    ("/join-tokens/{id}", "q3syxllr4vydoq5c"),
    ("/clusters/{cluster}/secrets/{id}", "hdtrfxtb456mki2m"),
    ("/relay/secrets/{id}", "1"),
    ("/relay/sessions/{id}", "3"),
    ("/seeds/{name}", "seed1"),
    ("/relay/users/{name}", "alice"),
    ("/clusters/{name}", "fleet"),
];

/// Adds it all.
pub(super) fn complete(contract: &mut OpenApi) {
    let examples = Examples::new();
    let components = contract.components.get_or_insert_default();
    components
        .examples
        .extend(ProblemCode::ALL.iter().map(|code| (code.as_str().to_owned(), example(*code))));
    for (path, item) in &mut contract.paths.paths {
        for (is_change, operation) in operations(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    give_example(path, parameter);
                }
            }
            for code in problems(path, operation, is_change) {
                add_problem(operation, code);
            }
            examples.fill(operation);
        }
    }
}

pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = (bool, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let all = [(false, get), (true, put), (true, post), (true, delete), (true, patch)];
    all.into_iter().filter_map(|(is_change, operation)| Some((is_change, operation.as_mut()?)))
}

fn give_example(path: &str, parameter: &mut Parameter) {
    let has_one = serde_json::to_value(&*parameter).is_ok_and(|said| said.get("example").is_some());
    let by_name = PARAMETERS.iter().find(|(name, _)| parameter.name == *name);
    let by_path = || {
        let braced = format!("{{{}}}", parameter.name);
        IDS.iter().find(|(end, _)| end.contains(&braced) && path.ends_with(end))
    };
    if let Some((_, example)) = by_name.or_else(by_path).filter(|_| !has_one) {
        let builder = ParameterBuilder::from(std::mem::take(parameter));
        *parameter = builder.example(Some(Value::from(*example))).build();
    }
}

/// What an operation can answer with besides what it is for.
fn problems(path: &str, operation: &Operation, is_change: bool) -> Vec<ProblemCode> {
    use ProblemCode as P;
    let id = operation.operation_id.as_deref().unwrap_or_default();
    let schemes = serde_json::to_string(&operation.security).unwrap_or_default();
    let has = |name: &str| {
        let mut parameters = operation.parameters.iter().flatten();
        parameters.any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == name))
    };
    let mut codes = vec![P::RateLimited, P::Timeout, P::Overloaded, P::Internal];
    let mut add = |holds: bool, more: &[ProblemCode]| codes.extend(more.iter().filter(|_| holds));
    add(schemes.contains("admin"), &[P::Unauthorized]);
    add(schemes.contains("admin") && !schemes.contains("viewer"), &[P::Forbidden]);
    add(operation.request_body.is_some(), &[P::BadJson, P::TooLarge, P::UnsupportedMediaType, P::Invalid]);
    add(has("limit"), &[P::BadQuery, P::BadLimit, P::BadCursor]);
    add(path.contains("{cluster}"), &[P::UnknownCluster]);
    add(path.starts_with("/v1/relay/"), &[P::RelayOff]);
    add(is_change && id != "create_event_ticket", &[P::Storage, P::DiskFull]);
    add(true, of_operation(id));
    codes
}

/// What follows from nothing else.
fn of_operation(id: &str) -> &'static [ProblemCode] {
    use ProblemCode as P;
    match id {
        "readyz" | "metrics" => &[P::NotReady],
        "make_backup" => &[P::BackupRuns],
        "reload" => &[P::ConfigRefused],
        "list_nodes"
        | "list_join_tokens"
        | "create_join_token"
        | "list_cluster_secrets"
        | "list_seeds"
        | "list_revocations" => &[P::ForeignCluster],
        "get_node" | "remove_node" | "end_node_session" => &[P::BadNodeId, P::UnknownNode, P::ForeignCluster],
        "explain_path" => &[P::UnknownNode],
        "lift_revocation" => &[P::BadNodeId, P::UnknownRevocation, P::ForeignCluster],
        "tell_revocations" => &[P::BadRevocation, P::OwnCluster],
        "get_join_token" | "revoke_join_token" => &[P::BadTokenId, P::UnknownToken, P::ForeignCluster],
        "add_cluster_secret" => &[P::KnownSecret, P::ClusterFull, P::ForeignCluster],
        "drop_cluster_secret" => &[P::UnknownSecret, P::ForeignCluster],
        "add_foreign_cluster" => &[P::OwnCluster, P::ForeignClusterKnown, P::ClusterFull],
        "remove_foreign_cluster" => &[P::OwnCluster],
        "change_cluster" => &[P::ForeignCluster],
        "get_seed" => &[P::UnknownSeed, P::ForeignCluster],
        "put_seed" => &[
            P::SeedAddressTaken,
            P::SeedAddressRefused,
            P::PublicSeedInPrivateCluster,
            P::BadSeedInPublicCluster,
            P::DeclaredPublicButPrivate,
            P::DeclaredPrivateButPublic,
            P::ClusterFull,
            P::ForeignCluster,
        ],
        "change_seed" => {
            &[P::UnknownSeed, P::BadSeedInPublicCluster, P::NoSeedInPublicCluster, P::ForeignCluster]
        }
        "delete_seed" => &[P::UnknownSeed, P::NoSeedInPublicCluster, P::ForeignCluster],
        "register_seed" => &[
            P::BadRegistration,
            P::BadToken,
            P::ClockSkew,
            P::StaleRegistration,
            P::SeedNameTaken,
            P::SeedAddressTaken,
            P::SeedApproved,
            P::SeedAddressRefused,
            P::PublicSeedInPrivateCluster,
            P::ClusterFull,
            P::ForeignCluster,
        ],
        "prove_seed" => &[P::BadQuery, P::NotHere],
        "replace_api_token" => &[P::GivenToken],
        "drop_replaced_api_token" => &[P::NoTokenBefore],
        "watch_events" => {
            &[P::BadQuery, P::BadEventId, P::NotAcceptable, P::UnknownCluster, P::UpgradeRequired]
        }
        "put_relay_user" => &[P::RelayFull],
        "remove_relay_user" => &[P::UnknownRelayUser],
        "add_relay_secret" => &[P::KnownRelaySecret, P::RelayFull],
        "drop_relay_secret" => &[P::UnknownRelaySecret, P::CurrentRelaySecret],
        "end_relay_session" => &[P::UnknownRelaySession],
        _ => &[],
    }
}

/// Adds a problem to the answers of its status. What it looks like is said once, among the components.
fn add_problem(operation: &mut Operation, code: ProblemCode) {
    let status = code.status().as_str().to_owned();
    let answer = operation.responses.responses.entry(status).or_insert_with(|| RefOr::T(answer(code)));
    let RefOr::T(answer) = answer else { return };
    let content = answer.content.entry(MEDIA_TYPE.to_owned()).or_insert_with(|| {
        RefOr::T(ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build())
    });
    let RefOr::T(content) = content else { return };
    let example = Ref::new(format!("#/components/examples/{}", code.as_str()));
    content.examples.insert(code.as_str().to_owned(), RefOr::Ref(example));
}

fn example(code: ProblemCode) -> RefOr<Example> {
    let problem = serde_json::to_value(Problem::new(code, "the particulars of the case")).ok();
    RefOr::T(ExampleBuilder::new().summary(code.hint()).value(problem).build())
}

fn answer(code: ProblemCode) -> Response {
    ResponseBuilder::new().description(code.status().canonical_reason().unwrap_or("Refused")).build()
}

/// The examples of bodies.
struct Examples(BTreeMap<String, Value>);

impl Examples {
    fn new() -> Self {
        #[allow(
            clippy::expect_used,
            reason = "a file that is compiled in; each test that reads the contract would fail first"
        )]
        Self(serde_json::from_str(EXAMPLES).expect("the examples are one object"))
    }

    fn fill(&self, operation: &mut Operation) {
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            for (media_type, content) in &mut body.content {
                self.give(media_type, content);
            }
        }
        for answer in operation.responses.responses.values_mut() {
            let RefOr::T(answer) = answer else { continue };
            for (media_type, content) in &mut answer.content {
                self.give(media_type, content);
            }
        }
    }

    fn give(&self, media_type: &str, content: &mut RefOr<utoipa::openapi::Content>) {
        let RefOr::T(content) = content else { return };
        if content.example.is_some() || !content.examples.is_empty() {
            return;
        }
        content.example = match &content.schema {
            Some(RefOr::Ref(schema)) => schema.ref_location.rsplit('/').next().and_then(|name| self.of(name)),
            _ => TEXTS.iter().find(|(name, _)| *name == media_type).map(|(_, text)| Value::from(*text)),
        };
    }

    /// The example of a schema. What refers in a circle has none.
    fn of(&self, name: &str) -> Option<Value> {
        self.0.get(name).map(|example| self.resolved(example, MAX_DEPTH))
    }

    fn resolved(&self, value: &Value, depth: usize) -> Value {
        let deeper = |value: &Value| self.resolved(value, depth.saturating_sub(1));
        match value {
            Value::String(text) => {
                let named = text.strip_prefix('@').filter(|_| depth > 0).and_then(|name| self.0.get(name));
                named.map_or_else(|| value.clone(), deeper)
            }
            Value::Array(items) => items.iter().map(deeper).collect(),
            Value::Object(members) => {
                members.iter().map(|(name, value)| (name.clone(), deeper(value))).collect()
            }
            other => other.clone(),
        }
    }
}

/// Bodies that are no JSON. One is bytes.
const TEXTS: [(&str, &str); 3] = [
    ("text/event-stream", EVENT),
    ("application/openmetrics-text", METRICS),
    ("application/vnd.sqlite3", "SQLite format 3\0"),
];
const METRICS: &str = "# HELP meetpoint_sessions Nodes that are present, by what they were found to be.\n# TYPE meetpoint_sessions gauge\n\
                       meetpoint_sessions{class=\"public_open\"} 3\n# EOF\n";
/// Bodies are no deeper.
const MAX_DEPTH: usize = 8;
/// An event of an event stream.
const EVENT: &str = "id: 00c5d1a2b3e4f596-7\nevent: node:leave\ndata: {\"id\":\"00c5d1a2b3e4f596-7\",\"seq\":7,\"type\":\"node:leave\",\
                     \"data\":{\"node\":\"3l5qpr3rruk74dcs34nfahojpa5calfpay52ntq2vgptymwasesa\",\"graceful\":true},\
                     \"timestamp\":1795321568536,\"sender\":\"node:3l5qpr3rruk74dcs34nfahojpa5calfpay52ntq2vgptymwasesa\",\
                     \"cluster\":\"default\"}\n\n";
