//! Seeds whose host has no address of its own: the targets of its SRV records (RFC 2782).

use std::net::IpAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RData;

use super::MAX_ADDRS;

/// Service and protocol of a seed's control port.
const SERVICE: &str = "_meetpoint._tcp";
/// Targets that are looked up; each costs a question.
const MAX_TARGETS: usize = 8;

/// The addresses of those targets of `_meetpoint._tcp.HOST` that serve at the seed's port: a seed is one
/// port, and one that its records do not name is not where they say it is.
pub(super) async fn addresses(host: &str, port: u16) -> Result<Vec<IpAddr>, NetError> {
    ask(&TokioResolver::builder_tokio()?.build()?, host, port).await
}

async fn ask(resolver: &TokioResolver, host: &str, port: u16) -> Result<Vec<IpAddr>, NetError> {
    let found = resolver.srv_lookup(format!("{SERVICE}.{}.", host.trim_end_matches('.'))).await?;
    let mut ips = Vec::new();
    for record in found.answers().iter().take(MAX_TARGETS) {
        let RData::SRV(srv) = &record.data else { continue };
        if srv.port != port {
            continue;
        }
        // A target without an address may have a neighbour with one.
        if let Ok(target) = resolver.lookup_ip(srv.target.clone()).await {
            ips.extend(target.iter());
        }
    }
    ips.truncate(MAX_ADDRS);
    Ok(ips)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, OpCode};
    use hickory_resolver::proto::rr::rdata::{A, SRV};
    use hickory_resolver::proto::rr::{Name, Record, RecordType};
    use tokio::net::UdpSocket;

    use super::*;

    const TARGETS: [(&str, u16, [u8; 4]); 3] = [
        ("one.example.net.", 8080, [20, 0, 0, 1]),
        ("two.example.net.", 8080, [20, 0, 0, 2]),
        ("three.example.net.", 443, [20, 0, 0, 3]),
    ];

    /// A name server that knows these targets, and that two.example.net has no address.
    async fn resolver() -> TokioResolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..len]).unwrap();
                let query = question.queries[0].clone();
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                answer.add_query(query.clone());
                let asked = query.name().to_utf8();
                for (target, port, ip) in TARGETS {
                    if query.query_type() == RecordType::SRV && asked == "_meetpoint._tcp.example.org." {
                        let srv = SRV::new(1, 1, port, Name::from_utf8(target).unwrap());
                        answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::SRV(srv)));
                    } else if query.query_type() == RecordType::A
                        && asked == target
                        && !target.starts_with("two")
                    {
                        let a = A(Ipv4Addr::from(ip));
                        answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(a)));
                    }
                }
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
    }

    #[tokio::test]
    async fn targets_at_the_seeds_port_have_the_addresses() {
        let resolver = resolver().await;
        for (port, expect) in [(8080, vec![[20, 0, 0, 1]]), (443, vec![[20, 0, 0, 3]]), (1, vec![])] {
            let found = ask(&resolver, "example.org", port).await.unwrap();
            let expect: Vec<IpAddr> = expect.into_iter().map(IpAddr::from).collect();
            assert_eq!(found, expect, "port {port}");
        }
        assert!(ask(&resolver, "example.com", 8080).await.is_err());
    }
}
