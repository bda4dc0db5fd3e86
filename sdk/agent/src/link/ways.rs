//! The ways of a link, for whoever doubts them all at once ([`crate::roam`]).

use std::collections::BTreeSet;

use meetpoint_proto::TicketId;

use super::{Link, SUSPICIOUS_UNANSWERED};
use crate::api::{AllocationId, Leg, Way};

impl Link {
    /// The way in use.
    pub(crate) fn current(&self) -> Option<Way> {
        self.current
    }

    /// By which ways the peer's keyed checks came, the newest first.
    pub(crate) fn heard(&self) -> impl Iterator<Item = Way> + '_ {
        self.heard.iter().copied()
    }

    /// Some way leads by this allocation.
    pub(crate) fn uses_leg(&self, id: AllocationId) -> bool {
        self.routes.keys().any(|way| way.leg == Leg::Relay(id))
    }

    /// There is a way by this allocation, and none else that could take its place.
    pub(crate) fn depends_on(&self, id: AllocationId) -> bool {
        let is_other = |(way, route): (&Way, &super::Route)| {
            way.leg != Leg::Relay(id) && route.is_ready && route.unanswered < super::DOUBTFUL_UNANSWERED
        };
        self.uses_leg(id) && !self.routes.iter().any(is_other)
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
