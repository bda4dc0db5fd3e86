//! Why a use case was refused. A refused one has changed nothing.

use meetpoint_proto::{Code, NamePattern, SeedAddr, SeedName, TokenScope};
use thiserror::Error;

use crate::secrets::SecretsError;
use crate::store::StoreError;

/// Why a use case was refused.
#[derive(Debug, Error)]
pub(crate) enum ServiceError {
    #[error("no cluster of that name")]
    UnknownCluster,
    #[error("the cluster's home is another server")]
    ForeignCluster,
    #[error("this server is the cluster's home")]
    OwnCluster,
    #[error("a foreign cluster of that name is served, and has another key")]
    ForeignClusterKnown,
    #[error("as many foreign clusters are served as may be")]
    TooManyClusters,
    #[error("no node with that id in the cluster")]
    UnknownNode,
    #[error("no seed of that name in the cluster")]
    UnknownSeed,
    #[error("the seed {seed} is refused: {code} ({reason})")]
    SeedRefused {
        seed: Box<SeedAddr>,
        /// By which rule.
        code: Code,
        reason: String,
    },
    #[error("the registered seeds do not fit the cluster's type: {0}")]
    ClusterRule(Code),
    #[error("the cluster has as many seeds as it may")]
    TooManySeeds,
    #[error("the name {0} belongs to a seed with another key")]
    SeedNameTaken(SeedName),
    #[error("the address belongs to the seed {0}")]
    SeedAddressTaken(SeedName),
    #[error("the seed {0} is the operator's, who alone changes where it is")]
    SeedApproved(SeedName),
    #[error("the registration is not signed {0}")]
    BadRegistration(&'static str),
    #[error("the registration is older than the last one of this seed")]
    StaleRegistration,
    #[error(
        "the registration was signed {skew_ms} ms from now by this server's clock, which shows {now_unix_ms}"
    )]
    Skew { skew_ms: i64, now_unix_ms: i64 },
    #[error("no join token with that id in the cluster")]
    UnknownToken,
    #[error("the cluster has as many nodes or tokens as it may")]
    ClusterFull,
    #[error("the join token {0}")]
    BadToken(&'static str),
    #[error("the join token is for a {0}")]
    TokenScope(TokenScope),
    #[error("the join token is for names like {0}")]
    NameNotAllowed(NamePattern),
    #[error("the node was removed from the cluster")]
    Removed,
    #[error("not all of these revocations are signed with the cluster's key")]
    BadRevocation,
    #[error("no removed node with that id in the cluster")]
    UnknownRevocation,
    #[error("the session has ended; a join token or a cluster secret is needed")]
    BadSession,
    #[error("none of the node's cluster secrets is in use")]
    BadSecret,
    #[error("no cluster secret with that id in the cluster")]
    UnknownSecret,
    #[error("this cluster secret is in use already")]
    KnownSecret,
    #[error("the name belongs to another node")]
    NameTaken,
    #[error("no static user of that name")]
    UnknownRelayUser,
    #[error("no credential secret with that id")]
    UnknownRelaySecret,
    #[error("new credentials are minted with this secret")]
    CurrentRelaySecret,
    #[error("this secret is among the accepted ones already")]
    KnownRelaySecret,
    #[error("there are as many {0} as there may be")]
    RelayFull(&'static str),
    #[error(transparent)]
    RelayUser(#[from] meetpoint_turn::UserError),
    #[error(transparent)]
    RelaySecret(#[from] meetpoint_turn::SecretError),
    #[error("the credential secret's file: {0}")]
    CredentialFile(#[from] SecretsError),
    #[error("the token comes from the server's start; write the file of {0} and send the server SIGHUP")]
    GivenToken(&'static str),
    #[error("no replaced token is accepted")]
    NoTokenBefore,
    #[error("the token's file: {0}")]
    ApiTokenFile(SecretsError),
    #[error("a backup is being made or read already")]
    BackupRuns,
    #[error("the backup's file: {0}")]
    BackupFile(std::io::Error),
    #[error("the system gives no randomness")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ServiceError {
    /// What a node is told.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::UnknownCluster => Code::UnknownCluster,
            Self::ForeignCluster => Code::NotHome,
            Self::BadToken(_) => Code::BadToken,
            // Nothing else was shown, so a token is what is missing.
            Self::BadSession => Code::TokenRequired,
            Self::BadSecret => Code::BadSecret,
            Self::TokenScope(_) => Code::TokenScope,
            Self::NameNotAllowed(_) => Code::NameNotAllowed,
            Self::Removed => Code::Removed,
            Self::NameTaken => Code::NameTaken,
            Self::ClusterFull => Code::ServerFull,
            Self::SeedRefused { code, .. } | Self::ClusterRule(code) => *code,
            Self::OwnCluster
            | Self::ForeignClusterKnown
            | Self::TooManyClusters
            | Self::UnknownNode
            | Self::UnknownSeed
            | Self::TooManySeeds
            | Self::SeedNameTaken(_)
            | Self::SeedAddressTaken(_)
            | Self::SeedApproved(_)
            | Self::BadRegistration(_)
            | Self::StaleRegistration
            | Self::Skew { .. }
            | Self::UnknownToken
            | Self::UnknownSecret
            | Self::KnownSecret
            | Self::UnknownRevocation
            | Self::BadRevocation
            | Self::UnknownRelayUser
            | Self::UnknownRelaySecret
            | Self::CurrentRelaySecret
            | Self::KnownRelaySecret
            | Self::RelayFull(_)
            | Self::RelayUser(_)
            | Self::RelaySecret(_)
            | Self::CredentialFile(_)
            | Self::GivenToken(_)
            | Self::NoTokenBefore
            | Self::ApiTokenFile(_)
            | Self::BackupRuns
            | Self::BackupFile(_)
            | Self::Random(_)
            | Self::Store(_) => Code::Storage,
        }
    }
}

impl From<sqlx::Error> for ServiceError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
