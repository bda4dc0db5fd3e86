//! How often somebody may come, and whose word about where somebody comes from counts.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use meetpoint_turn::Cidr;

use super::ConfigError;
use crate::limits::{Block, Policy, Quota};

/// A chain of proxies has a few networks; each is compared with each address named.
const MAX_TRUSTED_PROXIES: usize = 64;
/// For the head of a request, and so for an idle connection that is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How often somebody may come. Counted by who has proven himself (the operator by his token, a node by
/// its key), else by source: an IPv4 address or an IPv6 /64. Times take s, m and h.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// REST requests in a window. A request with a wrong token counts against its source. /healthz and
    /// /readyz are not counted.
    #[arg(long, env = "MEETPOINT_LIMIT_REST", value_name = "N/TIME", default_value = "1200/60s")]
    pub limit_rest: Quota,
    /// REST requests refused in one window that lead to a longer wait, and how long; or `off`.
    #[arg(long, env = "MEETPOINT_LIMIT_REST_BLOCK", value_name = "N/TIME|off", default_value = "600/300s")]
    pub limit_rest_block: Block,
    /// Joins with a wrong token or signature in a window, by source. Then only nodes that are registered
    /// already join from there.
    #[arg(long, env = "MEETPOINT_LIMIT_JOIN_FAILURES", value_name = "N/TIME", default_value = "20/60s")]
    pub limit_join_failures: Quota,
    /// Joins refused in one window that lead to a longer wait, and how long; or `off`.
    #[arg(
        long,
        env = "MEETPOINT_LIMIT_JOIN_FAILURES_BLOCK",
        value_name = "N/TIME|off",
        default_value = "20/300s"
    )]
    pub limit_join_failures_block: Block,
    /// Introductions that a node may ask for in a window.
    #[arg(long, env = "MEETPOINT_LIMIT_INTRODUCTIONS", value_name = "N/TIME", default_value = "600/60s")]
    pub limit_introductions: Quota,
    /// Introductions refused in one window that lead to a longer wait, and how long; or `off`.
    #[arg(
        long,
        env = "MEETPOINT_LIMIT_INTRODUCTIONS_BLOCK",
        value_name = "N/TIME|off",
        default_value = "600/300s"
    )]
    pub limit_introductions_block: Block,
    /// HTTP connections from one source at once. Control connections are no longer counted once they
    /// speak WebSocket, nor are those of trusted proxies.
    #[arg(long, env = "MEETPOINT_LIMIT_CONNECTIONS", value_name = "N", default_value = "256", value_parser = super::count)]
    pub limit_connections: NonZeroU32,
    /// Control connections from one source whose nodes have not joined yet.
    #[arg(long, env = "MEETPOINT_LIMIT_JOINS", value_name = "N", default_value = "128", value_parser = super::count)]
    pub limit_joins: NonZeroU32,
    /// Reverse proxies, for example 10.0.0.0/8. X-Forwarded-For and Forwarded count only if they come from
    /// there; then the source is the last address in them that is not a trusted proxy itself. Without any,
    /// both are ignored.
    #[arg(
        long = "trusted-proxy",
        env = "MEETPOINT_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub trusted_proxies: Vec<Cidr>,
}

/// How often somebody may come.
#[derive(Debug, Clone)]
pub struct AccessLimits {
    /// REST requests, by principal, else by source.
    pub rest: Policy,
    /// Joins that fail, by source.
    pub join_failures: Policy,
    /// Connect requests, by node.
    pub introductions: Policy,
    /// HTTP connections of one source.
    pub connections_per_source: usize,
    /// Control connections of one source that are no member's yet.
    pub joins_per_source: usize,
    /// From a connection's first byte, or from one request's end to the next one's head.
    pub head_timeout: Duration,
    /// Whose forwarding headers count.
    pub trusted_proxies: Vec<Cidr>,
    /// Whatever token is presented has a count of its own: what a limiter must not do.
    #[cfg(feature = "attack-tests")]
    pub counts_presented_tokens: bool,
}

impl LimitArgs {
    pub(crate) fn validate(self) -> Result<AccessLimits, ConfigError> {
        let count = self.trusted_proxies.len();
        if count > MAX_TRUSTED_PROXIES {
            return Err(ConfigError::TooManyBlocks {
                flag: "--trusted-proxy",
                most: MAX_TRUSTED_PROXIES,
                count,
            });
        }
        let policy = |quota, block| Policy { quota, block };
        Ok(AccessLimits {
            rest: policy(self.limit_rest, self.limit_rest_block),
            join_failures: policy(self.limit_join_failures, self.limit_join_failures_block),
            introductions: policy(self.limit_introductions, self.limit_introductions_block),
            connections_per_source: self.limit_connections.get() as usize,
            joins_per_source: self.limit_joins.get() as usize,
            head_timeout: HEAD_TIMEOUT,
            trusted_proxies: self.trusted_proxies,
            #[cfg(feature = "attack-tests")]
            counts_presented_tokens: false,
        })
    }
}
