//! Why two nodes meet as they do.

pub(super) mod list;

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use meetpoint_broker::{Broker, PairAttempt, SessionView};
use meetpoint_proto::explain::{self, Attempt, Evidence, Outcome, Party};
use meetpoint_proto::wire::{CandidateKind, TicketOutcome};
use meetpoint_proto::{ClusterName, Filtering, Mapping, NatBehavior, NetworkClass, NodeId};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::extract::{Path, Reader};
use super::problem::Problem;
use crate::service::ServiceError;

/// Why two nodes meet as they do, by what this server knows of them.
#[derive(Serialize, ToSchema)]
pub(super) struct PairView {
    /// All of it in a sentence.
    #[schema(
        example = "alice: a port-restricted NAT; bob: a full-cone NAT; they met directly 90 s ago, after 84 ms"
    )]
    text: String,
    /// The two, in the order of the path.
    nodes: Vec<PairNode>,
    /// Their last introductions of the last hour, the newest first, at most four.
    introductions: Vec<PairIntroduction>,
}

/// One of the two.
#[derive(Serialize, ToSchema)]
struct PairNode {
    /// Its public key, in base32.
    id: String,
    /// Its name.
    #[schema(example = "alice")]
    name: String,
    /// It is here.
    present: bool,
    /// What was found out about it.
    #[schema(example = "Private")]
    class: Option<&'static str>,
    /// How its NAT maps, by its own account.
    mapping: Option<&'static str>,
    /// How its NAT filters, by its own account.
    filtering: Option<&'static str>,
}

/// An introduction.
#[derive(Serialize, ToSchema)]
struct PairIntroduction {
    /// How long ago it began.
    ago_ms: u64,
    /// `pending`, `direct`, `relayed`, or `failed`: nobody said that there is a path.
    #[schema(example = "direct")]
    outcome: &'static str,
    /// From the introduction to the first verified packet, if there was one.
    elapsed_ms: Option<u32>,
    /// Both sides; the one that asked comes first.
    sides: Vec<PairSide>,
}

/// A side of an introduction, as it was then.
#[derive(Serialize, ToSchema)]
struct PairSide {
    /// The node.
    id: String,
    /// As what it was judged.
    class: Option<&'static str>,
    /// How its NAT maps, by its own account.
    mapping: Option<&'static str>,
    /// How its NAT filters, by its own account.
    filtering: Option<&'static str>,
    /// What the other side was offered of it: `host`, `srflx`, `mapped` and the like.
    offered: Vec<&'static str>,
    /// What it said of the introduction's end: `direct`, `relayed` or `failed`.
    said: Option<&'static str>,
}

/// What the broker knows of the two.
struct Known {
    present: [Option<SessionView>; 2],
    attempts: Vec<PairAttempt>,
}

/// Says why two nodes meet directly, or why they do not: what they found out about their NATs, and what became of
/// their last introductions.
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}/paths/{a}/{b}", tag = "nodes", operation_id = "explain_path", security(("viewer" = []), ("admin" = [])),
    params(
        ("cluster" = String, Path, description = "The cluster's name"),
        ("a" = String, Path, description = "A node: its id, or its name if it is present"),
        ("b" = String, Path, description = "Another one")
    ),
    responses(
        (status = OK, body = PairView, description = "What is known"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "Refused")
    )
)]
pub(super) async fn explain(
    _: Reader,
    State(app): State<App>,
    Path((cluster, a, b)): Path<(String, String, String)>,
) -> Result<Json<PairView>, Problem> {
    let name = cluster.parse::<ClusterName>().map_err(|_| ServiceError::UnknownCluster)?;
    app.service.effective(&name)?;
    let words = [a, b];
    let asked = (name.clone(), words.clone());
    let known = app.rendezvous.query(move |broker| known(broker, &asked.0, &asked.1)).await?;
    let mut nodes = Vec::with_capacity(words.len());
    for (word, session) in words.iter().zip(&known.present) {
        nodes.push(match session {
            Some(session) => PairNode::present(session),
            None => absent(&app, &cluster, word).await?,
        });
    }
    Ok(Json(PairView::new(nodes, &known)))
}

fn known(broker: &Broker, cluster: &ClusterName, words: &[String; 2]) -> Known {
    let present = words.each_ref().map(|word| broker.find(cluster, word));
    let id = |at: usize| match &present[at] {
        Some(session) => Some(session.node),
        None => words[at].parse::<NodeId>().ok(),
    };
    let attempts = match (id(0), id(1)) {
        (Some(a), Some(b)) => broker.pair(Instant::now(), cluster, a, b),
        _ => Vec::new(),
    };
    Known { present, attempts }
}

/// A node that is registered and not here. One that is away is known by its id alone.
async fn absent(app: &App, cluster: &str, word: &str) -> Result<PairNode, Problem> {
    let id = word.parse::<NodeId>().map_err(|_| ServiceError::UnknownNode)?;
    let row = app.service.node(cluster, &id).await?;
    Ok(PairNode {
        id: id.to_string(),
        name: row.name.to_string(),
        present: false,
        class: row.class.map(NetworkClass::as_str),
        mapping: None,
        filtering: None,
    })
}

impl PairNode {
    fn present(session: &SessionView) -> Self {
        let behavior = session.behavior.unwrap_or_default();
        Self {
            id: session.node.to_string(),
            name: session.name.to_string(),
            present: true,
            class: session.class.map(|(class, _)| class.as_str()),
            mapping: behavior.mapping.map(Mapping::as_str),
            filtering: behavior.filtering.map(Filtering::as_str),
        }
    }
}

impl PairView {
    fn new(nodes: Vec<PairNode>, known: &Known) -> Self {
        let introductions: Vec<PairIntroduction> = known.attempts.iter().map(PairIntroduction::new).collect();
        let attempts: Vec<Attempt> = known.attempts.iter().map(attempt).collect();
        let party = |at: usize| Party {
            name: &nodes[at].name,
            present: nodes[at].present,
            class: known.present[at].as_ref().and_then(|session| session.class).map(|(class, _)| class),
            behavior: known.present[at].as_ref().and_then(|session| session.behavior),
        };
        let evidence = Evidence { parties: [party(0), party(1)], attempts: &attempts, way: None };
        Self { text: explain::sentence(&evidence), nodes, introductions }
    }
}

/// Both may have said something; the quicker of two successes counts.
fn attempt(attempt: &PairAttempt) -> Attempt {
    let direct = attempt.said.iter().flatten().filter_map(|said| match said {
        TicketOutcome::Direct { elapsed_ms } => Some(*elapsed_ms),
        TicketOutcome::Relayed | TicketOutcome::Failed => None,
    });
    let is_relayed = attempt.said.iter().flatten().any(|said| *said == TicketOutcome::Relayed);
    let outcome = match direct.min() {
        Some(elapsed_ms) => Outcome::Direct { elapsed_ms },
        None if attempt.over && is_relayed => Outcome::Relayed,
        None if attempt.over => Outcome::Failed,
        None => Outcome::Pending,
    };
    Attempt { ago_ms: u64::try_from(attempt.ago.as_millis()).unwrap_or(u64::MAX), outcome }
}

impl PairIntroduction {
    fn new(view: &PairAttempt) -> Self {
        let Attempt { ago_ms, outcome } = attempt(view);
        let (word, elapsed_ms) = match outcome {
            Outcome::Pending => ("pending", None),
            Outcome::Direct { elapsed_ms } => ("direct", Some(elapsed_ms)),
            Outcome::Relayed => ("relayed", None),
            Outcome::Failed => ("failed", None),
        };
        let sides = (0..2).map(|at| PairSide::new(view, at)).collect();
        Self { ago_ms, outcome: word, elapsed_ms, sides }
    }
}

const fn kind_word(kind: CandidateKind) -> &'static str {
    match kind {
        CandidateKind::Host => "host",
        CandidateKind::Srflx => "srflx",
        CandidateKind::Mapped => "mapped",
        CandidateKind::Relay => "relay",
    }
}

impl PairSide {
    fn new(view: &PairAttempt, at: usize) -> Self {
        let behavior: NatBehavior = view.behaviors[at].unwrap_or_default();
        Self {
            id: view.nodes[at].to_string(),
            class: view.classes[at].map(NetworkClass::as_str),
            mapping: behavior.mapping.map(Mapping::as_str),
            filtering: behavior.filtering.map(Filtering::as_str),
            offered: view.offered[at].iter().map(|kind| kind_word(*kind)).collect(),
            said: view.said[at].map(|said| match said {
                TicketOutcome::Direct { .. } => "direct",
                TicketOutcome::Relayed => "relayed",
                TicketOutcome::Failed => "failed",
            }),
        }
    }
}
