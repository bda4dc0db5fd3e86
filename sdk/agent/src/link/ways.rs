//! The ways of a link, for whoever doubts them all at once ([`crate::roam`]).

use std::collections::BTreeSet;

use meetpoint_proto::TicketId;

use super::{Link, SUSPICIOUS_UNANSWERED};
use crate::api::Way;

impl Link {
    /// The way in use.
    pub(crate) fn current(&self) -> Option<Way> {
        self.current
    }

    /// It has left so many checks unanswered that another one would tell nothing.
    pub(crate) fn is_silent(&self, way: Way) -> bool {
        self.routes.get(&way).is_some_and(|route| route.unanswered >= SUSPICIOUS_UNANSWERED)
    }

    /// The verified ways, and the ticket under which to check them.
    pub(crate) fn ways(&self) -> Option<(BTreeSet<Way>, TicketId)> {
        Some((self.routes.keys().copied().collect(), self.proven?))
    }
}
