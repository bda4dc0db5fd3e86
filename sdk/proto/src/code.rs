//! Stable reason codes. A code never changes its meaning; its hint says what to do next.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $hint:literal;)+) => {
        /// Why something was refused or ended. The text form is part of the contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)+
            /// A code that this version does not know.
            #[serde(other)]
            Unknown,
        }

        impl Code {
            /// Every code that this version knows.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ Self::Unknown => "unknown" }
            }

            /// What to do about it, in one sentence.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self {
                    $(Self::$variant => $hint,)+
                    Self::Unknown => "upgrade this node: the server gave a reason it does not know",
                }
            }
        }
    };
}

codes! {
    /// The frame is not a message of this protocol.
    BadMessage = "bad_message", "use the SDK of the server's version; the detail names the field";
    /// The frame is larger than [`crate::wire::MAX_FRAME_BYTES`].
    FrameTooLarge = "frame_too_large", "keep each control message under 64 KiB";
    /// A message that is not due in this state.
    OutOfOrder = "out_of_order", "send hello first, then proof, then anything else";
    /// The server speaks another protocol version.
    ProtocolVersion = "protocol_version", "upgrade the older side so that both speak the same protocol version";
    /// The handshake took too long.
    HandshakeTimeout = "handshake_timeout", "check the network between node and server, then connect again";
    /// The connection was silent for too long, or did not read what was sent to it.
    TooSlow = "too_slow", "the connection did not keep up; the node reconnects by itself";
    /// A name that is not one.
    BadName = "bad_name", "use 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit";
    /// No cluster of that name.
    UnknownCluster = "unknown_cluster", "check --cluster; `meetpoint status` lists the server's clusters";
    /// Another node holds the name.
    NameTaken = "name_taken", "choose another --name, use the --key file that registered it, or let the operator delete that node";
    /// The signature does not fit the challenge.
    BadSignature = "bad_signature", "the key that signs must be the one named in hello; check --key";
    /// The cluster is closed and no token was given.
    TokenRequired = "token_required", "give --join-token; the operator finds one in the server's data directory or makes one with `meetpoint tokens create`";
    /// The join token is not known, expired, used up or revoked.
    BadToken = "bad_token", "ask the operator for a fresh join token (`meetpoint tokens create`)";
    /// The join token is for something else.
    TokenScope = "token_scope", "this join token is for seeds or for nodes only; ask for one with the other scope (`meetpoint tokens create --scope`)";
    /// The join token does not allow this name.
    NameNotAllowed = "name_not_allowed", "choose a --name that fits the join token's name pattern, or ask for a token without one";
    /// No cluster secret that the node holds is in use.
    BadSecret = "bad_secret", "ask the operator for the current cluster secret (`meetpoint secrets create`), and put it first in --cluster-secret-file";
    /// The operator ended the session.
    SessionRevoked = "session_revoked", "the node joins anew by its join token or cluster secret";
    /// The membership certificate is over, or not valid yet.
    CertificateExpired = "certificate_expired", "compare the clocks of both machines; a node that was away for long joins again at the cluster's home server";
    /// The server can't mint memberships of this cluster.
    NotHome = "not_home", "join at the cluster's home server first; this one takes members that bring their membership certificate";
    /// Too many failed attempts from this address.
    RateLimited = "rate_limited", "wait for the time given, then try again";
    /// The server holds as many sessions as it may.
    ServerFull = "server_full", "raise the server's limit, or join by another server";
    /// As many members as there may be come from this address.
    SourceFull = "source_full", "let nodes behind this address leave, or have the operator raise --nodes-per-source";
    /// The server could not store the join; nothing was changed.
    Storage = "storage", "try again; the operator finds the cause in the server's log";
    /// A newer connection of the same node took over.
    Replaced = "replaced", "the same key is in use twice; give each node its own --key";
    /// The operator removed the node.
    Removed = "removed", "the operator removed this node from the cluster";
    /// The cluster's effective network changed: every member is judged again.
    ClusterChanged = "cluster_changed", "the node rejoins by itself under the cluster's new rules";
    /// The server is going away.
    Shutdown = "shutdown", "the server is restarting; the node reconnects by itself";
    /// Rules: a private cluster takes no public node.
    PublicNodeInPrivateCluster = "public_node_in_private_cluster", "this cluster is effectively PRIVATE: add a public seed to a DYNAMIC cluster, or join from the private network";
    /// Rules: a public cluster takes no private node.
    PrivateNodeInPublicCluster = "private_node_in_public_cluster", "a PUBLIC cluster takes only publicly reachable nodes; use a DYNAMIC cluster for nodes behind NAT";
    /// Rules: declared private, in a public cluster.
    DeclaredPrivateInPublicCluster = "declared_private_in_public_cluster", "drop --node-network-type PRIVATE, or join a DYNAMIC cluster";
    /// Rules: declared public, but the address is private.
    DeclaredPublicButPrivate = "declared_public_but_private", "drop --node-network-type PUBLIC, or give the public address by --node-addr";
    /// Rules: declared private, but the address is public (a seed's own check).
    DeclaredPrivateButPublic = "declared_private_but_public", "drop --node-network-type PRIVATE, or use a private address";
    /// Rules: a loopback address can't take part in a public cluster.
    LoopbackInPublicCluster = "loopback_in_public_cluster", "reach the server by its public address instead of loopback";
    /// Rules: no STUN answer, or no proof of reachability in time.
    Unreachable = "unreachable", "let UDP to the server's STUN port pass; see the server's address in `meetpoint status`";
    /// Rules: the declared address is not the one the server sees.
    NodeAddrMismatch = "node_addr_mismatch", "--node-addr must carry the public IP that the server sees; behind other NATs leave it out";
    /// The server says another cluster type than the node insists on.
    ClusterTypeMismatch = "cluster_type_mismatch", "the cluster has another network type than this node was told to expect";
    /// Rules: a public seed in a private cluster.
    PublicSeedInPrivateCluster = "public_seed_in_private_cluster", "a PRIVATE cluster never has public seeds; make the cluster DYNAMIC";
    /// Rules: a public cluster needs public, reachable seeds only.
    BadSeedInPublicCluster = "bad_seed_in_public_cluster", "every seed of a PUBLIC cluster must be public and reachable";
    /// Rules: a public cluster without any seed.
    NoSeedInPublicCluster = "no_seed_in_public_cluster", "give a PUBLIC cluster at least one public seed by --seed NAME@HOST:PORT";
    /// A seed's host has no address.
    SeedUnresolved = "seed_unresolved", "check the seed's host name and the server's resolver";
    /// A seed's address is not one that the server asks from this cluster.
    SeedAddressRefused = "seed_address_refused", "only public addresses are asked for an effectively PUBLIC cluster, and only private ones for a PRIVATE cluster";
    /// No proof came from a seed's address.
    SeedUnreachable = "seed_unreachable", "start the seed's server, and let TCP to its --http port pass";
    /// Another server than the pinned one answered for a seed.
    SeedWrongKey = "seed_wrong_key", "compare the seed's key with `seed_key` in its /v1/status; if it has a new one, put the seed again with it";
    /// A server answered for a seed, and says that the address is not its own.
    SeedNotHere = "seed_not_here", "tell that server its address, by --external-ip or by a --seed of its own";
    /// A seed that named itself is asked only where its message came from until the operator approves it.
    SeedNotApproved = "seed_not_approved", "approve the seed; until then it is asked only at the address that it registered from";
    /// No such node in the cluster at the moment.
    UnknownPeer = "unknown_peer", "`meetpoint nodes` lists who is there; names are case-sensitive";
    /// A node asked to be introduced to itself.
    SelfConnect = "self_connect", "connect to another node than yourself";
    /// The peer is registered but not connected now.
    PeerOffline = "peer_offline", "wait until the peer has joined";
    /// The server has not seen a usable address of one side.
    NoCandidates = "no_candidates", "one side has no address the server observed; check that its UDP reaches the STUN port";
    /// Too many introductions at once.
    TooManyIntroductions = "too_many_introductions", "wait for running introductions to end";
    /// The server introduced a node that it can't show to be the wanted member.
    BadCertificate = "bad_certificate", "the introduced node is not the wanted member by the cluster's key; check that both joined the same cluster and that its certificate has not expired";
    /// The ticket ended without a direct path.
    NoPath = "no_path", "the NATs in between do not let these two meet directly";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        let mut seen = std::collections::BTreeSet::new();
        for &code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), code);
            assert!(!code.hint().is_empty());
        }
        assert_eq!(serde_json::from_str::<Code>("\"of_the_future\"").unwrap(), Code::Unknown);
    }
}
