//! Real TCP, real TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meetpoint_turn::StreamListener;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{LISTENER, STREAMS, Shard, binding, is_answer};
use crate::config::{StreamAddrs, TlsFiles};
use crate::identity::Identity;
use crate::stream::places::Bounds;
use crate::stream::{StreamKind, StreamSockets, Streams, Surroundings};
use crate::udp::Inboxes;

/// TCP and TLS listeners on loopback, and the shard behind them.
struct Rig {
    tcp: SocketAddr,
    tls: SocketAddr,
    certificate: CertificateDer<'static>,
    tasks: TaskTracker,
    stop: CancellationToken,
    run: JoinHandle<()>,
    _files: TempDir,
}

impl Rig {
    fn new(ip: impl Into<IpAddr>) -> Self {
        Self::with_bounds(ip, Bounds::default())
    }

    fn with_bounds(ip: impl Into<IpAddr>, bounds: Bounds) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (cert, key) = (files.path().join("cert"), files.path().join("key"));
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let certificate = CertificateDer::from_pem_file(&cert).unwrap();
        let identity = Arc::new(Identity::load(&TlsFiles { cert, key }).unwrap());

        let here = StreamAddrs { addrs: vec![SocketAddr::new(ip.into(), 0)], is_given: true };
        let sockets = StreamSockets::bind(&here, &here).unwrap();
        let (tcp, tls) = (sockets.addrs(StreamKind::Tcp)[0], sockets.addrs(StreamKind::Tls)[0]);
        let mut streams = Streams::new(sockets.bound, LISTENER, &identity).unwrap();
        streams.bounds = bounds;
        let expected =
            [StreamListener { addr: tcp, ..STREAMS[0] }, StreamListener { addr: tls, ..STREAMS[1] }];
        assert_eq!(streams.listeners(None), expected);

        let (inbox, mut shard) = Shard::new();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let inboxes = Inboxes::new(vec![inbox]);
        let surroundings = Surroundings { inboxes, tasks: tasks.clone(), stop: stop.clone() };
        let stopped = stop.clone();
        let run = tokio::spawn(async move {
            let turning = async {
                loop {
                    while shard.turn() {}
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                () = turning => {}
                run = streams.run(surroundings) => run.unwrap(),
            }
            assert!(stopped.is_cancelled());
            while shard.closed < shard.opened {
                shard.turn();
                tokio::task::yield_now().await;
            }
        });
        Self { tcp, tls, certificate, tasks, stop, run, _files: files }
    }

    async fn shake_hands(
        &self,
        version: &'static SupportedProtocolVersion,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.tls).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn end(self) {
        self.stop.cancel();
        self.run.await.unwrap();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Reads one answer.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    let mut rest = vec![0; 16 + usize::from(u16::from_be_bytes([head[2], head[3]]))];
    stream.read_exact(&mut rest).await.unwrap();
    [&head[..], &rest].concat()
}

async fn check(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    // Two frames in one segment, then one over three.
    stream.write_all(&[binding(1), binding(2)].concat()).await.unwrap();
    stream.flush().await.unwrap();
    for id in [1, 2] {
        assert!(is_answer(&answer(&mut stream).await, id));
    }
    let request = binding(3);
    for part in [&request[..3], &request[3..19], &request[19..]] {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(is_answer(&answer(&mut stream).await, 3));
}

#[tokio::test]
async fn bindings_are_answered_over_tcp_and_tls() {
    let loopbacks = [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)];
    for ip in loopbacks {
        let rig = Rig::new(ip);
        check(TcpStream::connect(rig.tcp).await.unwrap()).await;
        check(rig.shake_hands(&rustls::version::TLS12, &[]).await.unwrap()).await;
        check(rig.shake_hands(&rustls::version::TLS13, &[]).await.unwrap()).await;
        rig.end().await;
    }
}

/// RFC 7443, section 3.
#[tokio::test]
async fn protocols_are_agreed_on_if_offered() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST);
    for (offered, expected) in [
        (&[][..], Some(None)),
        (&["stun.turn"], Some(Some("stun.turn"))),
        (&["stun.nat-discovery"], Some(Some("stun.nat-discovery"))),
        (&["h2", "stun.turn"], Some(Some("stun.turn"))),
        (&["http/1.1"], None),
    ] {
        let shaken = rig.shake_hands(&rustls::version::TLS13, offered).await.ok();
        let agreed = shaken.as_ref().map(|stream| stream.get_ref().1.alpn_protocol());
        assert_eq!(agreed, expected.map(|name: Option<&str>| name.map(str::as_bytes)), "{offered:?}");
        let version = shaken.map(|stream| stream.get_ref().1.protocol_version());
        assert!(version.is_none_or(|version| version == Some(ProtocolVersion::TLSv1_3)));
    }
    rig.end().await;
}

#[tokio::test]
async fn garbage_is_not_answered() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST);
    for addr in [rig.tcp, rig.tls] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"\xFF\xFE\xFD\xFC\xFB\xFA\xF9\xF8").await.unwrap();
        let mut rest = Vec::new();
        // TLS may say in an alert what it thinks of it.
        let end = stream.read_to_end(&mut rest).await;
        assert!(end.is_err() || rest.len() <= 7, "{rest:?}");
    }
    rig.end().await;
}

/// The clock jumps whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn a_stalled_handshake_ends() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST);
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let started = tokio::time::Instant::now();
        let mut stream = TcpStream::connect(rig.tls).await.unwrap();
        stream.write_all(begun).await.unwrap();
        assert!(!matches!(stream.read(&mut [0; 64]).await, Ok(1..)));
        let waited = started.elapsed();
        assert!((9..20).contains(&waited.as_secs()), "{waited:?}");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_source_has_so_many_connections() {
    let rig = Rig::with_bounds(Ipv4Addr::LOCALHOST, Bounds { in_all: 3, per_source: 2 });
    let asks = async |addr| {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(&binding(1)).await.unwrap();
        // One that is closed unheard is reset, or just ends.
        let is_served = matches!(stream.read(&mut [0; 64]).await, Ok(1..));
        is_served.then_some(stream)
    };
    let (first, second) = (asks(rig.tcp).await.unwrap(), asks(rig.tcp).await.unwrap());
    for addr in [rig.tcp, rig.tls] {
        assert!(asks(addr).await.is_none());
    }
    drop(first);
    let third = loop {
        if let Some(third) = asks(rig.tcp).await {
            break third;
        }
    };
    drop((second, third));
    rig.end().await;
}
