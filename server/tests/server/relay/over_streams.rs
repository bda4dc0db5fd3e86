//! The same over TCP and TLS: a bridge makes frames of a client's datagrams, and datagrams of frames.

use meetpoint_turn::frame::frame_len;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::lifecycle::tls;

/// Carries one client's datagrams over a stream, until it is aborted.
async fn bridge(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut datagram = vec![0; 65_536];
        let (len, client) = socket.recv_from(&mut datagram).await.unwrap();
        socket.connect(client).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        writer.write_all(&datagram[..len]).await.unwrap();
        writer.flush().await.unwrap();
        let out = async {
            loop {
                let len = socket.recv(&mut datagram).await.unwrap();
                // RFC 8656, section 12.5: over a stream ChannelData is padded to four bytes.
                let padded = len.next_multiple_of(4);
                datagram[len..padded].fill(0);
                writer.write_all(&datagram[..padded]).await.unwrap();
                writer.flush().await.unwrap();
            }
        };
        let back = async {
            let mut frames = Vec::new();
            while reader.read_buf(&mut frames).await.unwrap() > 0 {
                while let Some(len) = frame_len(&frames).unwrap().filter(|len| *len <= frames.len()) {
                    socket.send(&frames[..len]).await.unwrap();
                    frames.drain(..len);
                }
            }
        };
        tokio::select! {
            () = out => {}
            () = back => {}
        }
    });
    (addr, task)
}

async fn check(server: &Running, data: &Path, stream: impl AsyncRead + AsyncWrite + Send + 'static) {
    let (addr, bridge) = bridge(stream).await;
    let mut client = Client::new(addr, data, "alice").await;
    let peer = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let peer_addr = peer.local_addr().unwrap();
    let relayed = client.allocate().await;

    client.ask(CREATE_PERMISSION, &[], Some(peer_addr)).await;
    client.send(peer_addr, b"out").await;
    let mut buffer = vec![0; 65_536];
    let (len, from) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..len], from), (&b"out"[..], relayed));
    peer.send_to(b"in", relayed).await.unwrap();
    assert_eq!(client.data().await, b"in");

    client.ask(CHANNEL_BIND, &[(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0])], Some(peer_addr)).await;
    for data in [&b"five!"[..], &vec![7; 60_000], b""] {
        let len = u16::try_from(data.len()).unwrap();
        let framed = [&[0x40, 0][..], &len.to_be_bytes(), data].concat();
        client.socket.send(&framed).await.unwrap();
        let (len, _) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..len], data);
        peer.send_to(data, relayed).await.unwrap();
        let received = client.receive().await;
        assert_eq!(received.len() % 4, 0);
        assert_eq!(received[..framed.len()], framed);
    }

    // The allocation goes with its connection (RFC 8656, section 7).
    let sessions = async || get(SESSIONS).admin(server).await.json()["items"].as_array().unwrap().len();
    assert_eq!(sessions().await, 1);
    bridge.abort();
    let gone = async {
        while sessions().await > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn bytes_are_relayed_over_tcp_and_tls() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let (tcp, encrypted) = (server.info.stun_tcp[0], server.info.stun_tls[0]);
    check(&server, dir.path(), TcpStream::connect(tcp).await.unwrap()).await;
    check(&server, dir.path(), tls(encrypted).await).await;
    server.stop().await.unwrap();
}

/// Connections that are open do not hold up the server's end.
#[tokio::test]
async fn the_end_of_the_server_ends_its_streams() {
    let (server, _dir) = Running::fresh(&[]).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(TcpStream::connect(server.info.stun_tcp[0]).await.unwrap());
    }
    let begun = std::time::Instant::now();
    server.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    for mut stream in streams {
        assert!(!matches!(stream.read(&mut [0; 8]).await, Ok(1..)));
    }
}
