//! Connects by TCP to whichever address of a host answers first: the essence of Happy Eyeballs
//! (RFC 8305), so that a broken IPv6 costs a quarter of a second and not a timeout.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::egress::Egress;

/// Head start of an address over the next (RFC 8305, section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The addresses, families alternating from that of the first (RFC 8305, section 4), none twice.
pub(crate) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let first_is_v6 = unique.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (VecDeque<_>, VecDeque<_>) =
        unique.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut queues = [same, other];
    let mut ordered = Vec::new();
    while queues.iter().any(|queue| !queue.is_empty()) {
        ordered.extend(queues.iter_mut().filter_map(VecDeque::pop_front));
    }
    ordered
}

/// The first connection that stands. An address's failure starts the next at once; the others'
/// attempts end with this call.
///
/// # Errors
/// The last failure, once every address has failed.
pub(crate) async fn first(egress: &Arc<Egress>, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.iter().copied();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let started = waiting.next().map(|address| {
            let egress = Arc::clone(egress);
            attempts.spawn(async move { egress.connect(address).await })
        });
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => failure = error,
                Some(Err(error)) => failure = io::Error::other(error),
                None => return Err(failure),
            },
            () = sleep(ATTEMPT_DELAY), if started.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn families_alternate() {
        let cases = [
            ("", ""),
            ("1.1.1.1:1", "1.1.1.1:1"),
            ("[::1]:1 [::2]:1 1.1.1.1:1", "[::1]:1 1.1.1.1:1 [::2]:1"),
            ("1.1.1.1:1 1.1.1.2:1 1.1.1.3:1 [::1]:1", "1.1.1.1:1 [::1]:1 1.1.1.2:1 1.1.1.3:1"),
            ("1.1.1.1:1 1.1.1.1:1 [::1]:1 [::1]:1", "1.1.1.1:1 [::1]:1"),
        ];
        for (given, expect) in cases {
            let given = given.split_whitespace().map(|text| text.parse().unwrap());
            let ordered: Vec<_> = interleave(given).iter().map(ToString::to_string).collect();
            assert_eq!(ordered.join(" "), expect);
        }
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_live_one() {
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let live = live.local_addr().unwrap();
        for addresses in [vec![live], vec![dead, live], vec![dead, dead, live, dead]] {
            let stream = first(&Arc::default(), &addresses).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), live, "{addresses:?}");
        }
        for (addresses, expect) in [
            (vec![dead, dead], io::ErrorKind::ConnectionRefused),
            (Vec::new(), io::ErrorKind::AddrNotAvailable),
        ] {
            assert_eq!(first(&Arc::default(), &addresses).await.unwrap_err().kind(), expect);
        }
    }
}
