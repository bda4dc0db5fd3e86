//! Joins are stored in groups.
//!
//! A thousand nodes a second may come when a network or a server was away. One by one, each would cost several
//! statements, and each statement two changes of thread. So those of a cluster gather while the writer is busy: what
//! the registry knows of all of them is read at once, they are judged in the order they came in ([`Registered`]), and
//! what follows is written at once. The busier the server, the larger the groups, and the less a join costs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use meetpoint_broker::AdmitRequest;
use meetpoint_proto::id::TokenId;
use sqlx::SqliteConnection;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::registered::{Changes, Registered, Right};
use super::{ServiceError, UnixMs};
use crate::store::clusters::ClusterId;
use crate::store::nodes::{self, Join, Session};
use crate::store::{Job, Store, StoreError, tokens};

/// Joins of one cluster that wait for the writer: some seconds' worth. Whoever comes then is told to come again.
const MAX_WAITING: usize = 4096;

/// Groups of joins are this far apart, so that many that come at once are few groups. Only whoever comes right after
/// another waits for it.
const SPACING: Duration = Duration::from_millis(5);

/// A node that is to be let in.
#[derive(Debug)]
pub(super) struct Applicant {
    pub(super) request: Arc<AdmitRequest>,
    pub(super) right: Right,
    pub(super) session: Session,
    pub(super) now: UnixMs,
}

struct Waiting {
    applicant: Applicant,
    reply: oneshot::Sender<Result<(), ServiceError>>,
}

/// The joins that wait.
#[derive(Default)]
struct Lists {
    /// A cluster is in here as long as a use case is queued that will take its joins.
    by_cluster: BTreeMap<ClusterId, Vec<Waiting>>,
    /// When the writer last took some.
    taken: Option<Instant>,
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Joins(Arc<Mutex<Lists>>);

impl Joins {
    /// Judges a join and stores it, durably.
    pub(super) async fn store(
        &self,
        store: &Store,
        cluster: ClusterId,
        applicant: Applicant,
    ) -> Result<(), ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.gather(store, cluster, Waiting { applicant, reply })?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    fn gather(&self, store: &Store, cluster: ClusterId, waiting: Waiting) -> Result<(), StoreError> {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = lists.by_cluster.get_mut(&cluster) {
            if list.len() >= MAX_WAITING {
                return Err(StoreError::Busy);
            }
            list.push(waiting);
            return Ok(());
        }
        let group = Group { joins: self.clone(), cluster, taken: Vec::new(), outcome: None };
        match lists.taken.and_then(|taken| SPACING.checked_sub(taken.elapsed())) {
            None => store.enqueue(Box::new(group))?,
            Some(rest) => drop(tokio::spawn(enqueue_after(rest, store.clone(), group))),
        }
        lists.by_cluster.insert(cluster, vec![waiting]);
        Ok(())
    }

    fn take(&self, cluster: ClusterId) -> Vec<Waiting> {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.taken = Some(Instant::now());
        lists.by_cluster.remove(&cluster).unwrap_or_default()
    }
}

async fn enqueue_after(rest: Duration, store: Store, group: Group) {
    tokio::time::sleep(rest).await;
    let (joins, cluster) = (group.joins.clone(), group.cluster);
    if let Err(error) = store.enqueue(Box::new(group)) {
        refuse(joins.take(cluster), &error);
    }
}

/// The use case.
struct Group {
    joins: Joins,
    cluster: ClusterId,
    taken: Vec<Waiting>,
    /// `None`: it has not run.
    outcome: Option<Result<Outcomes, StoreError>>,
}

/// Of a group's joins, in their order.
type Outcomes = Vec<Result<(), ServiceError>>;

impl Job for Group {
    fn run<'c>(&'c mut self, tx: &'c mut SqliteConnection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            self.taken = self.joins.take(self.cluster);
            let applicants: Vec<&Applicant> = self.taken.iter().map(|waiting| &waiting.applicant).collect();
            let outcome = admit(tx, self.cluster, &applicants).await;
            self.outcome.insert(outcome).is_ok()
        })
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        let (taken, outcomes) = match self.outcome {
            Some(Ok(outcomes)) => (self.taken, outcomes),
            Some(Err(error)) => return refuse(self.taken, &error),
            None => return refuse(self.joins.take(self.cluster), &failure.unwrap_or(StoreError::Closed)),
        };
        for (waiting, outcome) in taken.into_iter().zip(outcomes) {
            // A refusal stands whatever became of the commit: it has changed nothing.
            let failed = |()| failure.clone().map_or(Ok(()), |failure| Err(failure.into()));
            // Whoever asked may have gone away; the join stands.
            let _ = waiting.reply.send(outcome.and_then(failed));
        }
    }
}

fn refuse(group: Vec<Waiting>, error: &StoreError) {
    for waiting in group {
        let _ = waiting.reply.send(Err(error.clone().into()));
    }
}

/// Judges a group, and writes what follows.
async fn admit(
    tx: &mut SqliteConnection,
    cluster: ClusterId,
    applicants: &[&Applicant],
) -> Result<Outcomes, StoreError> {
    let mut registered = look_up(tx, cluster, applicants).await?;
    let judge = |(number, applicant): (usize, &&Applicant)| {
        let Applicant { request, right, session, now } = applicant;
        registered.judge(number, request, *right, *session, *now)
    };
    let outcomes = applicants.iter().enumerate().map(judge).collect();
    write(tx, cluster, applicants, registered.changes()).await?;
    Ok(outcomes)
}

async fn look_up(
    tx: &mut SqliteConnection,
    cluster: ClusterId,
    applicants: &[&Applicant],
) -> Result<Registered, StoreError> {
    let wanted = nodes::wanted(applicants.iter().map(|join| (&join.request.node, &join.request.name)));
    let standing = nodes::standing(tx, cluster, &wanted).await?;
    let holders = nodes::holders(tx, cluster, &wanted).await?;
    let shown: BTreeSet<TokenId> = applicants.iter().filter_map(|join| join.right.token()).collect();
    let mut known = Vec::with_capacity(shown.len());
    for id in shown {
        known.extend(tokens::find(&mut *tx, cluster, &id).await?);
    }
    Ok(Registered::new(standing, holders, known))
}

async fn write(
    tx: &mut SqliteConnection,
    cluster: ClusterId,
    applicants: &[&Applicant],
    changes: Changes,
) -> Result<(), StoreError> {
    for id in &changes.gone {
        nodes::delete(tx, cluster, id).await?;
    }
    for (id, uses) in changes.uses {
        tokens::count_uses(tx, cluster, &id, uses).await?;
    }
    let joins = changes.joined.iter().map(|number| {
        let Applicant { request, session, now, .. } = applicants[*number];
        Join::new(request, session, now.0)
    });
    let joins = joins.collect::<Result<Vec<_>, _>>()?;
    if !joins.is_empty() {
        nodes::join(tx, cluster, &joins).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use meetpoint_proto::{EffectiveNetwork, JoinToken};

    use super::*;
    use crate::service::Service;
    use crate::service::tests::{CLUSTER, NOW, request, service, token};

    /// What came of some joins: the outcomes, then the registry's rows.
    type Seen = (Vec<String>, Vec<String>);

    /// Small numbers, always the same ones.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: u8) -> u8 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) % u64::from(end)) as u8
        }
    }

    /// A few nodes, fewer names, sessions that are theirs or not, a token that is soon used up.
    fn applicants(seed: u64, token: &JoinToken) -> Vec<Applicant> {
        let mut numbers = Numbers(seed);
        let node = |key| request(key, "a", token).node;
        let applicant = |at: i64| {
            let (key, name) = (1 + numbers.below(4), ["a", "b", "c"][usize::from(numbers.below(3))]);
            let right = match numbers.below(4) {
                0 => Right::Session([1 + numbers.below(4); 32]),
                1 => Right::Open,
                _ => Right::Token(token.id()),
            };
            let present = 1 + numbers.below(6);
            let request = AdmitRequest {
                ephemeral: numbers.below(2) == 0,
                name_holder: (present != key).then(|| node(present)),
                ..request(key, name, token)
            };
            let session = Session { hash: [key; 32], expires_ms: NOW.0 + 1 };
            Applicant { request: Arc::new(request), right, session, now: UnixMs(NOW.0 + at) }
        };
        (0..12).map(applicant).collect()
    }

    /// Admits in groups of one size, looks, and undoes it all.
    async fn outcome(service: &Service, applicants: &Arc<Vec<Applicant>>, size: usize) -> Seen {
        let cluster = service.cluster(CLUSTER).unwrap().id;
        let (seen, look) = (Arc::new(Mutex::new(Seen::default())), Arc::clone(applicants));
        let found = Arc::clone(&seen);
        let undone = service.store.write::<(), StoreError, _>(move |tx| {
            Box::pin(async move {
                // The cluster has room for three.
                sqlx::query("UPDATE node_counts SET nodes = 100000 - 3").execute(&mut *tx).await?;
                let mut outcomes = Vec::new();
                for group in look.iter().collect::<Vec<_>>().chunks(size) {
                    let of_group = admit(tx, cluster, group).await?;
                    outcomes.extend(of_group.iter().map(|outcome| format!("{outcome:?}")));
                }
                let rows: Vec<String> = sqlx::query_scalar(
                    "SELECT hex(node_id) || name || ephemeral || hex(session_hash) || first_seen_ms || last_seen_ms
                     FROM nodes UNION ALL SELECT 'nodes ' || nodes FROM node_counts
                     UNION ALL SELECT 'uses ' || uses FROM join_tokens",
                )
                .fetch_all(tx)
                .await?;
                *found.lock().unwrap() = (outcomes, rows);
                Err(StoreError::Corrupt("on purpose"))
            })
        });
        assert!(undone.await.is_err());
        std::mem::take(&mut *seen.lock().unwrap())
    }

    #[tokio::test]
    async fn a_group_is_what_its_joins_one_by_one_are() {
        let (service, _dir) = service(EffectiveNetwork::Private).await;
        let token = token(&service, None, Some(2)).await;
        let (mut joined, mut refused) = (0, 0);
        for seed in 0..300 {
            let applicants = Arc::new(applicants(seed, &token));
            let one_by_one = outcome(&service, &applicants, 1).await;
            for size in [3, 12] {
                assert_eq!(
                    outcome(&service, &applicants, size).await,
                    one_by_one,
                    "seed {seed}, groups of {size}"
                );
            }
            let fine = one_by_one.0.iter().filter(|outcome| *outcome == "Ok(())").count();
            (joined, refused) = (joined + fine, refused + 12 - fine);
        }
        assert!(joined > 500 && refused > 500, "{joined} {refused}");
    }

    /// A group whose use case never ran, or whose commit failed, is told so; nobody waits for ever.
    #[tokio::test]
    async fn a_failure_is_told_to_all_of_a_group() {
        let (service, _dir) = service(EffectiveNetwork::Private).await;
        let token = token(&service, None, None).await;
        let cluster = service.cluster(CLUSTER).unwrap().id;
        for has_run in [false, true] {
            let joins = Joins::default();
            let mut answers = Vec::new();
            let mut list = Vec::new();
            for applicant in applicants(1, &token) {
                let (reply, answer) = oneshot::channel();
                list.push(Waiting { applicant, reply });
                answers.push(answer);
            }
            let group = if has_run {
                let outcome = Some(Ok(list.iter().map(|_| Ok(())).collect()));
                Group { joins, cluster, taken: list, outcome }
            } else {
                joins.0.lock().unwrap().by_cluster.insert(cluster, list);
                Group { joins, cluster, taken: Vec::new(), outcome: None }
            };
            Box::new(group).answer(Some(StoreError::Full));
            for answer in answers {
                assert!(matches!(answer.await, Ok(Err(ServiceError::Store(StoreError::Full)))), "{has_run}");
            }
        }
    }
}
