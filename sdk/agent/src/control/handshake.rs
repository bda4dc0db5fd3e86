//! Hello to welcome: what either side shows, and what the node makes of it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::id::SessionToken;
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::wire::{
    CertificateText, ClientMessage, Hello, MAX_SECRETS, PROTOCOL_VERSION, Proof, Refusal, Welcome,
};
use meetpoint_proto::{
    Certificate, ClusterNetwork, ClusterSecret, Code, EffectiveNetwork, NodeId, Nonce, PublicKey,
};

use super::{IDLE_RANGE, MAX_LIFETIME_S, Membership};
use crate::env::Env;

#[derive(Debug)]
pub(super) struct Handshake {
    local: IpAddr,
    server: IpAddr,
    hello: Hello,
    /// Those that hello names, in its order: the application may give others meanwhile.
    secrets: Vec<ClusterSecret>,
    opened: Instant,
    challenge: Option<Challenged>,
}

#[derive(Debug)]
struct Challenged {
    /// How long the server took, and the way to it and back.
    round_trip: Duration,
    transcript: Transcript,
    cluster_key: PublicKey,
    /// Who signs the welcome, if the server is not the cluster's home.
    server_key: Option<PublicKey>,
}

impl Handshake {
    /// Says hello, from this address to that server; shows the session to come back to.
    pub(super) fn open(
        env: &mut Env,
        now: Instant,
        local: IpAddr,
        server: IpAddr,
        resume: Option<SessionToken>,
    ) -> Self {
        let hello = hello(env, local, resume);
        env.send(ClientMessage::Hello(Box::new(hello.clone())));
        let secrets = secrets(env).to_vec();
        Self { local, server, hello, secrets, opened: now, challenge: None }
    }

    /// Proves the node, to a server that shows the right cluster key.
    pub(super) fn challenged(
        &mut self,
        env: &mut Env,
        now: Instant,
        pinned: Option<PublicKey>,
        nonce: &Nonce,
        cluster_key: PublicKey,
        server_key: Option<PublicKey>,
    ) -> Result<(), Refusal> {
        if self.challenge.is_some() {
            return Err(Refusal::new(Code::OutOfOrder));
        }
        if pinned.is_some_and(|pinned| pinned != cluster_key) {
            let detail = "the server shows another cluster key than before";
            return Err(Refusal::new(Code::BadSignature).detail(detail));
        }
        let transcript = Transcript::new(&self.hello, nonce, &cluster_key);
        let round_trip = now.saturating_duration_since(self.opened);
        let proof = if let Some(server_key) = &server_key {
            if pinned.is_none() || self.hello.certificate.is_none() {
                let detail = "the server is not the cluster's home, and the node has no membership to show";
                return Err(Refusal::new(Code::BadSignature).detail(detail));
            }
            // A visitor shows its certificate and its key, and no right to become a member.
            let transcript = transcript.served_by(server_key);
            let node = transcript.sign(Domain::Node, &env.config.key);
            self.challenge =
                Some(Challenged { round_trip, transcript, cluster_key, server_key: Some(*server_key) });
            Proof { node, admission: None, secrets: Vec::new() }
        } else {
            let proof = self.prove(env, &transcript);
            self.challenge = Some(Challenged { round_trip, transcript, cluster_key, server_key: None });
            proof
        };
        env.send(ClientMessage::Proof(proof));
        Ok(())
    }

    /// Everything that the hello has announced.
    fn prove(&self, env: &Env, transcript: &Transcript) -> Proof {
        let config = &env.config;
        let admission = config.token.as_ref();
        let mac = |secret: &ClusterSecret| transcript.mac(&secret.key(&config.cluster));
        Proof {
            node: transcript.sign(Domain::Node, &config.key),
            admission: admission.map(|token| transcript.sign(Domain::Admission, &token.signing_key())),
            secrets: self.secrets.iter().map(mac).collect(),
        }
    }

    /// The server is not the cluster's home.
    pub(super) fn is_visitor(&self) -> bool {
        self.challenge.as_ref().is_some_and(|challenged| challenged.server_key.is_some())
    }

    pub(super) fn welcomed(
        &self,
        env: &Env,
        now: Instant,
        welcome: Welcome,
    ) -> Result<(Membership, Duration), Refusal> {
        let Some(Challenged { round_trip, transcript, cluster_key, server_key }) = &self.challenge else {
            return Err(Refusal::new(Code::OutOfOrder));
        };
        let signer = server_key.as_ref().unwrap_or(cluster_key);
        if !transcript.verify(Domain::Welcome, signer, &welcome.signature) {
            let detail = "the welcome is not signed by the cluster's key";
            return Err(Refusal::new(Code::BadSignature).detail(detail));
        }
        let clock = env.clock(now, &welcome);
        let certificate = own_certificate(env, cluster_key, &welcome.certificate, clock.unix_s(now))?;
        let config = &env.config;
        if config.expect.is_some_and(|expect| expect != welcome.kind) {
            return Err(Refusal::new(Code::ClusterTypeMismatch).detail(welcome.kind));
        }
        if welcome.kind == ClusterNetwork::Private && welcome.effective == EffectiveNetwork::Public {
            let detail = "a PRIVATE cluster can't be effectively PUBLIC";
            return Err(Refusal::new(Code::ClusterTypeMismatch).detail(detail));
        }
        let is_public = welcome.effective == EffectiveNetwork::Public;
        let idle = Duration::from_millis(u64::from(welcome.idle_timeout_ms));
        let lifetime_s = certificate.not_after_unix_s.saturating_sub(clock.unix_s(now)).min(MAX_LIFETIME_S);
        let membership = Membership {
            lifetime: Duration::from_secs(lifetime_s),
            kind: welcome.kind,
            effective: welcome.effective,
            cluster_key: *cluster_key,
            clock,
            local: self.local,
            server: self.server,
            round_trip: Some(*round_trip),
            observed: welcome.observed.ip().to_canonical(),
            stun: welcome.stun.filter(|_| is_public && !env.sealed()),
            certificate: welcome.certificate,
            revoked: welcome.revoked,
            hint: welcome.hint,
            again: false,
        };
        Ok((membership, idle.clamp(IDLE_RANGE.0, IDLE_RANGE.1)))
    }
}

fn secrets(env: &Env) -> &[ClusterSecret] {
    let secrets = &env.config.secrets;
    &secrets[..secrets.len().min(MAX_SECRETS)]
}

/// The certificate, if it is this node's.
pub(super) fn own_certificate(
    env: &Env,
    cluster_key: &PublicKey,
    text: &CertificateText,
    now_unix_s: u64,
) -> Result<Certificate, Refusal> {
    let certificate = Certificate::verify(text, cluster_key, now_unix_s)
        .map_err(|error| Refusal::new(Code::BadSignature).detail(error))?;
    let config = &env.config;
    let is_own = (&certificate.cluster, &certificate.name) == (&config.cluster, &config.name)
        && certificate.node == NodeId::from(&config.key);
    if is_own {
        Ok(certificate)
    } else {
        let detail = "the membership certificate is not this node's";
        Err(Refusal::new(Code::BadSignature).detail(detail))
    }
}

fn hello(env: &mut Env, local_ip: IpAddr, resume: Option<SessionToken>) -> Hello {
    let nonce = Nonce::from_bytes(env.random());
    let config = &env.config;
    Hello {
        protocol: PROTOCOL_VERSION,
        cluster: config.cluster.to_string(),
        name: config.name.to_string(),
        node_id: NodeId::from(&config.key),
        nonce,
        token: config.token.as_ref().map(meetpoint_proto::JoinToken::id),
        declared: config.declared,
        node_addr: config.node_addr,
        local_ip,
        expect: config.expect,
        ephemeral: config.ephemeral,
        version: config.version.clone(),
        secrets: secrets(env).iter().map(|secret| secret.id(&config.cluster)).collect(),
        resume,
        certificate: config.membership.as_ref().map(|membership| Box::new(membership.certificate.clone())),
        profile: config.profile.clone(),
    }
}
