//! What happened so far, for metrics and explanations.

/// Counts since the agent was made. They only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Datagrams that are no Binding message.
    pub malformed: u64,
    /// Answers to no question of ours, or from elsewhere than asked.
    pub unsolicited: u64,
    /// Checks sent, consent checks included.
    pub checks_sent: u64,
    /// Of these, guesses at ports where nobody was observed.
    pub guesses_sent: u64,
    /// Checks of peers that were answered.
    pub checks_answered: u64,
    /// Checks that no live ticket explains, or whose integrity fails.
    pub checks_refused: u64,
    /// Checks that were seen before: duplicates of the network, or replays.
    pub checks_repeated: u64,
    /// Checks put off because the same target was sent one a moment ago, or too many lately.
    pub checks_paced: u64,
    /// Introductions that were acted on.
    pub tickets: u64,
    /// Introductions refused: a bad certificate, a used ticket, or too many at once.
    pub tickets_refused: u64,
    /// Candidates that the node would not probe.
    pub candidates_refused: u64,
    /// Tickets that ended with a direct path.
    pub tickets_direct: u64,
    /// Tickets that ended with a relayed path.
    pub tickets_relayed: u64,
    /// Tickets that ran out.
    pub tickets_failed: u64,
    /// Allocations that a relay granted.
    pub allocations: u64,
    /// Times that an allocation was found to be where the node is, or followed it there.
    pub allocations_moved: u64,
    /// Times that the server saw the node's NAT give it another mapping.
    pub rebound: u64,
    /// Peers to which the last path died.
    pub paths_lost: u64,
    /// Dial-backs that were passed on to the server.
    pub dial_backs: u64,
    /// Dial-backs beyond what a server would send.
    pub dial_backs_refused: u64,
    /// Tickets that a peer has introduced, and that both ends have signed.
    pub meetings: u64,
    /// Peers' proposals that were not gone into: no member, too many, a used ticket, or an address that is not the
    /// node's.
    pub meetings_refused: u64,
    /// Halves of peers' tickets that were refused: forged, changed, too late, used, or not asked for.
    pub halves_refused: u64,
    /// Messages of the server that were not due or not valid.
    pub control_refused: u64,
}
