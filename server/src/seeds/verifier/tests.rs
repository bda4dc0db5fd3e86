//! A seed's registration as a port scanner: shown to work without each defence, and not to work with it.

use ed25519_dalek::SigningKey;
use meetpoint_proto::{SeedOrigin, SeedStatus};
use tokio::net::TcpListener;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A machine of the victim's, with a service that says nothing.
async fn victim(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Whether anybody has connected.
async fn was_reached(listener: &TcpListener) -> bool {
    let now = Duration::from_millis(1);
    tokio::time::timeout(now, listener.accept()).await.is_ok()
}

struct Scan {
    pace: Arc<Mutex<Pace>>,
    off: Option<Defence>,
    network: (ClusterNetwork, EffectiveNetwork),
    approved: bool,
    registered_from: Option<IpAddr>,
    patience: Duration,
}

impl Scan {
    /// In a cluster that lets everything be asked.
    fn new(off: Option<Defence>) -> Self {
        Self {
            pace: Arc::new(Mutex::new(Pace::new(MINUTE))),
            off,
            network: (ClusterNetwork::Dynamic, EffectiveNetwork::Private),
            approved: true,
            registered_from: None,
            patience: Duration::from_millis(200),
        }
    }

    async fn ask(&self, at: SocketAddr) -> Outcome {
        let me = Me {
            key: SigningKey::from_bytes(&[1; 32]),
            http: "127.0.0.9:8080".parse().unwrap(),
            external_ip: None,
            own_addrs: vec![],
        };
        let row = SeedRow {
            addr: format!("s@{at}").parse().unwrap(),
            is_public: false,
            created_ms: 0,
            origin: SeedOrigin::Operator,
            approved: self.approved,
            declared: None,
            public_key: None,
            status: SeedStatus::Unverified,
            reason: None,
            verified_ms: None,
            registered_from: self.registered_from,
            issued_ms: None,
        };
        let attempt = Attempt {
            row,
            network: self.network,
            number: 0,
            patience: self.patience,
            me: Arc::new(me),
            pace: Arc::clone(&self.pace),
            defences: Defences { off: self.off },
        };
        attempt.run().await
    }
}

fn code(outcome: &Outcome) -> Option<Code> {
    match outcome {
        Outcome::Checked(Checked::Failed { code, .. } | Checked::NotAsked(code) | Checked::Refused(code)) => {
            Some(*code)
        }
        Outcome::Checked(Checked::Proven { .. }) | Outcome::Later(_) => None,
    }
}

#[tokio::test]
async fn a_list_of_ports_is_asked_one_a_minute() {
    let reached = async |off| {
        let scan = Scan::new(off);
        let mut count = 0;
        for _ in 0..4 {
            let (listener, at) = victim("127.0.0.1").await;
            scan.ask(at).await;
            count += usize::from(was_reached(&listener).await);
        }
        count
    };
    assert_eq!(reached(Some(Defence::Pace)).await, 4, "the attack works");
    assert_eq!(reached(None).await, 1);
}

#[tokio::test]
async fn private_addresses_are_not_asked_from_a_public_cluster() {
    let reached = async |off, at: &str| {
        let (listener, addr) = victim("127.0.0.1").await;
        let scan = Scan { network: (ClusterNetwork::Dynamic, EffectiveNetwork::Public), ..Scan::new(off) };
        let at: SocketAddr = format!("{at}:{}", addr.port()).parse().unwrap();
        let outcome = scan.ask(at).await;
        (was_reached(&listener).await, code(&outcome))
    };
    let without = reached(Some(Defence::Addresses), "127.0.0.1").await;
    assert_eq!(without, (true, Some(Code::SeedUnreachable)), "the attack works");
    for at in
        ["127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "[64:ff9b::7f00:1]", "10.0.0.1", "169.254.169.254"]
    {
        assert_eq!(reached(None, at).await, (false, Some(Code::SeedAddressRefused)), "{at}");
    }
}

#[tokio::test]
async fn who_named_himself_is_asked_where_he_is() {
    let reached = async |off, from: Option<&str>, approved| {
        let (listener, at) = victim("127.0.0.2").await;
        let registered_from = from.map(|ip| ip.parse().unwrap());
        let scan = Scan { registered_from, approved, ..Scan::new(off) };
        let outcome = scan.ask(at).await;
        (was_reached(&listener).await, code(&outcome))
    };
    let silent = (true, Some(Code::SeedUnreachable));
    let without = reached(Some(Defence::Addresses), Some("127.0.0.1"), false).await;
    assert_eq!(without, silent, "the attack works");
    let not_asked = (false, Some(Code::SeedNotApproved));
    assert_eq!(reached(None, Some("127.0.0.1"), false).await, not_asked);
    assert_eq!(reached(None, None, false).await, not_asked);
    assert_eq!(reached(None, Some("::ffff:127.0.0.2"), false).await, silent);
    assert_eq!(reached(None, Some("127.0.0.1"), true).await, silent);
}

#[tokio::test]
async fn a_closed_port_looks_like_a_silent_one() {
    let asked = async |off, is_open: bool| {
        let (listener, at) = victim("127.0.0.1").await;
        let _open = is_open.then_some(listener);
        let scan = Scan { patience: Duration::from_secs(2), ..Scan::new(off) };
        let started = Instant::now();
        let outcome = scan.ask(at).await;
        (code(&outcome), started.elapsed() >= scan.patience)
    };
    let closed = asked(Some(Defence::Silence), false).await;
    let silent = asked(Some(Defence::Silence), true).await;
    assert_ne!(closed, silent, "the attack works");
    assert_eq!(asked(None, false).await, silent);
    assert_eq!(asked(None, true).await, silent);
}

#[tokio::test]
async fn a_private_cluster_asks_nobody_outside() {
    let scan = Scan { network: (ClusterNetwork::Private, EffectiveNetwork::Private), ..Scan::new(None) };
    let outcome = scan.ask("20.0.0.1:80".parse().unwrap()).await;
    assert_eq!(code(&outcome), Some(Code::PublicSeedInPrivateCluster));
    assert!(
        scan.pace.lock().unwrap().ask(Instant::now(), &"h".parse().unwrap(), [20, 0, 0, 1].into()).is_ok()
    );
}
