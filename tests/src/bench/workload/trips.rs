//! Round trips: Binding, and the two ways to a peer and back.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::{Figure, Settings, Target, figure};
use crate::bench::BenchError;
use crate::bench::engine::{Change, Engine, Pace, Span, Tally};
use crate::bench::exchange::{Binding, Channel, Exchange, Indication, MIN_PAYLOAD_LEN, Plain};
use crate::bench::meter::Meter;
use crate::bench::turn::Client;
use crate::bench::wire::{Wire, local_addr, open};

pub(super) const CPU: &str = "server CPU us each";
pub(super) const WRONG: &str = "wrong";
pub(super) const P99: &str = "p99 us";

const BINDING_SOCKETS: usize = 4;
const BINDING_WINDOW: u16 = 32;
/// A Binding request without attributes.
const BINDING_LEN: usize = 20;
const RELAY_CLIENTS: usize = 8;
const RELAY_WINDOW: u16 = 16;
/// About what an audio packet has.
const RELAY_LEN: usize = 120;

pub(super) fn binding(target: &Target, settings: &Settings) -> Result<Vec<Figure>, BenchError> {
    let pace = Pace::Closed { window: BINDING_WINDOW };
    if target.credentials.is_none() {
        let engine = Engine::new(Plain { len: BINDING_LEN }, target.wires(BINDING_SOCKETS)?);
        return report(&engine.run(pace, settings.span, target.meter.as_ref())?, target);
    }
    let sockets: Vec<_> =
        (0..BINDING_SOCKETS).map(|_| target.socket(target.local)).collect::<Result<_, _>>()?;
    let own = sockets.iter().map(local_addr).collect::<Result<_, _>>()?;
    let engine = Engine::new(Binding { own }, sockets.into_iter().map(Wire::new).collect());
    report(&engine.run(pace, settings.span, target.meter.as_ref())?, target)
}

pub(super) fn channel(target: &Target, settings: &Settings) -> Result<Vec<Figure>, BenchError> {
    report(&closed_channel(target, settings)?, target)
}

fn closed_channel(target: &Target, settings: &Settings) -> Result<Tally, BenchError> {
    let pace = Pace::Closed { window: RELAY_WINDOW };
    if target.credentials.is_none() {
        let engine = Engine::new(Plain { len: RELAY_LEN }, target.wires(RELAY_CLIENTS)?);
        return engine.run(pace, settings.span, target.meter.as_ref());
    }
    through_channels(target, settings, pace, settings.span)
}

/// Through a channel, at any pace.
pub(super) fn through_channels(
    target: &Target,
    settings: &Settings,
    pace: Pace,
    span: Span,
) -> Result<Tally, BenchError> {
    let relayed = Relayed::new(target, true)?;
    relayed.run(Channel { len: RELAY_LEN }, pace, span, settings.tamper, target.meter.as_ref())
}

pub(super) fn indication(target: &Target, settings: &Settings) -> Result<Vec<Figure>, BenchError> {
    let relayed = Relayed::new(target, false)?;
    let exchange = Indication { len: RELAY_LEN, peers: relayed.peer_addrs.clone() };
    let pace = Pace::Closed { window: RELAY_WINDOW };
    let tally = relayed.run(exchange, pace, settings.span, settings.tamper, target.meter.as_ref())?;
    report(&tally, target)
}

pub(super) fn latency(target: &Target, settings: &Settings) -> Result<Vec<Figure>, BenchError> {
    let per_s = match settings.per_s {
        Some(per_s) => per_s,
        None => closed_channel(target, settings)?.per_s() / 2.0,
    };
    let tally = through_channels(target, settings, Pace::Open { per_s }, settings.span)?;
    report(&tally, target)
}

/// Clients with an allocation each, and a peer each that the server lets through.
struct Relayed {
    clients: Vec<Client>,
    peers: Vec<Wire>,
    peer_addrs: Vec<SocketAddrV4>,
}

impl Relayed {
    fn new(target: &Target, by_channel: bool) -> Result<Self, BenchError> {
        let credentials = target.credentials()?;
        let mut relayed = Self { clients: vec![], peers: vec![], peer_addrs: vec![] };
        for number in 0..RELAY_CLIENTS {
            let mut client = Client::allocate(target.socket(target.local)?, credentials.of(number))?;
            let peer = open(SocketAddrV4::new(target.peer, 0))?;
            let peer_addr = local_addr(&peer)?;
            peer.connect(client.relayed).map_err(BenchError::io("connecting to a relayed address"))?;
            if by_channel {
                client.bind_channel(peer_addr)?;
            } else {
                client.permit(peer_addr)?;
            }
            relayed.clients.push(client);
            relayed.peers.push(Wire::new(peer));
            relayed.peer_addrs.push(peer_addr);
        }
        Ok(relayed)
    }

    fn run<E: Exchange>(
        self,
        exchange: E,
        pace: Pace,
        span: Span,
        tamper: bool,
        meter: Option<&Meter>,
    ) -> Result<Tally, BenchError> {
        let change: Change = if tamper { flip_a_bit } else { |_| {} };
        let wires = self.clients.iter().map(|client| client.socket().map(Wire::new));
        let engine = Engine::new(exchange, wires.collect::<Result<_, _>>()?);
        let tally = engine.with_peers(self.peers, change).run(pace, span, meter)?;
        self.clients.into_iter().try_for_each(Client::release)?;
        Ok(tally)
    }
}

/// Behind the number: the question can still be told, and only the verification sees it.
fn flip_a_bit(datagram: &mut [u8]) {
    if let Some(byte) = datagram.get_mut(MIN_PAYLOAD_LEN) {
        *byte ^= 1;
    }
}

/// The figures of a tally. Lost, wrong and the like are there even if they are nought: that is what makes the rest
/// mean something.
pub(super) fn report(tally: &Tally, target: &Target) -> Result<Vec<Figure>, BenchError> {
    // Of nothing there is no each, and no division by nought in a table.
    let trips = tally.latency.total().max(1) as f64;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let mut figures = vec![figure("round trips/s", tally.per_s(), 0)];
    if let Some(cpu) = tally.lap.server_cpu {
        figures.push(figure(CPU, micros(cpu) / trips, 2));
        figures.push(figure("server busy cores", cpu.as_secs_f64() / tally.lap.elapsed.as_secs_f64(), 2));
    }
    for (name, share) in [("p50 us", 0.5), (P99, 0.99), ("p99.9 us", 0.999)] {
        figures.push(figure(name, micros(tally.quantile(share)), 0));
    }
    if let Some(meter) = &target.meter {
        figures.push(figure("resident MiB", meter.resident_bytes()? as f64 / f64::from(1 << 20), 1));
    }
    figures.push(figure("client CPU us each", micros(tally.lap.own_cpu) / trips, 2));
    figures.push(figure("lost", (tally.lost + tally.unasked) as f64, 0));
    figures.push(figure("late", tally.stray as f64, 0));
    figures.push(figure(WRONG, tally.wrong as f64, 0));
    Ok(figures)
}
