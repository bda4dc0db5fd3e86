//! Whether nodes may join, decided on what the registry knows of them.
//!
//! Pure: the nodes of a group are judged one after the other, in memory, each as if the ones before it were stored
//! already. What is then to be stored is in [`Changes`].

use std::collections::{BTreeMap, BTreeSet};

use meetpoint_broker::AdmitRequest;
use meetpoint_proto::id::TokenId;
use meetpoint_proto::{NodeId, NodeName, TokenScope};

use super::{ServiceError, UnixMs};
use crate::store::nodes::{Holder, Session, Standing};
use crate::store::tokens::TokenRow;

/// Nodes registered in one cluster: some 20 MB of registry. Keeps an open cluster from filling the disk.
const MAX_NODES: i64 = 100_000;

/// What lets a node in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// The cluster is open.
    Open,
    /// Its session, by the token's hash.
    Session([u8; 32]),
    /// A join token that it has proven to hold.
    Token(TokenId),
    /// A cluster secret that it has proven to hold.
    Secret,
}

impl Right {
    /// The token that is used.
    pub(super) fn token(self) -> Option<TokenId> {
        match self {
            Self::Token(id) => Some(id),
            Self::Open | Self::Session(_) | Self::Secret => None,
        }
    }
}

/// What the registry knows of those who want to join a cluster.
#[derive(Debug, Default)]
pub(super) struct Registered {
    nodes: i64,
    revoked: BTreeSet<NodeId>,
    holders: BTreeMap<NodeId, Holder>,
    /// Whose joins are to be stored.
    joined: BTreeMap<usize, NodeId>,
    names: BTreeMap<NodeName, NodeId>,
    tokens: BTreeMap<TokenId, TokenRow>,
    gone: BTreeSet<NodeId>,
    uses: BTreeMap<TokenId, i64>,
}

/// What is to be stored: first who is gone, then the joins in their order, and the uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Whoever lost his name.
    pub(super) gone: BTreeSet<NodeId>,
    /// Who joins, by his number in the group. One who came twice is there twice.
    pub(super) joined: Vec<usize>,
    /// How many new nodes each token has let in.
    pub(super) uses: BTreeMap<TokenId, i64>,
}

impl Registered {
    pub(super) fn new(standing: Standing, holders: Vec<Holder>, tokens: Vec<TokenRow>) -> Self {
        Self {
            nodes: standing.nodes,
            revoked: standing.revoked.into_iter().collect(),
            names: holders.iter().map(|holder| (holder.name.clone(), holder.id)).collect(),
            holders: holders.into_iter().map(|holder| (holder.id, holder)).collect(),
            tokens: tokens.into_iter().map(|token| (token.id, token)).collect(),
            joined: BTreeMap::new(),
            gone: BTreeSet::new(),
            uses: BTreeMap::new(),
        }
    }

    pub(super) fn changes(self) -> Changes {
        Changes { gone: self.gone, joined: self.joined.into_keys().collect(), uses: self.uses }
    }

    /// Lets a node in or says why not. A use of a token is counted for each new node only.
    pub(super) fn judge(
        &mut self,
        number: usize,
        request: &AdmitRequest,
        right: Right,
        session: Session,
        now: UnixMs,
    ) -> Result<(), ServiceError> {
        if self.revoked.contains(&request.node) {
            return Err(ServiceError::Removed);
        }
        let own = self.holders.get(&request.node);
        let is_new = own.is_none();
        if let Right::Session(hash) = right {
            check_session(own, request, &hash, now)?;
        }
        if is_new && self.nodes >= MAX_NODES {
            return Err(ServiceError::ClusterFull);
        }
        if let Right::Token(id) = right {
            let token = self.tokens.get(&id).ok_or(ServiceError::BadToken("is not known here"))?;
            check_usable(token, TokenScope::Node, now, is_new)?;
            if let Some(names) = token.names.as_ref().filter(|names| !names.matches(&request.name)) {
                return Err(ServiceError::NameNotAllowed(names.clone()));
            }
        }
        self.free_name(request)?;
        if let (Right::Token(id), true) = (right, is_new) {
            self.count_use(id);
        }
        self.join(number, request, session);
        Ok(())
    }

    /// Makes sure that nobody else has the name. An ephemeral node that is not present has no claim:
    /// its key is gone with its process.
    fn free_name(&mut self, request: &AdmitRequest) -> Result<(), ServiceError> {
        let other = self.names.get(&request.name).filter(|id| **id != request.node);
        let Some(other) = other.and_then(|id| self.holders.get(id)) else { return Ok(()) };
        let is_present = request.name_holder == Some(other.id);
        if is_present || !other.ephemeral {
            return Err(ServiceError::NameTaken);
        }
        let other = other.id;
        self.holders.remove(&other);
        self.nodes -= 1;
        self.joined.retain(|_, id| *id != other);
        self.gone.insert(other);
        Ok(())
    }

    fn count_use(&mut self, id: TokenId) {
        if let Some(token) = self.tokens.get_mut(&id) {
            token.uses += 1;
            *self.uses.entry(id).or_default() += 1;
        }
    }

    fn join(&mut self, number: usize, request: &AdmitRequest, session: Session) {
        let holder = Holder {
            id: request.node,
            name: request.name.clone(),
            ephemeral: request.ephemeral,
            session: Some(session),
        };
        self.joined.insert(number, holder.id);
        let name = holder.name.clone();
        match self.holders.insert(holder.id, holder) {
            Some(before) => drop(self.names.remove(&before.name)),
            None => self.nodes += 1,
        }
        self.names.insert(name, request.node);
    }
}

/// A session is one key's under one name: a token that allows some names only must not lead to others.
fn check_session(
    own: Option<&Holder>,
    request: &AdmitRequest,
    hash: &[u8; 32],
    now: UnixMs,
) -> Result<(), ServiceError> {
    let own = own.filter(|own| own.name == request.name);
    let session = own.and_then(|own| own.session).filter(|session| session.hash == *hash);
    match session {
        Some(session) if now.0 < session.expires_ms => Ok(()),
        _ => Err(ServiceError::BadSession),
    }
}

/// Whether a token that its bearer has proven to hold lets him in as what he comes.
pub(super) fn check_usable(
    token: &TokenRow,
    scope: TokenScope,
    now: UnixMs,
    is_new: bool,
) -> Result<(), ServiceError> {
    if token.revoked_ms.is_some() {
        return Err(ServiceError::BadToken("was revoked"));
    }
    if token.expires_ms.is_some_and(|expires_ms| expires_ms <= now.0) {
        return Err(ServiceError::BadToken("has expired"));
    }
    if token.scope != scope {
        return Err(ServiceError::TokenScope(token.scope));
    }
    if is_new && token.max_uses.is_some_and(|max_uses| token.uses >= max_uses) {
        return Err(ServiceError::BadToken("is used up"));
    }
    Ok(())
}
