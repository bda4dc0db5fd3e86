//! `meetpoint netcheck`: what this machine's network is like, as a node would find it, without joining anything.
//!
//! Everything is asked of the servers that are named, of this machine's router (whether it would map a port; none is
//! mapped), and of nobody else.

mod report;
mod stun;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use meetpoint::{Fingerprint, ServerUrl, nat_behavior, open_stream, port_mapping};
use meetpoint_proto::wire::StunServer;
use meetpoint_proto::{JoinToken, NatBehavior};
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::args::{NetcheckArgs, ServerArgs};
use crate::exit::Failure;
use crate::operator::client::{Access, Client};
use report::{Findings, Reached, ServerFindings};
use stun::Answer;

/// For a connection to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where a server answers STUN that does not say so.
const DEFAULT_PORT: u16 = 3478;
/// The same by TLS.
const DEFAULT_TLS_PORT: u16 = 5349;
/// A global address, to see by which of its own this machine would go there; nothing is sent.
const SOMEWHERE_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1));

/// One server, and what is known by asking it.
struct Asked {
    findings: ServerFindings,
    local: Option<IpAddr>,
    /// What STUN by UDP said there.
    seen: Option<(SocketAddr, Answer)>,
}

/// Looks, and says what it found.
pub(crate) async fn run(args: NetcheckArgs) -> Result<(), Failure> {
    let of_token = match &args.join_token {
        Some(token) => token.parse::<JoinToken>().map_err(Failure::usage)?.fingerprint(),
        None => None,
    };
    let pin = args.fingerprint.or(of_token);
    let ports = async { Ok(port_mapping().await.ok()) };
    let ((asked, behavior), ports) = tokio::try_join!(ask_servers(&args, pin), ports)?;
    let seen = asked.iter().find_map(|asked| asked.seen);
    let local = seen.and_then(|(server, _)| local_ip(server).ok());
    let findings = Findings {
        local: local.or_else(|| asked.iter().find_map(|asked| asked.local)),
        mapped: seen.map(|(_, answer)| answer.mapped),
        behavior,
        has_ipv6: local_ip(SocketAddr::new(SOMEWHERE_IPV6, DEFAULT_PORT)).is_ok(),
        servers: asked.into_iter().map(|asked| asked.findings).collect(),
        ports,
    };
    if args.json {
        println!("{}", findings.json());
    } else {
        println!("{}", findings.text());
    }
    if findings.any_answer() { Ok(()) } else { Err(Failure::no_server("no server answered")) }
}

/// All that servers can tell: each of itself, and the first that answers by UDP of the NAT.
async fn ask_servers(
    args: &NetcheckArgs,
    pin: Option<Fingerprint>,
) -> Result<(Vec<Asked>, Option<NatBehavior>), Failure> {
    let mut asked = Vec::new();
    for url in &args.rendezvous {
        let server: ServerUrl =
            url.parse().map_err(|error| Failure::usage(format!("--rendezvous {url}: {error}")))?;
        asked.push(ask(url, &server, pin, args).await?);
    }
    let behavior = match asked.iter().find_map(|asked| asked.seen) {
        Some((server, answer)) => {
            nat_behavior(stun_server(server, &answer)).await.map_err(Failure::failed)?
        }
        None => None,
    };
    Ok((asked, behavior))
}

async fn ask(
    url: &str,
    server: &ServerUrl,
    pin: Option<Fingerprint>,
    args: &NetcheckArgs,
) -> Result<Asked, Failure> {
    let addrs: Vec<SocketAddr> = match lookup_host(server.authority()).await {
        Ok(addrs) => addrs.collect(),
        Err(error) => return Err(Failure::no_server(format!("{url}: {error}"))),
    };
    let (control, local) = match connect(&addrs).await {
        Ok((rtt, local)) => (Ok(rtt), Some(local)),
        Err(error) => (Err(error.to_string()), None),
    };
    let status = match &control {
        Ok(_) => status(url, pin, args).await,
        Err(_) => Err("no connection".to_owned()),
    };
    let [udp_port, tcp_port, tls_port] = ports(status.as_ref().ok());
    let by_family = |ipv4: bool| addrs.iter().find(|addr| addr.is_ipv4() == ipv4).map(|addr| addr.ip());
    let (mut udp, mut seen) = ([None, None], None);
    for (at, ip) in [by_family(true), by_family(false)].into_iter().enumerate() {
        let (Some(ip), Some(port)) = (ip, udp_port) else { continue };
        let to = SocketAddr::new(ip, port);
        let answer = stun::by_udp(to).await;
        seen = seen.or(answer.as_ref().ok().map(|answer| (to, *answer)));
        udp[at] = Some(answer.map(|answer| answer.rtt).map_err(|error| error.to_string()));
    }
    let authority = server.authority();
    let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
    let stream = async |scheme: &str, port: Option<u16>| match port {
        Some(port) => Some(by_stream(&format!("{scheme}://{host}:{port}"), pin).await),
        None => None,
    };
    let findings = ServerFindings {
        url: url.to_owned(),
        control,
        status,
        udp,
        tcp: stream("http", tcp_port).await,
        tls: stream("https", tls_port).await,
    };
    Ok(Asked { findings, local, seen })
}

async fn connect(addrs: &[SocketAddr]) -> io::Result<(Duration, IpAddr)> {
    let mut last = io::Error::other("it has no address");
    for addr in addrs {
        let started = Instant::now();
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => return Ok((started.elapsed(), stream.local_addr()?.ip())),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer"),
        }
    }
    Err(last)
}

/// The server's public state.
async fn status(url: &str, pin: Option<Fingerprint>, args: &NetcheckArgs) -> Result<Value, String> {
    let server = ServerArgs {
        server: url.to_owned(),
        admin_token_file: std::path::PathBuf::new(),
        viewer_token_file: None,
        fingerprint: pin,
        insecure_http: args.insecure_http,
        json: args.json,
    };
    let client = Client::new(&server, Access::Public).map_err(|failure| failure.message().to_owned())?;
    client.get("/v1/status").await.map_err(|failure| failure.message().to_owned())
}

/// Where STUN is answered by UDP, TCP and TLS: as the server says, or as servers usually do.
fn ports(status: Option<&Value>) -> [Option<u16>; 3] {
    let Some(stun) = status.map(|status| &status["stun"]).filter(|stun| stun.is_object()) else {
        return [Some(DEFAULT_PORT), Some(DEFAULT_PORT), Some(DEFAULT_TLS_PORT)];
    };
    ["udp", "tcp", "tls"].map(|kind| u16::try_from(stun[kind].as_u64()?).ok())
}

/// A Binding over a stream. What goes there is no secret, so in the open is good enough.
async fn by_stream(url: &str, pin: Option<Fingerprint>) -> Reached {
    let server: ServerUrl = url.parse().map_err(|error: meetpoint::UrlError| error.to_string())?;
    let pin = pin.filter(|_| url.starts_with("https"));
    let stream = timeout(CONNECT_TIMEOUT, open_stream(&server, pin, true)).await;
    let stream = stream.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    stun::by_stream(stream).await.map(|answer| answer.rtt).map_err(|error| error.to_string())
}

/// The server's addresses, as it tells its other one (RFC 5780, section 7.4).
fn stun_server(primary: SocketAddr, answer: &Answer) -> StunServer {
    StunServer {
        primary,
        alternate: answer.other.map(|other| other.ip()).filter(|ip| *ip != primary.ip()),
        alternate_port: answer.other.map(|other| other.port()).filter(|port| *port != primary.port()),
    }
}

/// By which of its addresses this machine goes there. Nothing is sent.
fn local_ip(to: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}
