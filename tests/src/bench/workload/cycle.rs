//! The whole life of an allocation, again and again: challenge, success, release.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use meetpoint_turn::message::{Class, Message};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Figure, Settings, Target, trips};
use crate::bench::BenchError;
use crate::bench::engine::Tally;
use crate::bench::exchange::transaction;
use crate::bench::meter::Stopwatch;
use crate::bench::turn::{Challenge, Identity, allocate, release};
use crate::bench::wire::MAX_DATAGRAM_LEN;

const SOCKETS: usize = 8;
/// A request that was not answered by then counts as lost, and is sent again.
const RESEND_AFTER: Duration = Duration::from_millis(250);
/// How long is waited for an answer before the lost ones are looked for.
const WAIT_MS: u8 = 25;
/// SOFTWARE (RFC 8489, section 14.14), in the request without credentials. It makes it longer than its answer, so that
/// no limit on amplification has a say in what is measured.
const SOFTWARE: u16 = 0x8022;
const SOFTWARE_LEN: usize = 120;
/// Requests are numbered from other beginnings on each socket.
const LANE_SHIFT: u32 = 32;

/// What is asked next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Challenge,
    Allocate,
    Release,
}

/// A client, which is a new one in each cycle: it has a socket of its own, as real ones have, and a server that still
/// remembers the last one cannot mistake it for that.
struct Lane<'a> {
    target: &'a Target,
    socket: UdpSocket,
    credentials: (String, String),
    identity: Option<Identity>,
    step: Step,
    number: u64,
    begun: Instant,
    asked_at: Instant,
}

impl<'a> Lane<'a> {
    fn new(target: &'a Target, index: usize) -> Result<Self, BenchError> {
        let now = Instant::now();
        Ok(Self {
            target,
            socket: target.socket(target.local)?,
            credentials: target.credentials()?.of(index),
            identity: None,
            step: Step::Challenge,
            number: (index as u64) << LANE_SHIFT,
            begun: now,
            asked_at: now,
        })
    }

    /// Sends the request of the current step.
    fn ask(&mut self, now: Instant) -> Result<(), BenchError> {
        let id = transaction(self.number);
        let mut writer = if self.step == Step::Release { release(id) } else { allocate(id) };
        match &self.identity {
            Some(identity) if self.step != Step::Challenge => identity.sign(&mut writer),
            _ => writer.attribute(SOFTWARE, &[b'x'; SOFTWARE_LEN]),
        }
        self.asked_at = now;
        // What cannot be sent is sent again later, like what is lost.
        let _ = self.socket.send(&writer.finish());
        Ok(())
    }

    fn receive(&mut self, tally: &mut Tally) -> Result<(), BenchError> {
        let mut buffer = [0; MAX_DATAGRAM_LEN];
        let Ok(len) = self.socket.recv(&mut buffer) else { return Ok(()) };
        let now = Instant::now();
        let Ok(message) = Message::parse(&buffer[..len]) else {
            tally.wrong += 1;
            return Ok(());
        };
        if message.transaction_id() != transaction(self.number) {
            tally.stray += 1;
            return Ok(());
        }
        self.take(&message, now, tally);
        self.number += 1;
        if self.step == Step::Challenge {
            // One address has not enough ports for all the clients of a second.
            let local =
                self.target.sources.map_or(self.target.local, |sources| sources.nth(self.number as u32));
            self.socket = self.target.socket(local)?;
        }
        self.ask(now)
    }

    /// Goes to the next step, or, after an answer that is wrong, to the one that makes good.
    fn take(&mut self, message: &Message<'_>, now: Instant, tally: &mut Tally) {
        let is_good = message.class() == Class::Success
            && self.identity.as_ref().is_some_and(|identity| identity.verifies(message));
        self.step = match (self.step, Challenge::read(message)) {
            (Step::Challenge, Some(challenge)) => {
                match &mut self.identity {
                    Some(identity) => identity.renew(challenge),
                    None => self.identity = Some(Identity::new(self.credentials.clone(), challenge)),
                }
                Step::Allocate
            }
            (Step::Allocate, _) if is_good => Step::Release,
            (Step::Release, _) if is_good => {
                tally.latency.record(now - self.begun);
                self.begun = now;
                Step::Challenge
            }
            (failed, _) => {
                tally.wrong += 1;
                if failed == Step::Allocate { Step::Release } else { Step::Challenge }
            }
        };
    }
}

pub(super) fn measure(target: &Target, settings: &Settings) -> Result<Vec<Figure>, BenchError> {
    let mut lanes = (0..SOCKETS).map(|index| Lane::new(target, index)).collect::<Result<Vec<_>, _>>()?;
    for lane in &mut lanes {
        lane.ask(Instant::now())?;
    }
    turn(&mut lanes, settings.span.warm_up, &mut Tally::default())?;
    let stopwatch = Stopwatch::start(target.meter.as_ref())?;
    let mut tally = Tally::default();
    turn(&mut lanes, settings.span.measured, &mut tally)?;
    tally.lap = stopwatch.stop()?;
    finish(lanes)?;
    trips::report(&tally, target)
}

/// Releases what is allocated at the end. What the server does not answer is left to its own lifetime.
fn finish(mut lanes: Vec<Lane<'_>>) -> Result<(), BenchError> {
    let end = Instant::now() + RESEND_AFTER;
    while !lanes.is_empty() && Instant::now() < end {
        receive(&mut lanes, &mut Tally::default())?;
        lanes.retain(|lane| lane.step != Step::Challenge);
    }
    Ok(())
}

fn turn(lanes: &mut [Lane<'_>], duration: Duration, tally: &mut Tally) -> Result<(), BenchError> {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        receive(lanes, tally)?;
    }
    Ok(())
}

/// Waits for answers, takes one for each lane that has any, and repeats what stayed without.
fn receive(lanes: &mut [Lane<'_>], tally: &mut Tally) -> Result<(), BenchError> {
    let mut fds: Vec<_> =
        lanes.iter().map(|lane| PollFd::new(lane.socket.as_fd(), PollFlags::POLLIN)).collect();
    match poll(&mut fds, PollTimeout::from(WAIT_MS)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(BenchError::os("waiting")(errno)),
    }
    let ready: Vec<_> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
    for (lane, ready) in lanes.iter_mut().zip(ready) {
        if ready {
            lane.receive(tally)?;
        } else if lane.asked_at.elapsed() > RESEND_AFTER {
            tally.lost += 1;
            lane.ask(Instant::now())?;
        }
    }
    Ok(())
}
