//! A flood from thousands of sources, none of which is anybody; and what good clients notice of it.
//!
//! The sources are addresses of this machine, so what the server sends back to them arrives here and is weighed.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use meetpoint_turn::Writer;
use meetpoint_turn::message::{BINDING, Class, HEADER_LEN, TransactionId};
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use std::io::IoSlice;

use super::{Figure, Settings, Sources, Target, figure, trips};
use crate::bench::BenchError;
use crate::bench::engine::{Pace, Tally};
use crate::bench::exchange::payload;
use crate::bench::turn::{Challenge, Identity, allocate, challenge};
use crate::bench::turn_taking::{Standing, stand};
use crate::bench::wire::{MAX_DATAGRAM_LEN, open};

pub(super) const SLOWER: &str = "good clients' p99, flood / quiet";

/// Round trips a second of the good clients: what a few calls need.
const GOOD_PER_S: f64 = 4000.0;
/// How often a batch is sent.
const TICK: Duration = Duration::from_micros(100);
/// Kinds of packets, sent in turn.
const KINDS: usize = 4;
/// The kind whose answers cannot be told from each other, because there must be none.
const GARBAGE: usize = 3;
/// In each transaction id of the flood, behind the kind.
const MARK: u8 = 0xF1;
/// IPv4 and UDP headers.
const HEADERS_LEN: u64 = 28;
/// Length of a MESSAGE-INTEGRITY value, which ends a request (RFC 8489, section 14.5).
const TAG_LEN: usize = 20;

/// Packets and bytes of one kind, there and back.
#[derive(Debug, Clone, Copy, Default)]
struct Weighed {
    sent: u64,
    sent_bytes: u64,
    back: u64,
    back_bytes: u64,
}

impl Weighed {
    /// Length of an answer by that of its question.
    fn each(&self) -> f64 {
        let [there, back] = [(self.sent_bytes, self.sent), (self.back_bytes, self.back)]
            .map(|(b, n)| b as f64 / n.max(1) as f64);
        back / there
    }

    /// The same with the headers that everybody on the way has to carry.
    fn each_on_wire(&self) -> f64 {
        let mean = |bytes: u64, count: u64| bytes as f64 / count.max(1) as f64 + HEADERS_LEN as f64;
        if self.back == 0 { 0.0 } else { mean(self.back_bytes, self.back) / mean(self.sent_bytes, self.sent) }
    }
}

pub(super) fn measure(target: &Target, settings: &Settings) -> Result<Vec<Figure>, BenchError> {
    let meter = target.meter()?;
    let missing = || BenchError::Unexpected("give --sources: addresses to send the flood from".to_owned());
    let sources = target.sources.ok_or_else(missing)?;
    let packets = Duration::from_secs_f64(settings.flood_packets as f64 / f64::from(settings.flood_per_s));
    let pace = Pace::Open { per_s: GOOD_PER_S };
    let good = || trips::through_channels(target, settings, pace, settings.span);
    // A nonce that was good for somebody else is the best that a spoofer has.
    let templates = templates(challenge(&target.socket(target.local)?)?);
    let flood = |server| Flood::new(server, sources, templates.clone());

    // Sending the flood costs this machine something too, so the quiet time has one as well, which nobody receives.
    let quiet = match target.nobody {
        Some(nobody) => beside(|| flood(nobody), settings.flood_per_s, Duration::ZERO, good)?.0,
        None => before_all(good)?,
    };
    let memory = || Ok::<_, BenchError>([meter.resident_bytes()? as f64, meter.anonymous_bytes()? as f64]);
    let before = memory()?;
    let begun = Instant::now();
    let (under_flood, weighed) = beside(|| flood(target.server), settings.flood_per_s, packets, good)?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = memory()?;
    let growth = [after[0] - before[0], after[1] - before[1]];
    Ok(figures(&quiet, &under_flood, &weighed, growth, seconds, sources))
}

/// Does something while a flood runs, which lasts at least that long.
fn beside<T>(
    flood: impl FnOnce() -> Result<Flood, BenchError> + Send,
    per_s: u32,
    at_least: Duration,
    work: impl FnOnce() -> Result<T, BenchError>,
) -> Result<(T, [Weighed; KINDS]), BenchError> {
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            stand(Standing::Last)?;
            flood()?.run(per_s, &over)
        });
        let done = before_all(work);
        thread::sleep(at_least.saturating_sub(begun.elapsed()));
        over.store(true, Ordering::Relaxed);
        let weighed = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((done?, weighed?))
    })
}

/// Does something on a thread that goes before all others.
fn before_all<T>(work: impl FnOnce() -> Result<T, BenchError>) -> Result<T, BenchError> {
    stand(Standing::First)?;
    let done = work();
    stand(Standing::Usual)?;
    done
}

fn figures(
    quiet: &Tally,
    under_flood: &Tally,
    weighed: &[Weighed; KINDS],
    [resident, anonymous]: [f64; 2],
    seconds: f64,
    sources: Sources,
) -> Vec<Figure> {
    let sum = |of: fn(&Weighed) -> u64| weighed.iter().map(of).sum::<u64>() as f64;
    let (sent, back) = (sum(|kind| kind.sent), sum(|kind| kind.back));
    let bytes = [sum(|kind| kind.sent_bytes), sum(|kind| kind.back_bytes)];
    let micros = |tally: &Tally| tally.quantile(0.99).as_secs_f64() * 1e6;
    let [binding, unauthorized, forged, garbage] = weighed;
    vec![
        figure("packets/s", sent / seconds, 0),
        figure("packets", sent, 0),
        figure("sources", f64::from(sources.count), 0),
        figure("resident growth KiB", resident / 1024.0, 0),
        figure("anonymous of it KiB", anonymous / 1024.0, 0),
        figure("answered %", 100.0 * back / sent, 1),
        figure("bytes back / sent", bytes[1] / bytes[0], 2),
        figure("Binding answer / question", binding.each(), 2),
        figure("401 answer / question", unauthorized.each(), 2),
        figure("401 on the wire", unauthorized.each_on_wire(), 2),
        figure("401/s", unauthorized.back as f64 / seconds, 0),
        figure("forged answer / question", forged.each(), 2),
        figure("answers to garbage", garbage.back as f64, 0),
        figure("quiet p99 us", micros(quiet), 0),
        figure("p99 us under flood", micros(under_flood), 0),
        figure(SLOWER, micros(under_flood) / micros(quiet), 2),
        figure("good lost", (under_flood.lost + under_flood.unasked) as f64, 0),
        figure(trips::WRONG, under_flood.wrong as f64, 0),
    ]
}

/// Sends from all sources, through one socket that takes answers for all of them.
struct Flood {
    socket: UdpSocket,
    server: SockaddrIn,
    sources: Sources,
    templates: [Vec<u8>; KINDS],
    number: u64,
    weighed: [Weighed; KINDS],
}

impl Flood {
    fn new(server: SocketAddrV4, sources: Sources, templates: [Vec<u8>; KINDS]) -> Result<Self, BenchError> {
        Ok(Self {
            socket: open(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?,
            server: server.into(),
            sources,
            templates,
            number: 0,
            weighed: [Weighed::default(); KINDS],
        })
    }

    fn run(mut self, per_s: u32, over: &AtomicBool) -> Result<[Weighed; KINDS], BenchError> {
        let begun = Instant::now();
        while !over.load(Ordering::Relaxed) {
            let due = (begun.elapsed().as_secs_f64() * f64::from(per_s)) as u64;
            while self.number < due {
                self.send()?;
            }
            self.receive()?;
            thread::sleep(TICK);
        }
        // What is still on its way counts as well.
        thread::sleep(100 * TICK);
        self.receive()?;
        Ok(self.weighed)
    }

    fn send(&mut self) -> Result<(), BenchError> {
        let kind = (self.number % KINDS as u64) as usize;
        let datagram = &mut self.templates[kind];
        stamp(datagram, kind, self.number);
        let source = self.sources.nth((self.number / KINDS as u64) as u32);
        self.number += 1;
        let info = in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: source.to_bits().to_be() },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let slices = [IoSlice::new(datagram)];
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        match sendmsg(self.socket.as_raw_fd(), &slices, &control, MsgFlags::MSG_DONTWAIT, Some(&self.server))
        {
            Ok(len) => {
                self.weighed[kind].sent += 1;
                self.weighed[kind].sent_bytes += len as u64;
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ECONNREFUSED) => Ok(()),
            Err(errno) => Err(BenchError::os("sending from a source")(errno)),
        }
    }

    fn receive(&mut self) -> Result<(), BenchError> {
        let mut buffer = [0; MAX_DATAGRAM_LEN];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            let kind = match buffer.get(8..10) {
                Some(&[kind, MARK]) if usize::from(kind) < GARBAGE && len >= HEADER_LEN => usize::from(kind),
                _ => GARBAGE,
            };
            self.weighed[kind].back += 1;
            self.weighed[kind].back_bytes += len as u64;
        }
        Ok(())
    }
}

/// One packet of each kind, to be stamped: Binding, Allocate, Allocate with a forged integrity, garbage.
fn templates(challenge: Challenge) -> [Vec<u8>; KINDS] {
    let id = TransactionId([0; 12]);
    let mut forged = allocate(id);
    let nobody = ("4102444800:nobody".to_owned(), "guess".to_owned());
    Identity::new(nobody, challenge).sign(&mut forged);
    let binding = Writer::new(Class::Request, BINDING, id).finish();
    [binding.to_vec(), allocate(id).finish().to_vec(), forged.finish().to_vec(), Vec::new()]
}

/// Makes a packet one of its own.
fn stamp(datagram: &mut Vec<u8>, kind: usize, number: u64) {
    if kind == GARBAGE {
        datagram.clear();
        // Lengths from 8 to 127: now nothing that is known, now the beginning of something.
        payload(number, 8 + (number / KINDS as u64 % 120) as usize, datagram);
        // All values of the first byte, so that each protocol's parser gets some.
        datagram[0] = (number / KINDS as u64) as u8;
        return;
    }
    datagram[8..10].copy_from_slice(&[kind as u8, MARK]);
    datagram[12..HEADER_LEN].copy_from_slice(&number.to_be_bytes());
    if let Some(tag) = datagram.len().checked_sub(TAG_LEN).filter(|at| *at > 2 * HEADER_LEN) {
        datagram[tag..tag + 8].copy_from_slice(&number.to_be_bytes());
    }
}
