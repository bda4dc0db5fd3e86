//! From hello to welcome.

use std::net::IpAddr;
use std::time::Instant;

use meetpoint_proto::certificate::CertificateError;
use meetpoint_proto::id::{Nonce, SessionToken};
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::rules::Admission;
use meetpoint_proto::wire::{
    CertificateText, Hello, MAX_SECRETS, MAX_TEXT_LEN, PROTOCOL_VERSION, Proof, Refusal, ServerMessage,
    Welcome,
};
use meetpoint_proto::{
    Capability, Certificate, ClusterName, Code, EffectiveNetwork, NodeId, NodeName, PublicKey, SessionId,
};

use crate::api::{
    AdmissionProof, AdmitRequest, ClusterConfig, ConnId, Event, Output, SecretProof, StunCredential,
    TokenProof,
};
use crate::defence::Defence;
use crate::judge::{Claims, Ruling};
use crate::state::{Cluster, Joining, Phase, Quiet, Session, Timer};
use crate::{Broker, millis};

impl Broker {
    pub(crate) fn hello(&mut self, now: Instant, conn: ConnId, hello: Hello) {
        match self.check_hello(conn, &hello) {
            Err(refusal) => self.refuse(now, conn, refusal),
            Ok(checked) => self.challenge(conn, hello, checked),
        }
    }

    /// Everything that can be refused before any cryptography.
    fn check_hello(&self, conn: ConnId, hello: &Hello) -> Result<Checked, Refusal> {
        if hello.protocol != PROTOCOL_VERSION {
            let detail =
                format!("this server speaks version {PROTOCOL_VERSION}, the node {}", hello.protocol);
            return Err(Refusal::new(Code::ProtocolVersion).detail(detail));
        }
        let name = hello.name.parse::<NodeName>();
        let name = name.map_err(|error| Refusal::new(Code::BadName).detail(error))?;
        if hello.version.len() > MAX_TEXT_LEN || hello.version.chars().any(char::is_control) {
            return Err(Refusal::new(Code::BadMessage).detail("version: at most 64 printable characters"));
        }
        let capabilities = hello.profile.check();
        let capabilities = capabilities.map_err(|error| Refusal::new(Code::BadMessage).detail(error))?;
        let unknown = || Refusal::new(Code::UnknownCluster).detail(&hello.cluster);
        let cluster_name = hello.cluster.parse::<ClusterName>().map_err(|_| unknown())?;
        let cluster = self.clusters.get(&cluster_name).ok_or_else(unknown)?;
        if hello.expect.is_some_and(|expect| expect != cluster.config.kind) {
            return Err(Refusal::new(Code::ClusterTypeMismatch).detail(cluster.config.kind));
        }
        check_rights(&cluster.config, hello)?;
        let source = self.conns.get(&conn).map(|state| state.source.ip());
        let source = source.ok_or_else(|| Refusal::new(Code::OutOfOrder))?;
        match Ruling::new(&cluster.config, source, &Claims::from(hello)).verdict {
            Admission::Reject(code) => Err(Refusal::new(code).detail(format!("the server sees {source}"))),
            Admission::Admit { .. } | Admission::Discover(_) => {
                Ok(Checked { cluster: cluster_name, name, capabilities })
            }
        }
    }

    fn challenge(&mut self, conn: ConnId, hello: Hello, checked: Checked) {
        let Checked { cluster, name, capabilities } = checked;
        let Some(ClusterConfig { key, home, .. }) = self.clusters.get(&cluster).map(|known| &known.config)
        else {
            return;
        };
        let own = PublicKey::from(key);
        let (cluster_key, server_key) = home.map_or((own, None), |home| (home, Some(own)));
        let nonce = Nonce::from_bytes(self.random());
        let session = SessionId::from_bytes(self.random());
        let mut transcript = Transcript::new(&hello, &nonce, &cluster_key);
        if let Some(server_key) = &server_key {
            transcript = transcript.served_by(server_key);
        }
        let joining = Joining { hello, cluster, name, capabilities, transcript, session };
        if let Some(state) = self.conns.get_mut(&conn) {
            state.phase = Phase::Challenged(Box::new(joining));
            self.send(conn, ServerMessage::Challenge { nonce, cluster_key, server_key });
        }
    }

    pub(crate) fn proof(&mut self, now: Instant, conn: ConnId, proof: Proof) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let Phase::Challenged(joining) = std::mem::replace(&mut state.phase, Phase::Greeting) else { return };
        let source = state.source.ip();
        match self.check_proof(now, source, &joining, proof) {
            Err(refusal) => self.refuse(now, conn, refusal),
            Ok((admission, visitor_until_unix_s)) => {
                let request = AdmitRequest {
                    conn,
                    session: joining.session,
                    cluster: joining.cluster.clone(),
                    node: joining.hello.node_id,
                    name: joining.name.clone(),
                    ephemeral: joining.hello.ephemeral,
                    declared: joining.hello.declared,
                    source,
                    version: joining.hello.version.clone(),
                    profile: joining.hello.profile.clone(),
                    admission,
                    visitor_until_unix_s,
                    name_holder: self.name_holder(&joining),
                };
                self.outputs.push_back(Output::Admit(Box::new(request)));
                if let Some(state) = self.conns.get_mut(&conn) {
                    state.phase = Phase::Admitting(joining);
                }
            }
        }
    }

    /// Everything that can be said of a proof without asking the registry: the claims that are left for
    /// it to check, or until when a visitor is a member.
    fn check_proof(
        &self,
        now: Instant,
        source: IpAddr,
        joining: &Joining,
        proof: Proof,
    ) -> Result<(Option<AdmissionProof>, Option<u64>), Refusal> {
        let node = joining.hello.node_id;
        if !joining.transcript.verify(Domain::Node, &PublicKey::from(node), &proof.node) {
            return Err(Refusal::new(Code::BadSignature));
        }
        let cluster =
            self.clusters.get(&joining.cluster).ok_or_else(|| Refusal::new(Code::UnknownCluster))?;
        let now_s = self.unix_ms(now) / 1000;
        let is_home = cluster.config.home.is_none();
        if is_home && cluster.revoked.get(&node).is_some_and(|until_s| now_s < *until_s) {
            return Err(Refusal::new(Code::Removed));
        }
        let is_back = cluster.members.contains_key(&node);
        let is_full = self.sources.members(source) >= self.limits.members_per_source;
        if is_full && !is_back && self.defences.stand(Defence::SourceCap) {
            return Err(Refusal::new(Code::SourceFull));
        }
        if let Some(home) = &cluster.config.home {
            let until_unix_s = check_visitor(joining, home, now_s)?;
            if cluster.is_revoked(&node, until_unix_s) {
                return Err(Refusal::new(Code::Removed));
            }
            return Ok((None, Some(until_unix_s)));
        }
        let claims = claims(joining, proof)?;
        if claims.is_none() && !cluster.config.open_join {
            return Err(Refusal::new(Code::TokenRequired));
        }
        Ok((claims, None))
    }

    /// The present holder of the name, if that is another node.
    fn name_holder(&self, joining: &Joining) -> Option<NodeId> {
        let cluster = self.clusters.get(&joining.cluster)?;
        let holder = cluster.names.get(&joining.name).and_then(|conn| self.session(*conn))?;
        (holder.node != joining.hello.node_id).then_some(holder.node)
    }

    pub(crate) fn registry_refused(
        &mut self,
        now: Instant,
        conn: ConnId,
        code: Code,
        detail: Option<String>,
    ) {
        let mut refusal = Refusal::new(code);
        if let Some(detail) = detail {
            refusal = refusal.detail(detail);
        }
        self.refuse(now, conn, refusal);
    }

    pub(crate) fn admitted(
        &mut self,
        now: Instant,
        conn: ConnId,
        not_after_unix_s: u64,
        credential: Option<StunCredential>,
        session_token: Option<SessionToken>,
    ) {
        let now_unix_ms = self.unix_ms(now);
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let source = state.source;
        let Phase::Admitting(joining) = std::mem::replace(&mut state.phase, Phase::Greeting) else { return };
        let Some(cluster) = self.clusters.get_mut(&joining.cluster) else {
            return self.refuse(now, conn, Refusal::new(Code::UnknownCluster));
        };
        // The cluster may have changed while the registry was asked.
        let ruling = Ruling::new(&cluster.config, source.ip(), &Claims::from(&joining.hello));
        if let Admission::Reject(code) = ruling.verdict {
            return self.refuse(now, conn, Refusal::new(code));
        }
        if cluster.is_revoked(&joining.hello.node_id, not_after_unix_s) {
            return self.refuse(now, conn, Refusal::new(Code::Removed));
        }
        let revoked = cluster.newest_revocations(now_unix_ms / 1000);
        let Some(certificate) = certificate(cluster, &joining, now_unix_ms / 1000, not_after_unix_s) else {
            return self.refuse(now, conn, Refusal::new(Code::NotHome));
        };
        let is_public = cluster.config.effective == EffectiveNetwork::Public;
        let hint = self.hints.of(now, &joining.cluster, source.ip()).filter(|_| is_public);
        let welcome = Welcome {
            signature: joining.transcript.sign(Domain::Welcome, &cluster.config.key),
            session: joining.session,
            kind: cluster.config.kind,
            effective: cluster.config.effective,
            observed: source,
            now_unix_ms,
            certificate: certificate.clone(),
            stun: cluster.stun_access(credential),
            idle_timeout_ms: u32::try_from(millis(self.limits.idle_timeout)).unwrap_or(u32::MAX),
            session_token,
            revoked,
            hint,
        };
        let lacks_credential = welcome.effective == EffectiveNetwork::Public && welcome.stun.is_none();
        self.replace_older(now, &joining);
        self.send(conn, ServerMessage::Welcome(Box::new(welcome)));
        let quiet = self.recall_quiet(now, &joining);
        self.enter(now, conn, new_session(now, *joining, certificate, quiet), &ruling);
        if lacks_credential {
            // The cluster became PUBLIC while the registry was asked.
            self.mint(conn);
        }
    }

    /// One node, one session: the newer connection wins.
    fn replace_older(&mut self, now: Instant, joining: &Joining) {
        let Some(cluster) = self.clusters.get(&joining.cluster) else { return };
        let same_node = cluster.members.get(&joining.hello.node_id).copied();
        // The registry has just given the name to this node: whoever still uses it lost it.
        let same_name = cluster.names.get(&joining.name).copied();
        for old in [same_node, same_name].into_iter().flatten() {
            self.close(now, old, Refusal::new(Code::Replaced));
        }
        self.timers.set(Timer::Forget(joining.cluster.clone(), joining.hello.node_id), None);
    }

    /// Makes the connection a member's.
    fn enter(&mut self, now: Instant, conn: ConnId, mut session: Session, ruling: &Ruling) {
        let Some(cluster) = self.clusters.get_mut(&session.cluster) else { return };
        session.announced = cluster.announced.len() < self.limits.announced_peers;
        if session.announced {
            cluster.announced.insert(conn);
        }
        cluster.members.insert(session.node, conn);
        cluster.names.insert(session.name.clone(), conn);
        self.sessions.insert(session.id, conn);
        self.outputs.push_back(Output::Event(Event::Joined {
            session: session.id,
            cluster: session.cluster.clone(),
            node: session.node,
            name: session.name.clone(),
        }));
        let until_unix_s = session.certificate.not_after_unix_s;
        if let Some(state) = self.conns.get_mut(&conn) {
            state.phase = Phase::Member(Box::new(session));
            self.sources.enter(state.source.ip());
        }
        self.set_membership_timer(now, conn, until_unix_s);
        self.timers.set(Timer::Handshake(conn), None);
        self.timers.set(Timer::Idle(conn), Some(now + self.limits.idle_timeout));
        self.send_directory(conn);
        self.announce(conn);
        self.ping(now, conn);
        self.apply(now, conn, ruling);
        self.retry_waiting_for(now, conn);
    }
}

/// A hello that may go on.
struct Checked {
    cluster: ClusterName,
    name: NodeName,
    capabilities: Vec<Capability>,
}

/// Whether the hello names anything that could let the node in.
fn check_rights(cluster: &ClusterConfig, hello: &Hello) -> Result<(), Refusal> {
    if hello.secrets.len() > MAX_SECRETS {
        let detail = format!("secrets: at most {MAX_SECRETS}");
        return Err(Refusal::new(Code::BadMessage).detail(detail));
    }
    if cluster.home.is_some() {
        let has_certificate = hello.certificate.is_some();
        return if has_certificate { Ok(()) } else { Err(Refusal::new(Code::NotHome)) };
    }
    let has_claim = hello.token.is_some() || hello.resume.is_some() || !hello.secrets.is_empty();
    if has_claim || cluster.open_join { Ok(()) } else { Err(Refusal::new(Code::TokenRequired)) }
}

/// What the registry is to check. Nothing, if the node claims nothing.
fn claims(joining: &Joining, proof: Proof) -> Result<Option<AdmissionProof>, Refusal> {
    let Hello { token, resume, secrets, .. } = &joining.hello;
    if secrets.len() != proof.secrets.len() {
        return Err(Refusal::new(Code::BadMessage).detail("secrets: one proof for each that hello names"));
    }
    let token = match (token, proof.admission) {
        (Some(token), Some(signature)) => Some(TokenProof { token: *token, signature }),
        (Some(_), None) => return Err(Refusal::new(Code::TokenRequired)),
        (None, _) => None,
    };
    let secrets = secrets.iter().zip(proof.secrets).map(|(&secret, mac)| SecretProof { secret, mac });
    let secrets: Vec<SecretProof> = secrets.collect();
    if token.is_none() && resume.is_none() && secrets.is_empty() {
        return Ok(None);
    }
    let transcript = joining.transcript.clone();
    Ok(Some(AdmissionProof { transcript, resume: *resume, token, secrets }))
}

/// Until when the node is a member by the certificate it brings.
fn check_visitor(joining: &Joining, home: &PublicKey, now_unix_s: u64) -> Result<u64, Refusal> {
    let text = joining.hello.certificate.as_ref().ok_or_else(|| Refusal::new(Code::NotHome))?;
    let certificate = Certificate::verify(text, home, now_unix_s).map_err(|error| {
        let code = match error {
            CertificateError::Expired { .. } | CertificateError::NotYetValid { .. } => {
                Code::CertificateExpired
            }
            _ => Code::BadCertificate,
        };
        Refusal::new(code).detail(error)
    })?;
    let is_its_own = certificate.cluster == joining.cluster
        && certificate.node == joining.hello.node_id
        && certificate.name == joining.name;
    if is_its_own {
        Ok(certificate.not_after_unix_s)
    } else {
        let detail = "the membership certificate is for another cluster, key or name";
        Err(Refusal::new(Code::BadCertificate).detail(detail))
    }
}

/// A fresh certificate, or the one a visitor brings.
fn certificate(
    cluster: &Cluster,
    joining: &Joining,
    now_unix_s: u64,
    not_after_unix_s: u64,
) -> Option<CertificateText> {
    if cluster.config.home.is_some() {
        return joining.hello.certificate.as_deref().cloned();
    }
    let certificate = Certificate {
        cluster: joining.cluster.clone(),
        node: joining.hello.node_id,
        name: joining.name.clone(),
        not_before_unix_s: now_unix_s,
        not_after_unix_s,
        capabilities: joining.capabilities.clone(),
    };
    Some(certificate.sign(&cluster.config.key))
}

fn new_session(now: Instant, joining: Joining, certificate: CertificateText, quiet: Quiet) -> Session {
    let member = (joining.cluster, joining.hello.node_id, joining.name);
    Session {
        ephemeral: joining.hello.ephemeral,
        declared: joining.hello.declared,
        node_addr: joining.hello.node_addr,
        capabilities: joining.capabilities,
        ..Session::new(now, joining.session, member, certificate, joining.hello.local_ip, quiet)
    }
}
