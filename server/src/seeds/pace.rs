//! How often others may be asked: nobody can make this server look for open ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use meetpoint_proto::addr;
use meetpoint_proto::seed::Host;

/// Targets that are remembered. All seeds of some clusters fit; beyond it nobody new is asked until
/// the oldest are forgotten.
const MAX_TARGETS: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Host(Host),
    Ip(IpAddr),
}

/// Remembers who was asked lately. A target is a machine, whatever its port: else a list of ports
/// would be a list of targets.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    asked: BTreeMap<Target, Instant>,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, asked: BTreeMap::new() }
    }

    /// Whether this host may be asked now at this address; it counts as asked then. Else when.
    pub(super) fn ask(&mut self, now: Instant, host: &Host, ip: IpAddr) -> Result<(), Instant> {
        let interval = self.interval;
        self.asked.retain(|_, at| now < *at + interval);
        // An address in another dress is the same machine.
        let targets = [Target::Host(host.clone()), Target::Ip(addr::canonical(ip))];
        if let Some(last) = targets.iter().filter_map(|target| self.asked.get(target)).max() {
            return Err(*last + interval);
        }
        if self.asked.len() >= MAX_TARGETS {
            return Err(now + interval);
        }
        self.asked.extend(targets.map(|target| (target, now)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_machine_is_asked_once_a_minute_by_whatever_name() {
        let start = Instant::now();
        let mut pace = Pace::new(MINUTE);
        let mut check = |s: u64, host: &str, ip: &str, expect_s: Option<u64>| {
            let now = start + Duration::from_secs(s);
            let outcome = pace.ask(now, &host.parse().unwrap(), ip.parse().unwrap());
            let expect = expect_s.map_or(Ok(()), |s| Err(start + Duration::from_secs(s)));
            assert_eq!(outcome, expect, "{s} s: {host} {ip}");
        };
        check(0, "a.example", "20.0.0.1", None);
        check(1, "a.example", "20.0.0.1", Some(60));
        check(1, "a.example", "20.0.0.2", Some(60));
        check(1, "b.example", "20.0.0.1", Some(60));
        check(1, "b.example", "::ffff:20.0.0.1", Some(60));
        check(1, "b.example", "64:ff9b::1400:1", Some(60));
        check(2, "b.example", "20.0.0.2", None);
        check(59, "a.example", "20.0.0.1", Some(60));
        check(60, "a.example", "20.0.0.1", None);
        check(61, "20.0.0.2", "20.0.0.2", Some(62));
        check(62, "20.0.0.2", "20.0.0.2", None);
    }

    #[test]
    fn the_table_is_bounded() {
        let now = Instant::now();
        let mut pace = Pace::new(MINUTE);
        let ip = |n: u32| IpAddr::from((0x1400_0000 + n).to_be_bytes());
        let asked = (0..5000).filter(|n| pace.ask(now, &Host::Ip(ip(*n)), ip(*n)).is_ok()).count();
        assert!((MAX_TARGETS / 2..=MAX_TARGETS).contains(&asked), "{asked}");
        assert!(pace.asked.len() <= MAX_TARGETS + 1);
        assert!(pace.ask(now + MINUTE, &Host::Ip(ip(6000)), ip(6000)).is_ok());
    }
}
