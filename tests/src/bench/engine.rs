//! Asks, waits for answers, and counts.
//!
//! One thread drives all clients of a workload, and the peers that echo what is relayed to them. In a closed loop each
//! client has a fixed number of questions under way and asks the next one when an answer comes: that measures cost. In
//! an open loop questions are asked on a schedule, whatever the server does, and a latency counts from the moment the
//! question was due: a server that stalls cannot make the clients wait with asking, and so look better than it is.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::BenchError;
use super::exchange::{Answer, Exchange};
use super::histogram::Histogram;
use super::meter::{Lap, Meter, Stopwatch};
use super::wire::Wire;

/// A question that was not answered by then is lost, and asked anew under another number.
pub const LOST_AFTER: Duration = Duration::from_millis(250);
/// How often it is looked for lost ones.
const SWEEP: Duration = Duration::from_millis(25);
/// Questions that one client may have under way in an open loop: a quarter of a second at 16,000 a second.
const OPEN_WINDOW: u16 = 4096;
/// The low bits of a question's number name its slot.
const SLOT_BITS: u32 = 16;

/// When questions are asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Always so many under way for each client.
    Closed {
        /// Questions.
        window: u16,
    },
    /// So many a second, all clients together.
    Open {
        /// Questions a second.
        per_s: f64,
    },
}

/// For how long.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Not counted: caches fill, the server's threads find their places.
    pub warm_up: Duration,
    /// Counted.
    pub measured: Duration,
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Of each right answer.
    pub latency: Histogram,
    /// Questions that had no answer for [`LOST_AFTER`].
    pub lost: u64,
    /// Answers that were not what was asked for.
    pub wrong: u64,
    /// Right answers to no open question: late or doubled.
    pub stray: u64,
    /// Questions of an open loop that were not asked because too many were under way.
    pub unasked: u64,
    /// How long it took, and what it cost the server and the clients.
    pub lap: Lap,
}

impl Tally {
    /// The latency that this share of all questions did not exceed. One that was lost, or could not even be asked, took
    /// at least [`LOST_AFTER`], which is what is then returned.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        self.latency.quantile(share, self.lost + self.unasked).unwrap_or(LOST_AFTER)
    }

    /// Round trips a second.
    #[must_use]
    pub fn per_s(&self) -> f64 {
        self.latency.total() as f64 / self.lap.elapsed.as_secs_f64()
    }
}

struct Slot {
    turn: u64,
    asked_at: Option<Instant>,
}

/// A client with a socket of its own.
struct Lane {
    wire: Wire,
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl Lane {
    fn new(wire: Wire, window: u16) -> Self {
        let slots = (0..window).map(|_| Slot { turn: 0, asked_at: None }).collect();
        Self { wire, slots, free: (0..window).collect() }
    }

    /// Asks one more, if there is a free slot.
    fn ask<E: Exchange>(&mut self, index: usize, exchange: &mut E, at: Instant) -> bool {
        let Some(free) = self.free.pop() else { return false };
        let slot = &mut self.slots[usize::from(free)];
        slot.turn += 1;
        slot.asked_at = Some(at);
        let number = slot.turn << SLOT_BITS | u64::from(free);
        self.wire.push(|bytes| exchange.ask(index, number, bytes));
        true
    }

    /// Receives one batch.
    fn receive<E: Exchange>(
        &mut self,
        index: usize,
        exchange: &E,
        tally: &mut Tally,
    ) -> Result<(), BenchError> {
        let Self { wire, slots, free } = self;
        let mut now = None;
        wire.receive(|datagram| {
            let now = *now.get_or_insert_with(Instant::now);
            match exchange.answer(index, datagram) {
                Answer::Right(number) => match close(slots, free, number) {
                    Some(asked_at) => tally.latency.record(now - asked_at),
                    None => tally.stray += 1,
                },
                Answer::Wrong(number) => {
                    tally.wrong += 1;
                    number.and_then(|number| close(slots, free, number));
                }
            }
        })?;
        Ok(())
    }

    fn sweep(&mut self, now: Instant, tally: &mut Tally) {
        for (slot, index) in self.slots.iter_mut().zip(0..) {
            if slot.asked_at.is_some_and(|asked_at| now.saturating_duration_since(asked_at) > LOST_AFTER) {
                slot.asked_at = None;
                self.free.push(index);
                tally.lost += 1;
            }
        }
    }
}

/// Frees the slot of an open question; returns when it was asked.
fn close(slots: &mut [Slot], free: &mut Vec<u16>, number: u64) -> Option<Instant> {
    let index = number as u16;
    let slot = slots.get_mut(usize::from(index)).filter(|slot| slot.turn == number >> SLOT_BITS)?;
    let asked_at = slot.asked_at.take()?;
    free.push(index);
    Some(asked_at)
}

/// What peers do to the bytes they send back: nothing, but in tests.
pub type Change = fn(&mut [u8]);

/// Clients, peers, and what they talk about.
pub struct Engine<E> {
    exchange: E,
    wires: Vec<Wire>,
    peers: Vec<Wire>,
    change: Change,
}

impl<E: Exchange> Engine<E> {
    /// Takes one connected socket for each client.
    pub fn new(exchange: E, clients: Vec<Wire>) -> Self {
        Self { exchange, wires: clients, peers: vec![], change: |_| {} }
    }

    /// Adds peers, which send back what they get after `change` has seen it.
    #[must_use]
    pub fn with_peers(mut self, peers: Vec<Wire>, change: Change) -> Self {
        self.peers = peers;
        self.change = change;
        self
    }

    /// Runs, and gives what was counted in the measured part.
    ///
    /// # Errors
    /// If a socket broke, or the server's process ended.
    pub fn run(mut self, pace: Pace, span: Span, server: Option<&Meter>) -> Result<Tally, BenchError> {
        let window = match pace {
            Pace::Closed { window } => window,
            Pace::Open { .. } => OPEN_WINDOW,
        };
        let wires = std::mem::take(&mut self.wires);
        let mut lanes: Vec<_> = wires.into_iter().map(|wire| Lane::new(wire, window)).collect();
        let mut schedule = Schedule::new(pace);
        self.turn(&mut lanes, &mut schedule, span.warm_up, &mut Tally::default())?;
        let stopwatch = Stopwatch::start(server)?;
        let mut tally = Tally::default();
        self.turn(&mut lanes, &mut schedule, span.measured, &mut tally)?;
        tally.lap = stopwatch.stop()?;
        Ok(tally)
    }

    /// Goes on for so long.
    fn turn(
        &mut self,
        lanes: &mut [Lane],
        schedule: &mut Schedule,
        duration: Duration,
        tally: &mut Tally,
    ) -> Result<(), BenchError> {
        let mut now = Instant::now();
        let end = now + duration;
        let mut next_sweep = now;
        let mut ready = Vec::new();
        while now < end {
            if now >= next_sweep {
                lanes.iter_mut().for_each(|lane| lane.sweep(now, tally));
                next_sweep = now + SWEEP;
            }
            let next_due = schedule.ask(now, lanes, &mut self.exchange, tally);
            for lane in &mut *lanes {
                lane.wire.flush()?;
            }
            let wake = next_due.map_or(next_sweep, |due| due.min(next_sweep)).min(end);
            wait(lanes, &self.peers, wake, &mut ready)?;
            for (peer, _) in self.peers.iter_mut().zip(&ready[lanes.len()..]).filter(|(_, ready)| **ready) {
                peer.echo(self.change)?;
            }
            for (index, lane) in lanes.iter_mut().enumerate().filter(|(index, _)| ready[*index]) {
                lane.receive(index, &self.exchange, tally)?;
            }
            now = Instant::now();
        }
        Ok(())
    }
}

/// Waits until a socket can be read or the time has come; `ready` then says which of the lanes and peers can.
fn wait(lanes: &[Lane], peers: &[Wire], until: Instant, ready: &mut Vec<bool>) -> Result<(), BenchError> {
    let wires = lanes.iter().map(|lane| &lane.wire).chain(peers);
    let mut fds: Vec<_> = wires.map(|wire| PollFd::new(wire.as_fd(), PollFlags::POLLIN)).collect();
    let timeout = TimeSpec::from_duration(until.saturating_duration_since(Instant::now()));
    match ppoll(&mut fds, Some(timeout), None) {
        Ok(_) => {}
        Err(Errno::EINTR) => {}
        Err(errno) => return Err(BenchError::os("waiting")(errno)),
    }
    ready.clear();
    ready.extend(fds.iter().map(|fd| fd.any().unwrap_or(true)));
    Ok(())
}

/// When the next question is due.
enum Schedule {
    Closed,
    Open { interval: Duration, due: Option<Instant>, lane: usize },
}

impl Schedule {
    fn new(pace: Pace) -> Self {
        match pace {
            Pace::Closed { .. } => Self::Closed,
            Pace::Open { per_s } => {
                Self::Open { interval: Duration::from_secs_f64(1.0 / per_s), due: None, lane: 0 }
            }
        }
    }

    /// Asks what is due, and says when there is more to ask.
    fn ask<E: Exchange>(
        &mut self,
        now: Instant,
        lanes: &mut [Lane],
        exchange: &mut E,
        tally: &mut Tally,
    ) -> Option<Instant> {
        match self {
            Self::Closed => {
                for (index, lane) in lanes.iter_mut().enumerate() {
                    while lane.ask(index, exchange, now) {}
                }
                None
            }
            Self::Open { interval, due, lane } => {
                let due = due.get_or_insert(now);
                while *due <= now {
                    *lane = (*lane + 1) % lanes.len();
                    tally.unasked += u64::from(!lanes[*lane].ask(*lane, exchange, *due));
                    *due += *interval;
                }
                Some(*due)
            }
        }
    }
}
