//! From hello to welcome.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use meetpoint_proto::id::Nonce;
use meetpoint_proto::join::{Domain, Transcript};
use meetpoint_proto::rules::Admission;
use meetpoint_proto::wire::{
    Hello, MAX_TEXT_LEN, PROTOCOL_VERSION, Proof, Refusal, ServerMessage, StunAccess, Welcome,
};
use meetpoint_proto::{Certificate, ClusterName, Code, EffectiveNetwork, NodeName, PublicKey, SessionId};

use crate::api::{AdmitRequest, ConnId, Event, Output, StunCredential, TokenProof};
use crate::judge::{Claims, Ruling};
use crate::state::{Joining, Phase, PingState, Session, Shown, Timer};
use crate::{Broker, millis};

impl Broker {
    pub(crate) fn hello(&mut self, now: Instant, conn: ConnId, hello: Hello) {
        match self.check_hello(conn, &hello) {
            Err(refusal) => self.refuse(now, conn, refusal),
            Ok((cluster, name)) => self.challenge(conn, hello, cluster, name),
        }
    }

    /// Everything that can be refused before any cryptography.
    fn check_hello(&self, conn: ConnId, hello: &Hello) -> Result<(ClusterName, NodeName), Refusal> {
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
        let unknown = || Refusal::new(Code::UnknownCluster).detail(&hello.cluster);
        let cluster_name = hello.cluster.parse::<ClusterName>().map_err(|_| unknown())?;
        let cluster = self.clusters.get(&cluster_name).ok_or_else(unknown)?;
        if hello.expect.is_some_and(|expect| expect != cluster.config.kind) {
            return Err(Refusal::new(Code::ClusterTypeMismatch).detail(cluster.config.kind));
        }
        if hello.token.is_none() && !cluster.config.open_join {
            return Err(Refusal::new(Code::TokenRequired));
        }
        let source = self.conns.get(&conn).map(|state| state.source.ip());
        let source = source.ok_or_else(|| Refusal::new(Code::OutOfOrder))?;
        match Ruling::new(&cluster.config, source, &Claims::from(hello)).verdict {
            Admission::Reject(code) => Err(Refusal::new(code).detail(format!("the server sees {source}"))),
            Admission::Admit { .. } | Admission::Discover(_) => Ok((cluster_name, name)),
        }
    }

    fn challenge(&mut self, conn: ConnId, hello: Hello, cluster: ClusterName, name: NodeName) {
        let Some(key) = self.clusters.get(&cluster).map(|cluster| PublicKey::from(&cluster.config.key))
        else {
            return;
        };
        let nonce = Nonce::from_bytes(self.random());
        let session = SessionId::from_bytes(self.random());
        let transcript = Transcript::new(&hello, &nonce, &key);
        let joining = Joining { hello, cluster, name, transcript, session };
        if let Some(state) = self.conns.get_mut(&conn) {
            state.phase = Phase::Challenged(Box::new(joining));
            self.send(conn, ServerMessage::Challenge { nonce, cluster_key: key });
        }
    }

    pub(crate) fn proof(&mut self, now: Instant, conn: ConnId, proof: &Proof) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let Phase::Challenged(joining) = std::mem::replace(&mut state.phase, Phase::Greeting) else { return };
        let source = state.source.ip();
        let node_key = PublicKey::from(joining.hello.node_id);
        if !joining.transcript.verify(Domain::Node, &node_key, &proof.node) {
            return self.refuse(now, conn, Refusal::new(Code::BadSignature));
        }
        let Some(cluster) = self.clusters.get(&joining.cluster) else {
            return self.refuse(now, conn, Refusal::new(Code::UnknownCluster));
        };
        let admission = match (joining.hello.token, proof.admission) {
            (Some(token), Some(signature)) => {
                Some(TokenProof { token, transcript: joining.transcript.clone(), signature })
            }
            (None, _) if cluster.config.open_join => None,
            _ => return self.refuse(now, conn, Refusal::new(Code::TokenRequired)),
        };
        let holder = cluster.names.get(&joining.name).and_then(|conn| self.session(*conn));
        let name_holder = holder.map(|session| session.node).filter(|node| *node != joining.hello.node_id);
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
            admission,
            name_holder,
        };
        self.outputs.push_back(Output::Admit(Box::new(request)));
        if let Some(state) = self.conns.get_mut(&conn) {
            state.phase = Phase::Admitting(joining);
        }
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
    ) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let source = state.source;
        let Phase::Admitting(joining) = std::mem::replace(&mut state.phase, Phase::Greeting) else { return };
        let Some(cluster) = self.clusters.get(&joining.cluster) else {
            return self.refuse(now, conn, Refusal::new(Code::UnknownCluster));
        };
        // The cluster may have changed while the registry was asked.
        let ruling = Ruling::new(&cluster.config, source.ip(), &Claims::from(&joining.hello));
        if let Admission::Reject(code) = ruling.verdict {
            return self.refuse(now, conn, Refusal::new(code));
        }
        let certificate = Certificate {
            cluster: joining.cluster.clone(),
            node: joining.hello.node_id,
            name: joining.name.clone(),
            not_after_unix_s,
        }
        .sign(&cluster.config.key);
        let stun = credential.filter(|_| cluster.config.effective == EffectiveNetwork::Public).map(|c| {
            StunAccess { servers: cluster.config.stun.clone(), username: c.username, password: c.password }
        });
        let welcome = Welcome {
            signature: joining.transcript.sign(Domain::Welcome, &cluster.config.key),
            session: joining.session,
            kind: cluster.config.kind,
            effective: cluster.config.effective,
            observed: source,
            now_unix_ms: self.unix_ms(now),
            certificate: certificate.clone(),
            stun,
            idle_timeout_ms: u32::try_from(millis(self.limits.idle_timeout)).unwrap_or(u32::MAX),
        };
        let lacks_credential = welcome.effective == EffectiveNetwork::Public && welcome.stun.is_none();
        self.replace_older(now, &joining);
        self.send(conn, ServerMessage::Welcome(Box::new(welcome)));
        self.enter(now, conn, new_session(now, *joining, certificate), &ruling);
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
        if let Some(state) = self.conns.get_mut(&conn) {
            state.phase = Phase::Member(Box::new(session));
        }
        self.timers.set(Timer::Handshake(conn), None);
        self.timers.set(Timer::Idle(conn), Some(now + self.limits.idle_timeout));
        self.send_directory(conn);
        self.announce(conn);
        self.ping(now, conn);
        self.apply(now, conn, ruling);
        self.retry_waiting_for(now, conn);
    }
}

fn new_session(
    now: Instant,
    joining: Joining,
    certificate: meetpoint_proto::wire::CertificateText,
) -> Session {
    Session {
        id: joining.session,
        cluster: joining.cluster,
        node: joining.hello.node_id,
        name: joining.name,
        ephemeral: joining.hello.ephemeral,
        declared: joining.hello.declared,
        node_addr: joining.hello.node_addr,
        local_ip: joining.hello.local_ip,
        certificate,
        since: now,
        announced: false,
        class: None,
        discovery: None,
        probation: None,
        is_open: false,
        dial_back: None,
        last_dial_back: None,
        observed: VecDeque::new(),
        shown: Shown::default(),
        hosts: Vec::new(),
        behavior: None,
        ping: PingState::default(),
        requests: BTreeMap::new(),
        asked: BTreeSet::new(),
        targeted: BTreeSet::new(),
    }
}
