//! Seeds that a domain names by SRV records (RFC 2782): `_meetpoint._tcp.DOMAIN`.
//!
//! DNS proves nothing, so a server that is found this way has to be the domain's: its certificate is for the domain, or
//! its key is one that was pinned (RFC 6125, section 6.4). The records are looked up at the node's start, and now and
//! then for as long as it runs (`crate::sources::Dns`).

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RData;
use meetpoint_agent::ServerRank;
use meetpoint_proto::seed::Host;
use thiserror::Error;

use crate::egress::{Blocked, Egress};
use crate::servers::{MAX_SERVERS, Server, ServerError};
use crate::ws::ServerUrl;

/// Service and protocol of a seed's control port.
const SERVICE: &str = "_meetpoint._tcp";

/// Why a domain's seeds are not known.
#[derive(Debug, Error)]
pub(crate) enum SrvError {
    /// The gate is closed.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// No answer, or none that helps.
    #[error("{SERVICE}: {0}")]
    Dns(#[from] NetError),
    /// The domain says that it offers no such service.
    #[error("{SERVICE}: the domain has no seeds")]
    NoneOffered,
}

/// A domain's name is one.
///
/// # Errors
/// [`ServerError::Domain`]
pub(crate) fn check(domain: &str) -> Result<(), ServerError> {
    match domain.parse() {
        Ok(Host::Dns(_)) => Ok(()),
        _ => Err(ServerError::Domain { given: domain.to_owned() }),
    }
}

/// A domain's seeds.
///
/// # Errors
/// [`SrvError`]; nothing was asked if the gate is closed for it.
pub(crate) async fn look_up(
    egress: &Egress,
    domain: &str,
    insecure_http: bool,
) -> Result<Vec<Server>, SrvError> {
    egress.check_look_up()?;
    ask(&TokioResolver::builder_tokio()?.build()?, domain, insecure_http).await
}

pub(crate) async fn ask(
    resolver: &TokioResolver,
    domain: &str,
    insecure_http: bool,
) -> Result<Vec<Server>, SrvError> {
    let domain = domain.trim_end_matches('.');
    let found = resolver.srv_lookup(format!("{SERVICE}.{domain}.")).await?;
    let mut servers = Vec::new();
    for record in found.answers().iter().take(MAX_SERVERS) {
        let RData::SRV(srv) = &record.data else { continue };
        let target = srv.target.to_utf8();
        // A lone dot: decidedly not available at this domain.
        let Ok(Host::Dns(host)) = target.trim_end_matches('.').parse() else { continue };
        servers.push(Server {
            label: format!("{host}:{} ({domain})", srv.port),
            url: ServerUrl::of_host(!insecure_http, host, srv.port),
            rank: ServerRank { priority: srv.priority, weight: srv.weight },
            tls_name: Some(domain.to_owned()),
            fingerprint: None,
        });
    }
    if servers.is_empty() { Err(SrvError::NoneOffered) } else { Ok(servers) }
}

/// A name server for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use hickory_resolver::TokioResolver;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, OpCode};
    use hickory_resolver::proto::rr::rdata::SRV;
    use hickory_resolver::proto::rr::{Name, RData, Record};
    use tokio::net::UdpSocket;

    /// Priority, weight, port and target.
    type Records = Vec<(u16, u16, u16, &'static str)>;

    /// Answers every question with the same records, which may be replaced.
    pub(crate) struct NameServer {
        port: u16,
        records: Arc<Mutex<Records>>,
        asked: Arc<AtomicUsize>,
    }

    impl NameServer {
        pub(crate) async fn start(records: Records) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let port = socket.local_addr().unwrap().port();
            let (records, asked) = (Arc::new(Mutex::new(records)), Arc::new(AtomicUsize::new(0)));
            tokio::spawn(serve(socket, Arc::clone(&records), Arc::clone(&asked)));
            Self { port, records, asked }
        }

        pub(crate) fn set(&self, records: Records) {
            *self.records.lock().unwrap() = records;
        }

        pub(crate) fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    async fn serve(socket: UdpSocket, records: Arc<Mutex<Records>>, asked: Arc<AtomicUsize>) {
        let mut buffer = [0; 1500];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            asked.fetch_add(1, Ordering::Relaxed);
            let question = Message::from_vec(&buffer[..len]).unwrap();
            let query = question.queries[0].clone();
            assert_eq!(query.name().to_utf8(), "_meetpoint._tcp.example.org.");
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(query.clone());
            for (priority, weight, port, target) in records.lock().unwrap().iter() {
                let srv = SRV::new(*priority, *weight, *port, Name::from_utf8(target).unwrap());
                answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::SRV(srv)));
            }
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    }

    /// A resolver that asks it, and remembers nothing.
    pub(crate) fn resolver(server: &NameServer) -> TokioResolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = server.port;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut options = ResolverOpts::default();
        options.cache_size = 0;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.with_options(options).build().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{NameServer, resolver};
    use super::*;

    #[tokio::test]
    async fn the_records_become_servers() {
        let names = NameServer::start(vec![
            (10, 5, 8080, "One.example.net."),
            (20, 0, 443, "two.example.net."),
            (1, 1, 1, "."),
        ])
        .await;
        let found = ask(&resolver(&names), "example.org.", false).await.unwrap();
        let shown: Vec<_> = found.iter().map(|server| server.url.to_string()).collect();
        assert_eq!(shown, ["https://one.example.net:8080", "https://two.example.net:443"]);
        assert_eq!(found[0].rank, ServerRank { priority: 10, weight: 5 });
        assert!(found.iter().all(|server| server.tls_name.as_deref() == Some("example.org")));

        names.set(vec![(0, 0, 0, ".")]);
        let none = ask(&resolver(&names), "example.org", false).await;
        assert!(matches!(none, Err(SrvError::NoneOffered)), "{none:?}");
    }

    #[test]
    fn domains() {
        for (domain, good) in
            [("example.org", true), ("example.org.", true), ("10.0.0.1", false), ("", false), ("a b", false)]
        {
            assert_eq!(check(domain).is_ok(), good, "{domain}");
        }
    }
}
