//! Whose credentials they are: a node's, minted in its welcome, or anybody's whom the operator trusts.
//!
//! The user of a node's is `node:<session>`. Nobody else is given a user that begins like this
//! ([`is_node_user`]), so the two kinds cannot be taken for each other.

use meetpoint_proto::SessionId as NodeSession;

use crate::credentials::user_of;

/// What the user of a node's credentials begins with. The separator is none of a session's letters.
const NODE_PREFIX: &str = "node:";

/// Whose an allocation is, as far as it matters to whom it may relay inside the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// A node, known by its session.
    Node(NodeSession),
    /// Somebody with credentials of the operator's.
    Other,
}

impl Holder {
    /// The holder a user stands for; nothing for one that claims to be a node's and names no session.
    pub(crate) fn of(user: &str) -> Option<Self> {
        match user.strip_prefix(NODE_PREFIX) {
            Some(session) => session.parse().ok().map(Self::Node),
            None => Some(Self::Other),
        }
    }
}

/// The user to mint a node's credentials for.
#[must_use]
pub fn node_user(session: &NodeSession) -> String {
    format!("{NODE_PREFIX}{session}")
}

/// True for users that only a node's credentials may have: whoever mints for others refuses them.
#[must_use]
pub fn is_node_user(user: &str) -> bool {
    user.starts_with(NODE_PREFIX)
}

/// The node's session that a username (`<expiry>:<user>`, as in [`crate::Output::Observed`]) names,
/// if it is a node's.
#[must_use]
pub fn node_session(username: &str) -> Option<NodeSession> {
    match Holder::of(user_of(username))? {
        Holder::Node(session) => Some(session),
        Holder::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_nobody_else() {
        let session = NodeSession::from_bytes([7; 16]);
        let check = |user: &str, holder: Option<Holder>, reserved: bool| {
            assert_eq!((Holder::of(user), is_node_user(user)), (holder, reserved), "{user}");
            let expected = holder.filter(|_| reserved).map(|_| session);
            assert_eq!(node_session(&format!("1800000000:{user}")), expected, "{user}");
        };
        check(&node_user(&session), Some(Holder::Node(session)), true);
        check(&session.to_string(), Some(Holder::Other), false);
        check(&format!("x{}", node_user(&session)), Some(Holder::Other), false);
        check("alice", Some(Holder::Other), false);
        check("node", Some(Holder::Other), false);
        check("node:", None, true);
        check("node:alice", None, true);
        check(&format!("{}x", node_user(&session)), None, true);
        assert_eq!(node_session(&node_user(&session)), None, "without an expiry");
    }
}
