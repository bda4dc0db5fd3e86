//! What the registry is told in passing: verdicts, when a node was last there, ephemeral nodes that are gone.
//!
//! Nobody waits for these, and they come in crowds: ten thousand when a server stops. So they gather while the writer
//! is busy, one a node, and are written together, a few hundred by one statement. A join is never among them, and the
//! rendezvous notes nothing of a node whose join is on its way; so it does not matter that a note may be written
//! earlier than a use case that was queued before it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use meetpoint_proto::{ClusterName, Evidence, NetworkClass, NodeId};
use tracing::warn;

use super::{Service, UnixMs};
use crate::store::clusters::ClusterId;
use crate::store::nodes::{self, Note};
use crate::store::{Store, StoreError};

/// Nodes with a note that is not written yet: more than can be connected at once.
const MAX_NOTES: usize = 65_536;
/// Notes in one statement: some 64 KiB.
const NOTES_PER_STATEMENT: usize = 256;

/// The notes that wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    notes: BTreeMap<(ClusterId, NodeId), Note>,
    /// A use case is queued that will write them.
    is_queued: bool,
}

impl Notes {
    fn add(&self, store: &Store, cluster: ClusterId, id: NodeId, change: impl FnOnce(&mut Note)) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.notes.len() >= MAX_NOTES && !waiting.notes.contains_key(&(cluster, id)) {
            return warn!(node = %id, "the registry does not keep up; a note about a node was dropped");
        }
        change(waiting.notes.entry((cluster, id)).or_default());
        if !waiting.is_queued {
            waiting.is_queued = self.queue(store);
        }
    }

    /// False if the writer has no place; the next note tries again.
    fn queue(&self, store: &Store) -> bool {
        let waiting = Arc::clone(&self.0);
        store.post::<(), StoreError, _>(move |tx| {
            Box::pin(async move {
                let notes = {
                    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.is_queued = false;
                    std::mem::take(&mut waiting.notes)
                };
                let notes: Vec<_> = notes.into_iter().collect();
                for of_cluster in notes.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
                    for some in of_cluster.chunks(NOTES_PER_STATEMENT) {
                        nodes::note(&mut *tx, some[0].0.0, some).await?;
                    }
                }
                Ok(())
            })
        })
    }
}

impl Service {
    /// Notes a verdict.
    pub(crate) fn note_class(
        &self,
        now: UnixMs,
        cluster: &ClusterName,
        id: NodeId,
        verdict: (NetworkClass, Evidence, Option<SocketAddr>),
    ) {
        self.note_node(cluster, id, |note| {
            note.seen_ms = Some(now.0);
            note.verdict = Some(verdict);
        });
    }

    /// Notes that a node was there until now.
    pub(crate) fn note_seen(&self, now: UnixMs, cluster: &ClusterName, id: NodeId) {
        self.note_node(cluster, id, |note| note.seen_ms = Some(now.0));
    }

    /// Forgets a node if it is an ephemeral one.
    pub(crate) fn forget(&self, cluster: &ClusterName, id: NodeId) {
        self.note_node(cluster, id, |note| note.is_gone = true);
    }

    fn note_node(&self, cluster: &ClusterName, id: NodeId, change: impl FnOnce(&mut Note)) {
        if let Ok(cluster) = self.cluster(cluster.as_str()) {
            self.notes.add(&self.store, cluster.id, id, change);
        }
    }
}
