//! Real servers on the loopback interface: TLS, plain, broken, silent.

use futures_util::{SinkExt, StreamExt};
use rcgen::CertifiedKey;
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// A server with a self-signed certificate for `localhost`.
struct Server {
    port: u16,
    fingerprint: Fingerprint,
    roots: Roots,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers TLS or, if the first byte is not that of a TLS handshake, plain HTTP; then repeats
/// each message.
async fn server() -> Server {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let fingerprint = Fingerprint::from_bytes(
        Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&signing_key)).into(),
    );
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut first = [0];
                let _ = tcp.peek(&mut first).await;
                if first == [0x16] {
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        repeat(stream).await;
                    }
                } else {
                    repeat(tcp).await;
                }
            });
        }
    });
    Server { port, fingerprint, roots: Roots::Given(Arc::new(roots)), task }
}

async fn repeat(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        let answer = if message == Message::text("too much") {
            Message::text("x".repeat(MAX_MESSAGE_LEN + 1))
        } else {
            message
        };
        let _ = socket.send(answer).await;
    }
}

fn options(url: &str) -> OpenOptions {
    OpenOptions {
        server: url.parse().unwrap(),
        tls_name: None,
        pins: Pins::default(),
        insecure_http: false,
        roots: Roots::Given(Arc::new(RootCertStore::empty())),
        egress: Arc::default(),
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Secure,
    Plain,
    Mismatch,
    Untrusted,
}

async fn outcome(options: &OpenOptions) -> Outcome {
    match open(options).await {
        Ok(mut control) => {
            control.socket.send(Message::text("hello")).await.unwrap();
            assert_eq!(control.socket.next().await.unwrap().unwrap(), Message::text("hello"));
            assert!(control.local.ip().is_loopback() && control.remote.port() == options.server.port);
            if control.secure { Outcome::Secure } else { Outcome::Plain }
        }
        Err(OpenError::PinMismatch { .. }) => Outcome::Mismatch,
        Err(OpenError::Untrusted { .. }) => Outcome::Untrusted,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn who_is_accepted_as_the_server() {
    use Outcome::{Mismatch, Plain, Secure, Untrusted};
    let server = server().await;
    let right = Some(server.fingerprint);
    let wrong = Some(Fingerprint::from_bytes([7; 32]));
    let cases = [
        // (scheme, host, pin, whether the roots vouch for the certificate) -> outcome
        ("http", "127.0.0.1", None, false, Plain),
        ("http", "localhost", None, false, Plain),
        ("http", "127.0.0.1", right, false, Secure),
        ("https", "127.0.0.1", right, false, Secure),
        ("https", "localhost", right, false, Secure),
        ("http", "127.0.0.1", wrong, false, Mismatch),
        ("https", "localhost", wrong, false, Mismatch),
        ("https", "localhost", None, false, Untrusted),
        ("https", "localhost", None, true, Secure),
        ("https", "localhost", wrong, true, Secure),
        ("https", "127.0.0.1", None, true, Untrusted),
        ("https", "127.0.0.1", wrong, true, Mismatch),
    ];
    for (scheme, host, pin, vouched, expect) in cases {
        let mut options = options(&format!("{scheme}://{host}:{}", server.port));
        options.pins = pin.into_iter().collect();
        if vouched {
            options.roots = server.roots.clone();
        }
        assert_eq!(outcome(&options).await, expect, "{scheme} {host} {pin:?} vouched: {vouched}");
    }
}

#[tokio::test]
async fn a_mismatch_says_so_and_what_to_do() {
    let server = server().await;
    let mut options = options(&format!("https://localhost:{}", server.port));
    options.pins = [Fingerprint::from_bytes([7; 32])].into_iter().collect();
    let text = open(&options).await.unwrap_err().to_string();
    assert!(text.contains("does not match the token's fingerprint") && text.contains("new token"), "{text}");
    assert!(text.contains(&server.fingerprint.to_string()), "{text}");
}

#[tokio::test]
async fn the_machines_own_roots_are_the_default() {
    let server = server().await;
    let mut options = options(&format!("https://localhost:{}", server.port));
    options.roots = Roots::default();
    assert_eq!(outcome(&options).await, Outcome::Untrusted);
}

#[tokio::test]
async fn plain_http_stays_on_the_machine() {
    for (addresses, expect) in [
        ("127.0.0.1:1", None),
        ("127.8.9.1:1 [::1]:1 [::ffff:127.0.0.1]:1", None),
        ("10.0.0.1:1", Some("10.0.0.1:1")),
        ("[::1]:1 20.0.0.1:1", Some("20.0.0.1:1")),
        ("[::ffff:10.0.0.1]:1", Some("[::ffff:10.0.0.1]:1")),
        ("0.0.0.0:1", Some("0.0.0.0:1")),
    ] {
        let addresses: Vec<SocketAddr> = addresses.split(' ').map(|text| text.parse().unwrap()).collect();
        let refused = match refuse_remote(&addresses) {
            Err(OpenError::PlainRefused { remote }) => Some(remote.to_string()),
            other => {
                other.unwrap();
                None
            }
        };
        assert_eq!(refused.as_deref(), expect, "{addresses:?}");
    }
    // Refused before anything leaves: the error comes although nobody is there to time out.
    let error = open(&options("http://20.0.0.1:8080")).await.unwrap_err();
    assert!(matches!(error, OpenError::PlainRefused { .. }), "{error}");
    assert!(error.to_string().contains("--insecure-http"), "{error}");
}

#[tokio::test]
async fn a_sealed_node_does_not_go_to_a_public_server() {
    let server = server().await;
    let sealed = Arc::new(Egress::new(true));
    // By TLS, so that nothing else refuses it first; nobody is there to time out.
    for (host, expect) in
        [("127.0.0.1", true), ("localhost", true), ("20.0.0.1", false), ("[2606:4700::1]", false)]
    {
        let mut options = options(&format!("https://{host}:{}", server.port));
        options.pins = [server.fingerprint].into_iter().collect();
        options.egress = Arc::clone(&sealed);
        match open(&options).await {
            Ok(_) => assert!(expect, "{host}"),
            Err(OpenError::Sealed { source: Blocked::Address(_), .. }) => assert!(!expect, "{host}"),
            Err(error) => panic!("{host}: {error}"),
        }
    }
    assert_eq!(sealed.blocked(), 2);
}

#[tokio::test]
async fn insecure_http_is_allowed_when_told() {
    // Linux connects 0.0.0.0 to itself; that address is not a loopback address.
    if !cfg!(target_os = "linux") {
        return;
    }
    let server = server().await;
    let mut options = options(&format!("http://0.0.0.0:{}", server.port));
    assert!(matches!(open(&options).await, Err(OpenError::PlainRefused { .. })));
    options.insecure_http = true;
    assert_eq!(outcome(&options).await, Outcome::Plain);
}

/// A server that answers the first bytes of any client with `answer`, or keeps silent.
async fn answering(answer: Option<&'static str>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut clients = Vec::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            if let Some(answer) = answer {
                let _ = tcp.read(&mut [0; 1024]).await;
                let _ = tcp.write_all(answer.as_bytes()).await;
            } else {
                clients.push(tcp);
            }
        }
    });
    (port, task)
}

#[tokio::test]
async fn other_servers_are_told_apart() {
    let cases = [
        ("http", "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "HTTP 404", "check that a Meetpoint"),
        ("http", "HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n", "HTTP 429", "try again later"),
        ("http", "HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n", "HTTP 502", "proxy"),
        ("http", "SSH-2.0-other\r\n", "did not open a WebSocket", "Meetpoint server"),
        ("https", "HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n", "no TLS", "answers TLS"),
    ];
    for (scheme, answer, what, hint) in cases {
        let (port, task) = answering(Some(answer)).await;
        let text = open(&options(&format!("{scheme}://127.0.0.1:{port}"))).await.unwrap_err().to_string();
        assert!(text.contains(what) && text.contains(hint), "{answer:?}: {text}");
        task.abort();
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    for (scheme, expect) in [("http", OpenStage::Upgrade), ("https", OpenStage::Tls)] {
        let (port, task) = answering(None).await;
        let deadline = Instant::now() + Duration::from_millis(200);
        let error = open_by(&options(&format!("{scheme}://127.0.0.1:{port}")), deadline).await.unwrap_err();
        assert!(matches!(error, OpenError::TimedOut { stage, .. } if stage == expect), "{error}");
        task.abort();
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = open(&options(&format!("http://127.0.0.1:{port}"))).await.unwrap_err();
    assert!(matches!(error, OpenError::Connect { .. }), "{error}");
    let error = open(&options("http://no-such-host.invalid:1")).await.unwrap_err();
    assert!(matches!(error, OpenError::Resolve { .. }), "{error}");
}

#[tokio::test]
async fn an_oversized_message_ends_the_channel() {
    let server = server().await;
    let mut control = open(&options(&format!("http://127.0.0.1:{}", server.port))).await.unwrap();
    let largest = Message::text("x".repeat(MAX_MESSAGE_LEN));
    control.socket.send(largest.clone()).await.unwrap();
    assert_eq!(control.socket.next().await.unwrap().unwrap(), largest);

    control.socket.send(Message::text("too much")).await.unwrap();
    let error = control.socket.next().await.unwrap().unwrap_err();
    assert!(matches!(error, tungstenite::Error::Capacity(_)), "{error}");
}

#[test]
fn urls() {
    let cases = [
        ("http://a.example:8080", Ok("http://a.example:8080")),
        ("https://a.example/", Ok("https://a.example:443")),
        ("http://a.example", Ok("http://a.example:80")),
        ("https://[2606:4700::1]:8443", Ok("https://[2606:4700::1]:8443")),
        ("http://127.0.0.1:1", Ok("http://127.0.0.1:1")),
        ("ftp://a.example", Err("neither http nor https")),
        ("ws://a.example", Err("neither http nor https")),
        ("a.example:8080", Err("")),
        ("a.example", Err("scheme is missing")),
        ("/v1/control", Err("scheme is missing")),
        ("https://a.example#x", Err("fragment")),
        ("http://", Err("")),
        ("http://a.example:0", Err("the port")),
        ("http://a.example:65536", Err("the port")),
        ("http://a.example:", Err("the port")),
        ("http://u:p@a.example:1", Err("user or password")),
        ("http://a.example:1/path", Err("path or query")),
        ("http://a.example:1?q", Err("path or query")),
        ("http://a b", Err("")),
        ("", Err("")),
    ];
    for (text, expect) in cases {
        match (text.parse::<ServerUrl>(), expect) {
            (Ok(url), Ok(expect)) => assert_eq!(url.to_string(), expect),
            (Err(error), Err(expect)) => {
                let error = error.to_string();
                assert!(error.contains(expect) && error.contains("expected http://HOST:PORT"), "{error}");
            }
            (got, _) => panic!("{text:?}: {got:?}"),
        }
    }
}
