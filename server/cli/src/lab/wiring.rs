//! Cables, bridges, addresses and routes between namespaces.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use super::LabError;
use super::namespace::enter;
use super::tools::Tools;

/// The device towards the public network, in every namespace that has one.
pub(super) const WAN: &str = "wan";

/// The device of a host's second uplink.
pub(super) const SECOND_WAN: &str = "wan2";

/// The device towards the LAN, in every router.
pub(super) const LAN: &str = "lan";

/// The bridge that is the public network.
pub(super) const SWITCH_BRIDGE: &str = "public";

/// Every network of the lab is a /24.
const PREFIX_LEN: u8 = 24;

/// How long a new link may take to pass packets. The kernel brings links up in the background, on a busy machine a
/// second or more after `ip` has returned.
const LINK_UP: Duration = Duration::from_secs(20);

/// How often a new link is tried.
const LINK_POLL: Duration = Duration::from_millis(10);

/// One end of a cable.
pub(super) struct Plug<'a> {
    pub(super) namespace: &'a str,
    pub(super) device: &'a str,
}

/// Where a namespace sends what it has no route for.
#[derive(Clone, Copy)]
pub(super) enum DefaultRoute {
    /// The next router towards the public network.
    Via(Ipv4Addr),
    /// Nowhere: the world ends at the public network, and what leaves it must not come back another way.
    Blackhole,
}

/// Lays a cable; the near end becomes a port of `bridge`, if one is named.
///
/// Links get no IPv6 address of their own making: its duplicate detection and router solicitations would be traffic
/// that no test asked for.
pub(super) fn connect(tools: &Tools, near: &Plug, far: &Plug, bridge: Option<&str>) -> Result<(), LabError> {
    let cable = format!(
        "link add {} netns {} type veth peer name {} netns {}\n",
        near.device, near.namespace, far.device, far.namespace
    );
    tools.ip(None, &cable)?;
    let master = bridge.map(|bridge| format!("master {bridge}")).unwrap_or_default();
    tools.ip(Some(near.namespace), &format!("link set {} addrgenmode none up {master}\n", near.device))?;
    tools.ip(Some(far.namespace), &format!("link set {} addrgenmode none up\n", far.device))
}

/// Adds a bridge that forwards at once, without the fifteen seconds of learning that spanning tree prescribes.
pub(super) fn add_bridge(tools: &Tools, namespace: &str, bridge: &str) -> Result<(), LabError> {
    // Otherwise bridged packets pass the router's rules a second time, as if it had routed them.
    write_sysctl(namespace, "bridge/bridge-nf-call-iptables", "0")?;
    let batch = format!(
        "link add {bridge} type bridge stp_state 0 forward_delay 0\nlink set {bridge} addrgenmode none up\n"
    );
    tools.ip(Some(namespace), &batch)
}

pub(super) fn add_addr(tools: &Tools, namespace: &str, device: &str, addr: Ipv4Addr) -> Result<(), LabError> {
    tools.ip(Some(namespace), &format!("addr add {addr}/{PREFIX_LEN} dev {device}\n"))
}

/// Gives the `wan` device its addresses and the namespace its default route.
pub(super) fn configure(
    tools: &Tools,
    namespace: &str,
    addrs: &[Ipv4Addr],
    route: DefaultRoute,
) -> Result<(), LabError> {
    let mut batch = String::new();
    for addr in addrs {
        let _ = writeln!(batch, "addr add {addr}/{PREFIX_LEN} dev {WAN}");
    }
    let _ = match route {
        DefaultRoute::Via(router) => writeln!(batch, "route add default via {router}"),
        DefaultRoute::Blackhole => writeln!(batch, "route add blackhole default"),
    };
    tools.ip(Some(namespace), &batch)
}

/// Waits until packets pass from `far` to `near`, whose address on their common network is `near_addr`.
///
/// The packets are broadcast because they must not need ARP: a request that is lost while the link comes up is repeated
/// only a second later, and that is the very delay which must not be met afterwards.
pub(super) fn await_link(far: &str, near: &str, near_addr: Ipv4Addr) -> Result<(), LabError> {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let (sender, receiver) = (enter(far, bind)?, enter(near, bind)?);
    let [a, b, c, _] = near_addr.octets();
    let passes = || {
        let (sender, receiver) = (sender?, receiver?);
        sender.set_broadcast(true)?;
        receiver.set_read_timeout(Some(LINK_POLL))?;
        let target = (Ipv4Addr::new(a, b, c, u8::MAX), receiver.local_addr()?.port());
        let deadline = Instant::now() + LINK_UP;
        while Instant::now() < deadline {
            // A link that is not up may refuse the packet, which only means: not yet.
            let _ = sender.send_to(b"up?", target);
            if receiver.recv(&mut [0; 3]).is_ok() {
                return Ok(());
            }
        }
        Err(io::Error::new(ErrorKind::TimedOut, "it passes no packets"))
    };
    passes().map_err(|error| LabError::namespace(far, &format!("its link to {near}"), &error))
}

/// Loads the rules first and forwards only then, so that no packet ever passes untranslated.
pub(super) fn make_router(tools: &Tools, namespace: &str, rules: &str) -> Result<(), LabError> {
    tools.nft(namespace, rules)?;
    write_sysctl(namespace, "ipv4/ip_forward", "1")
}

/// Sets `net/<key>` of a namespace. A key that this kernel does not have names a feature that is not loaded, so there
/// is nothing to switch.
fn write_sysctl(namespace: &str, key: &str, value: &str) -> Result<(), LabError> {
    let path = Path::new("/proc/sys/net").join(key);
    let written = enter(namespace, || if path.exists() { std::fs::write(&path, value) } else { Ok(()) })?;
    written.map_err(|error| {
        LabError::namespace(namespace, &format!("writing {value} to {}", path.display()), &error)
    })
}
