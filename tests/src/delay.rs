//! A lab's public network, made as slow as a real one.
//!
//! The kernels that the lab runs on have no `netem`. So a thread takes the place of the switch's bridge: it has a
//! packet socket on each port, learns who is where as a switch does, and passes each frame on after a fixed time. A
//! round trip between any two machines of the public network, and so between any node and the server, takes twice that;
//! within a LAN nothing changes. Only the questions for a neighbor's address go through at once.
//!
//! Frames are passed on in the order in which they came. Nothing is lost on purpose.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meetpoint_cli::lab::{Host, Lab};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvmsg, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeSpec;

/// Room at each port for a few thousand frames that the thread has not come to yet.
const BUFFER_BYTES: usize = 8 << 20;
/// A frame of the usual MTU, with its header and a tag. Longer ones cannot come: no machine here leaves its work to
/// the hardware.
const FRAME_BYTES: usize = 2048;
/// How soon the thread notices that it is to end.
const IDLE: Duration = Duration::from_millis(50);
/// `PACKET_OUTGOING` of packet(7): the thread's own frame.
const OUTGOING: u8 = 4;

/// The program that tells a device to finish its frames itself, and the Debian package that holds it.
pub const TOOL: &str = "ethtool";

/// Where a frame says what it carries.
const ETHERTYPE: std::ops::Range<usize> = 12..14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xDD];
/// Where IPv6 says what follows, and where that says what it is (RFC 8200, section 3).
const NEXT_HEADER: usize = 14 + 6;
const ICMPV6_TYPE: usize = 14 + 40;
const ICMPV6: u8 = 58;
/// Neighbor solicitation and advertisement (RFC 4861, sections 4.3 and 4.4).
const NEIGHBORS: [u8; 2] = [135, 136];

type Mac = [u8; 6];

/// In place of a lab's switch until it is dropped; then the public network is cut.
pub struct SlowSwitch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SlowSwitch {
    /// Slows down the public network between the machines that are there by now.
    ///
    /// # Errors
    /// What could not be done, in words.
    pub fn replace(lab: &Lab, one_way: Duration) -> Result<Self, String> {
        for (machine, device) in lab.public_machines() {
            // What a virtual device leaves to the hardware, a packet socket would see unfinished: checksums
            // that are still missing, and segments that are still one.
            run(machine.command(TOOL).args(["-K", device, "tx", "off"]))?;
        }
        let switch = lab.switch();
        let ports = switch.run_in(open_ports).map_err(|error| error.to_string())?.map_err(failed)?;
        for (name, _) in &ports {
            run(switch.command("ip").args(["link", "set", name, "nomaster"]))?;
        }
        let sockets = ports.into_iter().map(|(_, socket)| socket).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let forwarder = Forwarder::new(sockets, one_way, Arc::clone(&stop));
        let thread = std::thread::spawn(move || forwarder.run());
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for SlowSwitch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The shortest of several round trips to the server, as `ping` has it.
///
/// # Errors
/// What `ping` said, if it got no answer.
pub fn round_trip(from: &Host, to: IpAddr) -> Result<Duration, String> {
    let output = from.command("ping").args(["-n", "-q", "-c", "5", "-i", "0.05", &to.to_string()]).output();
    let text = String::from_utf8_lossy(&output.map_err(|error| error.to_string())?.stdout).into_owned();
    let least =
        text.rsplit_once("= ").and_then(|(_, figures)| figures.split('/').next()?.parse::<f64>().ok());
    least.map(|ms| Duration::from_secs_f64(ms / 1e3)).ok_or(text)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{command:?}` failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn failed(errno: Errno) -> String {
    format!("the slow switch: {errno}")
}

/// A socket on each port of the bridge, with the port's name.
fn open_ports() -> nix::Result<Vec<(String, OwnedFd)>> {
    let mut ports = Vec::new();
    for device in getifaddrs()? {
        // The bridge itself is a device too, and every machine has a loopback.
        let is_port = device.interface_name != "lo" && device.interface_name != "public";
        let Some(link) = device.address.as_ref().and_then(|address| address.as_link_addr()) else { continue };
        if is_port {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
            bind(socket.as_raw_fd(), link)?;
            ports.push((device.interface_name.clone(), socket));
        }
    }
    Ok(ports)
}

/// A frame on its way.
struct Frame {
    due: Instant,
    from: usize,
    bytes: Vec<u8>,
}

struct Forwarder {
    ports: Vec<OwnedFd>,
    one_way: Duration,
    /// The port behind which each address was seen.
    learnt: BTreeMap<Mac, usize>,
    /// In the order in which they came, which is that in which they are due.
    waiting: VecDeque<Frame>,
    stop: Arc<AtomicBool>,
}

impl Forwarder {
    fn new(ports: Vec<OwnedFd>, one_way: Duration, stop: Arc<AtomicBool>) -> Self {
        Self { ports, one_way, learnt: BTreeMap::new(), waiting: VecDeque::new(), stop }
    }

    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.wait();
            for port in 0..self.ports.len() {
                self.receive(port);
            }
            self.send_due();
        }
    }

    /// Until a frame comes or is due.
    fn wait(&self) {
        let now = Instant::now();
        let next = self.waiting.front().map_or(IDLE, |frame| frame.due.saturating_duration_since(now));
        let mut fds: Vec<PollFd<'_>> =
            self.ports.iter().map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN)).collect();
        // Whatever it says, the ports are looked at, and they are not waited for.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(next.min(IDLE))), None);
    }

    fn receive(&mut self, port: usize) {
        let mut bytes = [0; FRAME_BYTES];
        loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let fd = self.ports[port].as_raw_fd();
            let Ok(received) = recvmsg::<LinkAddr>(fd, &mut slices, None, MsgFlags::MSG_DONTWAIT) else {
                return;
            };
            let is_own = received.address.is_some_and(|link| link.pkttype() == OUTGOING);
            let len = received.bytes.min(FRAME_BYTES);
            if is_own {
                continue;
            }
            let due = Instant::now() + self.one_way;
            let frame = Frame { due, from: port, bytes: bytes[..len].to_vec() };
            // Who has which address is a question of this lab, and none that a packet on the internet waits for.
            if asks_for_an_address(&frame.bytes) {
                self.forward(&frame);
            } else {
                self.waiting.push_back(frame);
            }
        }
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        while self.waiting.front().is_some_and(|frame| frame.due <= now) {
            let Some(frame) = self.waiting.pop_front() else { return };
            self.forward(&frame);
        }
    }

    fn forward(&mut self, Frame { from, bytes, .. }: &Frame) {
        let (Some(to), Some(source)) = (mac(bytes, 0), mac(bytes, 6)) else { return };
        self.learnt.insert(source, *from);
        match self.learnt.get(&to) {
            Some(port) if port != from => self.send(*port, bytes),
            Some(_) => {}
            None => (0..self.ports.len()).filter(|port| port != from).for_each(|port| self.send(port, bytes)),
        }
    }

    fn send(&self, port: usize, bytes: &[u8]) {
        // A device that takes no more has lost the frame, as a switch would have.
        let _ = send(self.ports[port].as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT);
    }
}

/// ARP, or IPv6's neighbor discovery.
fn asks_for_an_address(frame: &[u8]) -> bool {
    match frame.get(ETHERTYPE) {
        Some(kind) if kind == ARP => true,
        Some(kind) if kind == IPV6 => {
            frame.get(NEXT_HEADER) == Some(&ICMPV6)
                && frame.get(ICMPV6_TYPE).is_some_and(|kind| NEIGHBORS.contains(kind))
        }
        _ => false,
    }
}

fn mac(frame: &[u8], at: usize) -> Option<Mac> {
    frame.get(at..at + 6)?.try_into().ok()
}
