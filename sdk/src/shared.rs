//! What the driver knows and the application may ask, without waiting for the driver.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use meetpoint_proto::{ClusterNetwork, EffectiveNetwork, Membership, NatBehavior, NodeId};
use tokio::sync::{broadcast, mpsc, watch};

use crate::connection::PathInfo;
use crate::event::{Classification, Event, Events, Peer};
use crate::explain::Meetings;

/// Events that a slow reader may be behind before it misses some.
const EVENT_QUEUE: usize = 256;

/// The node's state, written by the driver alone.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Tells the driver which peers are no longer used.
    released: mpsc::UnboundedSender<NodeId>,
}

#[derive(Debug)]
struct State {
    /// `None` once the node has ended: readers then see the end.
    events: Option<broadcast::Sender<Event>>,
    joined: Option<Event>,
    classification: Option<Classification>,
    behavior: Option<NatBehavior>,
    meetings: Meetings,
    membership: Option<Membership>,
    peers: BTreeMap<NodeId, Peer>,
    paths: HashMap<NodeId, watch::Sender<PathInfo>>,
    uses: HashMap<NodeId, Weak<PeerUse>>,
}

/// Held by each connection to a peer; when the last one is gone the peer's path may go too.
#[derive(Debug)]
pub(crate) struct PeerUse {
    peer: NodeId,
    /// Unbounded, because a drop can't wait; at most one message for each use that was counted.
    released: mpsc::UnboundedSender<NodeId>,
}

impl Drop for PeerUse {
    fn drop(&mut self) {
        // If the driver is gone there is nothing to release.
        let _ = self.released.send(self.peer);
    }
}

impl Shared {
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<NodeId>) {
        let (released, releases) = mpsc::unbounded_channel();
        let state = State {
            events: Some(broadcast::Sender::new(EVENT_QUEUE)),
            joined: None,
            classification: None,
            behavior: None,
            meetings: Meetings::default(),
            membership: None,
            peers: BTreeMap::new(),
            paths: HashMap::new(),
            uses: HashMap::new(),
        };
        (Arc::new(Self { state: Mutex::new(state), released }), releases)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an event and tells it: one act, so that no reader sees it twice or not at all.
    pub(crate) fn publish(&self, event: Event) {
        let mut state = self.state();
        match &event {
            Event::Joined { .. } => {
                state.joined = Some(event.clone());
                state.peers.clear();
                // What it was in an earlier stay says nothing of this one.
                state.classification = None;
            }
            Event::Classified(found) => state.classification = Some(*found),
            Event::Behavior(found) => state.behavior = Some(*found),
            Event::ClusterChanged { effective: now } => {
                if let Some(Event::Joined { effective, .. }) = &mut state.joined {
                    *effective = *now;
                }
            }
            Event::PeerJoined(peer) => {
                state.peers.insert(peer.id, peer.clone());
            }
            Event::PeerLeft(id) => {
                state.peers.remove(id);
            }
            _ => {}
        }
        if let Some(events) = &state.events {
            // Without readers there is nobody to tell.
            let _ = events.send(event);
        }
    }

    /// The node has ended: readers come to their end.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.events = None;
        state.peers.clear();
        state.paths.clear();
    }

    pub(crate) fn subscribe(&self) -> Events {
        let state = self.state();
        let classified = state.classification.map(Event::Classified);
        let present: VecDeque<Event> = state.joined.clone().into_iter().chain(classified).collect();
        let receiver = match &state.events {
            Some(events) => events.subscribe(),
            // Its sender is dropped at once: the reader sees the end after what is so.
            None => broadcast::Sender::new(1).subscribe(),
        };
        Events::new(present, receiver)
    }

    pub(crate) fn classification(&self) -> Option<Classification> {
        self.state().classification
    }

    /// What this node found out about its NAT.
    pub(crate) fn behavior(&self) -> Option<NatBehavior> {
        self.state().behavior
    }

    /// What became of the connects to peers.
    pub(crate) fn with_meetings<T>(&self, act: impl FnOnce(&mut Meetings) -> T) -> T {
        act(&mut self.state().meetings)
    }

    /// The peer that is meant by a name or an id, if it is here.
    pub(crate) fn find_peer(&self, word: &str) -> Option<Peer> {
        let state = self.state();
        let by_name = state.peers.values().find(|peer| peer.name == word);
        by_name.or_else(|| state.peers.get(&word.parse().ok()?)).cloned()
    }

    pub(crate) fn network(&self) -> Option<(ClusterNetwork, EffectiveNetwork)> {
        match &self.state().joined {
            Some(Event::Joined { kind, effective, .. }) => Some((*kind, *effective)),
            _ => None,
        }
    }

    pub(crate) fn set_membership(&self, membership: Membership) {
        self.state().membership = Some(membership);
    }

    pub(crate) fn membership(&self) -> Option<Membership> {
        self.state().membership.clone()
    }

    /// By name.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let mut peers: Vec<Peer> = self.state().peers.values().cloned().collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        peers
    }

    pub(crate) fn set_path(&self, peer: NodeId, info: PathInfo) {
        let mut state = self.state();
        match state.paths.get(&peer) {
            Some(path) => {
                path.send_replace(info);
            }
            None => {
                state.paths.insert(peer, watch::Sender::new(info));
            }
        }
    }

    /// Watchers keep the last path they saw, and come to their end.
    pub(crate) fn forget_path(&self, peer: &NodeId) {
        self.state().paths.remove(peer);
    }

    pub(crate) fn path(&self, peer: &NodeId) -> Option<watch::Receiver<PathInfo>> {
        self.state().paths.get(peer).map(watch::Sender::subscribe)
    }

    /// Counts one more use of a peer's path.
    pub(crate) fn use_peer(&self, peer: NodeId) -> Arc<PeerUse> {
        let mut state = self.state();
        if let Some(held) = state.uses.get(&peer).and_then(Weak::upgrade) {
            return held;
        }
        let held = Arc::new(PeerUse { peer, released: self.released.clone() });
        state.uses.insert(peer, Arc::downgrade(&held));
        held
    }

    /// True if no connection to this peer is left. Forgets it then.
    pub(crate) fn unused(&self, peer: &NodeId) -> bool {
        let mut state = self.state();
        let unused = state.uses.get(peer).is_none_or(|held| held.strong_count() == 0);
        if unused {
            state.uses.remove(peer);
        }
        unused
    }
}
