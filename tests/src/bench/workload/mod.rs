//! What is measured.

mod cycle;
mod flood;
mod idle;
mod trips;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use clap::ValueEnum;

use super::BenchError;
use super::engine::Span;
use super::meter::Meter;
use super::turn::Credentials;
use super::wire::{Wire, open};

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Binding requests: 4 sockets, 32 under way on each.
    Binding,
    /// 120 bytes to a peer through a channel, and back: 8 clients with a peer each, 16 under way for each.
    Channel,
    /// The same by Send and Data indications.
    Send,
    /// The whole life of an allocation: challenge, success, release. 8 sockets, one cycle at a time on each.
    Cycle,
    /// Memory of allocations that do nothing, each with a permission and a channel.
    Idle,
    /// Packets of spoofed sources, and what good clients notice of them.
    Flood,
    /// Latency through a channel at a steady rate: half of what the closed loop reached.
    Latency,
}

impl Workload {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 7] =
        [Self::Binding, Self::Channel, Self::Send, Self::Cycle, Self::Idle, Self::Flood, Self::Latency];

    /// In a few words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Binding => "Binding, 4 sockets x window 32",
            Self::Channel => "Relay by ChannelData, 120 bytes, 8 clients x window 16, a peer each",
            Self::Send => "Relay by Send and Data indications, 120 bytes, 8 clients x window 16, a peer each",
            Self::Cycle => "Allocation cycle: 401, success, Refresh 0; 8 sockets",
            Self::Idle => "Idle allocations, each with a permission and a channel",
            Self::Flood => "Flood from spoofed sources: Binding, Allocate, forged integrity, garbage",
            Self::Latency => {
                "Latency by ChannelData, 120 bytes, at half of the first server's closed-loop rate"
            }
        }
    }

    /// Whether something that only sends back what it gets can do it.
    #[must_use]
    pub const fn suits_an_echo(self) -> bool {
        matches!(self, Self::Binding | Self::Channel)
    }
}

/// Addresses of this machine to send from, so that a server sees many sources.
#[derive(Debug, Clone, Copy)]
pub struct Sources {
    /// The first.
    pub first: Ipv4Addr,
    /// How many.
    pub count: u32,
}

impl Sources {
    /// The `index`-th, beginning anew behind the last.
    #[must_use]
    pub const fn nth(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() + index % self.count)
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens.
    pub server: SocketAddrV4,
    /// How clients are let in; nothing if it is a bare echo.
    pub credentials: Option<Credentials>,
    /// Its process, if it runs on this machine.
    pub meter: Option<Meter>,
    /// The address that clients send from.
    pub local: Ipv4Addr,
    /// The address that peers have. Not one of the server's.
    pub peer: Ipv4Addr,
    /// Further addresses that clients send from.
    pub sources: Option<Sources>,
    /// Where packets end on the server's machine without being anybody's.
    pub nobody: Option<SocketAddrV4>,
}

impl Target {
    /// A connected socket of a new client.
    pub(super) fn socket(&self, local: Ipv4Addr) -> Result<UdpSocket, BenchError> {
        let socket = open(SocketAddrV4::new(local, 0))?;
        socket.connect(self.server).map_err(BenchError::io(format!("connecting to {}", self.server)))?;
        Ok(socket)
    }

    fn wires(&self, count: usize) -> Result<Vec<Wire>, BenchError> {
        (0..count).map(|_| self.socket(self.local).map(Wire::new)).collect()
    }

    fn credentials(&self) -> Result<&Credentials, BenchError> {
        let missing = || BenchError::Unexpected("give --secret, or --user and --password".to_owned());
        self.credentials.as_ref().ok_or_else(missing)
    }

    fn meter(&self) -> Result<&Meter, BenchError> {
        let missing = || BenchError::Unexpected("give --pid: memory is read from the process".to_owned());
        self.meter.as_ref().ok_or_else(missing)
    }
}

/// How it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// For how long.
    pub span: Span,
    /// [`Workload::Latency`]: round trips a second. Without it, half of what a closed loop reaches first.
    pub per_s: Option<f64>,
    /// [`Workload::Idle`]: how many.
    pub idle: u32,
    /// [`Workload::Idle`]: how long a server may take to give memory back.
    pub settle: Duration,
    /// [`Workload::Flood`]: packets a second.
    pub flood_per_s: u32,
    /// [`Workload::Flood`]: packets in all, if that takes longer than `span`.
    pub flood_packets: u64,
    /// Peers change a bit of what they send back: to see that it is noticed.
    pub tamper: bool,
}

/// One measured number.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// How many digits behind the point mean something.
    pub decimals: usize,
}

pub(super) const fn figure(name: &'static str, value: f64, decimals: usize) -> Figure {
    Figure { name, value, decimals }
}

/// The figure by which servers are compared.
#[must_use]
pub const fn key_figure(workload: Workload) -> &'static str {
    match workload {
        Workload::Binding | Workload::Channel | Workload::Send | Workload::Cycle => trips::CPU,
        Workload::Idle => idle::EACH,
        Workload::Flood => flood::SLOWER,
        Workload::Latency => trips::P99,
    }
}

/// Measures once. The first figure of a workload of round trips is how many there were in a second.
///
/// # Errors
/// [`BenchError`]; nothing was measured.
pub fn measure(workload: Workload, target: &Target, settings: &Settings) -> Result<Vec<Figure>, BenchError> {
    match workload {
        Workload::Binding => trips::binding(target, settings),
        Workload::Channel => trips::channel(target, settings),
        Workload::Send => trips::indication(target, settings),
        Workload::Latency => trips::latency(target, settings),
        Workload::Cycle => cycle::measure(target, settings),
        Workload::Idle => idle::measure(target, settings),
        Workload::Flood => flood::measure(target, settings),
    }
}
