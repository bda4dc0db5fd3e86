//! Memory: many allocations that do nothing, and then none.

use std::net::SocketAddrV4;
use std::thread;

use super::{Figure, Settings, Target, figure};
use crate::bench::BenchError;
use crate::bench::turn::Client;

pub(super) const EACH: &str = "resident bytes each";

/// Allocations that come and go before anything is measured: a server's first ones also pay for its threads' heaps.
const WARM_UP: u32 = 64;
/// The discard port, of a peer that need not be there.
const PEER_PORT: u16 = 9;

pub(super) fn measure(target: &Target, settings: &Settings) -> Result<Vec<Figure>, BenchError> {
    let meter = target.meter()?;
    release(allocate(target, WARM_UP)?)?;
    thread::sleep(settings.span.warm_up);
    let before = meter.resident_bytes()?;
    let clients = allocate(target, settings.idle)?;
    let held = meter.resident_bytes()?;
    release(clients)?;
    thread::sleep(settings.settle);
    let after = meter.resident_bytes()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let growth = held as f64 - before as f64;
    Ok(vec![
        figure("allocations", f64::from(settings.idle), 0),
        figure(EACH, growth / f64::from(settings.idle), 0),
        figure("resident MiB before", mib(before), 2),
        figure("with them", mib(held), 2),
        figure("after their release", mib(after), 2),
        figure("kept bytes each", (after as f64 - before as f64) / f64::from(settings.idle), 0),
    ])
}

fn allocate(target: &Target, count: u32) -> Result<Vec<Client>, BenchError> {
    let credentials = target.credentials()?;
    let peer = SocketAddrV4::new(target.peer, PEER_PORT);
    (0..count)
        .map(|number| {
            // Servers limit what one address may hold.
            let local = target.sources.map_or(target.local, |sources| sources.nth(number));
            let mut client = Client::allocate(target.socket(local)?, credentials.of(number as usize))?;
            client.bind_channel(peer)?;
            Ok(client)
        })
        .collect()
}

fn release(clients: Vec<Client>) -> Result<(), BenchError> {
    clients.into_iter().try_for_each(Client::release)
}
