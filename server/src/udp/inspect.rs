//! The operator's view of the relay: what goes on, and an end to it. Asked of the threads that own the
//! machines, through their inboxes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meetpoint_turn::{Counters, Input, RelayPolicy, Session, SessionId, StunServer, Traffic, Transport};
use tokio::sync::oneshot;

use super::inbox::{Inbox, Inboxes, Message};

/// An allocation, as it was when it was asked for.
#[derive(Debug)]
pub(crate) struct SessionInfo {
    pub(crate) id: u64,
    pub(crate) user: String,
    pub(crate) client: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) relayed: Vec<SocketAddr>,
    pub(crate) lifetime_left: Duration,
    pub(crate) to_peer: Traffic,
    pub(crate) to_client: Traffic,
}

impl From<Session<'_>> for SessionInfo {
    fn from(session: Session<'_>) -> Self {
        Self {
            id: session.id.number(),
            user: session.user.to_owned(),
            client: session.client,
            transport: session.transport,
            relayed: session.relayed.into_iter().flatten().collect(),
            lifetime_left: session.lifetime_left,
            to_peer: session.to_peer,
            to_client: session.to_client,
        }
    }
}

/// What a shard's machine counted, and what it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineState {
    pub(crate) counters: Counters,
    pub(crate) allocations: usize,
}

/// A question to a shard.
#[derive(Debug)]
pub(crate) enum Inspection {
    /// At most so many sessions behind this one, by number.
    Sessions { after: Option<u64>, limit: usize, reply: oneshot::Sender<Vec<SessionInfo>> },
    /// End one; the answer is whether there was one.
    End { id: u64, reply: oneshot::Sender<bool> },
    /// What it counted.
    State { reply: oneshot::Sender<MachineState> },
}

impl Inspection {
    /// Answers it. Whoever has stopped waiting misses nothing.
    pub(super) fn answer(self, machine: &mut StunServer) {
        let now = Instant::now();
        match self {
            Self::Sessions { after, limit, reply } => {
                let is_behind = |session: &Session<'_>| after.is_none_or(|after| session.id.number() > after);
                let mut ids: Vec<_> =
                    machine.sessions(now).filter(is_behind).map(|session| session.id).collect();
                ids.sort_unstable_by_key(|id| id.number());
                ids.truncate(limit);
                let is_listed = |session: &Session<'_>| {
                    ids.binary_search_by_key(&session.id.number(), |id| id.number()).is_ok()
                };
                let mut page: Vec<_> =
                    machine.sessions(now).filter(is_listed).map(SessionInfo::from).collect();
                page.sort_unstable_by_key(|session| session.id);
                let _ = reply.send(page);
            }
            Self::End { id, reply } => {
                let before = machine.counters().relay.ended;
                machine.handle(now, Input::EndSession(SessionId::from_number(id)));
                let _ = reply.send(machine.counters().relay.ended > before);
            }
            Self::State { reply } => {
                let [allocations, ..] = machine.relay_sizes();
                let _ = reply.send(MachineState { counters: *machine.counters(), allocations });
            }
        }
    }
}

/// Asks the shards.
#[derive(Debug, Clone)]
pub(crate) struct RelayHandle(Inboxes);

impl RelayHandle {
    pub(crate) fn new(inboxes: Inboxes) -> Self {
        Self(inboxes)
    }

    /// At most so many sessions behind this one, of all shards. Nothing if the server is going away.
    pub(crate) async fn sessions(&self, after: Option<u64>, limit: usize) -> Option<Vec<SessionInfo>> {
        let mut all = Vec::new();
        for inbox in self.0.iter() {
            let ask = |reply| Inspection::Sessions { after, limit, reply };
            all.extend(asked(inbox, ask).await?);
        }
        all.sort_unstable_by_key(|session: &SessionInfo| session.id);
        all.truncate(limit);
        Some(all)
    }

    /// What each shard's machine counted. Nothing if the server is going away.
    pub(crate) async fn states(&self) -> Option<Vec<MachineState>> {
        let mut all = Vec::new();
        for inbox in self.0.iter() {
            all.push(asked(inbox, |reply| Inspection::State { reply }).await?);
        }
        Some(all)
    }

    /// Has all shards relay by this from now on.
    pub(crate) async fn set_policy(&self, policy: &RelayPolicy) {
        for inbox in self.0.iter() {
            // A shard that is gone ends the server.
            let _ = inbox.send(Message::Policy(Box::new(policy.clone()))).await;
        }
    }

    /// Whether there was such a session. Nothing if the server is going away.
    pub(crate) async fn end(&self, id: u64) -> Option<bool> {
        match self.0.at(SessionId::from_number(id).shard()) {
            Some(inbox) => asked(inbox, |reply| Inspection::End { id, reply }).await,
            None => Some(false),
        }
    }
}

async fn asked<T>(inbox: &Inbox, question: impl FnOnce(oneshot::Sender<T>) -> Inspection) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    inbox.send(Message::Inspect(question(reply))).await.ok()?;
    answer.await.ok()
}
