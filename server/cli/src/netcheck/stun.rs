//! A plain STUN Binding (RFC 8489), over a datagram or a stream.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::{timeout, timeout_at};

const HEADER_LEN: usize = 20;
const ID_LEN: usize = 12;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const REQUEST: [u8; 2] = [0x00, 0x01];
const SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// RFC 5780, section 7.4.
const OTHER_ADDRESS: u16 = 0x802C;
/// Larger than any answer to a plain Binding.
const MAX_ANSWER_LEN: usize = 1024;
/// When copies are sent, counted from the first. The last gap is as long as a slow path's round trip.
const SCHEDULE: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(600), Duration::from_millis(1_200)];
/// Silence for so long is no answer.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// What a server says of whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// From where it sees the request come.
    pub(super) mapped: SocketAddr,
    /// From where it could answer too.
    pub(super) other: Option<SocketAddr>,
    /// From the first copy of the request on.
    pub(super) rtt: Duration,
}

fn request(id: [u8; ID_LEN]) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..2].copy_from_slice(&REQUEST);
    bytes[4..8].copy_from_slice(&COOKIE);
    bytes[8..].copy_from_slice(&id);
    bytes
}

/// Nobody gains by guessing it: what he could forge is told to the user's own terminal.
fn transaction_id() -> io::Result<[u8; ID_LEN]> {
    let mut bytes = [0; ID_LEN];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// Asks by UDP.
pub(super) async fn by_udp(server: SocketAddr) -> io::Result<Answer> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    let (id, started) = (transaction_id()?, tokio::time::Instant::now());
    let mut buffer = [0; MAX_ANSWER_LEN];
    for (copy, after) in SCHEDULE.into_iter().enumerate() {
        // The network may be unreachable at this moment; a copy follows.
        let _ = socket.send_to(&request(id), server).await;
        let until = SCHEDULE.get(copy + 1).copied().unwrap_or(PATIENCE);
        debug_assert!(after < until);
        while let Ok(Ok((len, source))) = timeout_at(started + until, socket.recv_from(&mut buffer)).await {
            if source == server
                && let Some((mapped, other)) = parse(&buffer[..len], id)
            {
                return Ok(Answer { mapped, other, rtt: started.elapsed() });
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"))
}

/// Asks by a stream that is open.
pub(super) async fn by_stream(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Answer> {
    let (id, started) = (transaction_id()?, Instant::now());
    let exchange = async {
        stream.write_all(&request(id)).await?;
        stream.flush().await?;
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).await?;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if len > MAX_ANSWER_LEN - HEADER_LEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is no STUN message"));
        }
        let mut message = header.to_vec();
        message.resize(HEADER_LEN + len, 0);
        stream.read_exact(&mut message[HEADER_LEN..]).await?;
        Ok(message)
    };
    let message = timeout(PATIENCE, exchange).await;
    let message = message.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer"))??;
    let no_answer = || io::Error::new(io::ErrorKind::InvalidData, "the answer is no Binding response");
    let (mapped, other) = parse(&message, id).ok_or_else(no_answer)?;
    Ok(Answer { mapped, other, rtt: started.elapsed() })
}

/// The mapped address, and the server's other one.
fn parse(message: &[u8], id: [u8; ID_LEN]) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let (header, mut rest) = message.split_at_checked(HEADER_LEN)?;
    if header[..2] != SUCCESS || header[4..8] != COOKIE || header[8..] != id {
        return None;
    }
    let (mut mapped, mut other) = (None, None);
    while let Some((head, behind)) = rest.split_at_checked(4) {
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, _) = behind.split_at_checked(len)?;
        match kind {
            XOR_MAPPED_ADDRESS => mapped = address(value, &header[4..]),
            OTHER_ADDRESS => other = address(value, &[0; HEADER_LEN - 4]),
            _ => {}
        }
        rest = behind.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((mapped?, other))
}

/// An address (RFC 8489, section 14.1), under a mask (section 14.2) or without one.
fn address(value: &[u8], mask: &[u8]) -> Option<SocketAddr> {
    let (head, ip) = value.split_at_checked(4)?;
    let port = u16::from_be_bytes([head[2] ^ mask[0], head[3] ^ mask[1]]);
    let unmasked: Vec<u8> = ip.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    let ip = match head[1] {
        1 => IpAddr::from(<[u8; 4]>::try_from(unmasked).ok()?),
        2 => IpAddr::from(<[u8; 16]>::try_from(unmasked).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769, sections 2.2 and 2.3: the addresses of its sample responses.
    #[test]
    fn the_samples_of_the_rfc_are_read() {
        let id = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
        let response = |attributes: &[u8]| {
            let len = u16::try_from(attributes.len()).unwrap().to_be_bytes();
            [&SUCCESS[..], &len, &COOKIE, &id, attributes].concat()
        };
        let ipv4 = [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let ipv6 = [
            0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79,
            0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        let software = [0x80, 0x22, 0x00, 0x03, b'a', b'b', b'c', b' '];
        let other = [0x80, 0x2c, 0x00, 0x08, 0x00, 0x01, 0x0d, 0x97, 20, 0, 0, 2];
        let check = |attributes: &[&[u8]], expect: Option<(&str, Option<&str>)>| {
            let expect = expect.map(|(mapped, other)| {
                (mapped.parse().unwrap(), other.map(|other: &str| other.parse().unwrap()))
            });
            assert_eq!(parse(&response(&attributes.concat()), id), expect, "{attributes:?}");
        };
        check(&[&software, &ipv4], Some(("192.0.2.1:32853", None)));
        check(&[&ipv6], Some(("[2001:db8:1234:5678:11:2233:4455:6677]:32853", None)));
        check(&[&ipv4, &other], Some(("192.0.2.1:32853", Some("20.0.0.2:3479"))));
        check(&[&software], None);
        check(&[&ipv4[..10]], None);
        assert_eq!(parse(&response(&ipv4), [0; ID_LEN]), None, "somebody else's answer");
        for len in 0..HEADER_LEN {
            assert_eq!(parse(&response(&ipv4)[..len], id), None);
        }
    }
}
