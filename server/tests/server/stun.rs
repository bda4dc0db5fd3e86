//! STUN through the real sockets, from a public cluster's welcome to an answer.

use meetpoint_proto::stun::is_stun;
use tokio::net::UdpSocket;

use crate::running::Running;

/// A Binding request without attributes.
fn request(id: u8) -> Vec<u8> {
    let mut request = vec![0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xA4, 0x42];
    request.extend([id; 12]);
    request
}

#[tokio::test]
async fn every_listener_answers() {
    let flags = ["--stun", "127.0.0.1:0,127.0.0.2:0"];
    let (server, _dir) = Running::fresh(&flags).await;
    let stun = server.info.stun[0];
    let (alternate, second) = (stun.alternate.unwrap(), stun.alternate_port.unwrap());
    assert_eq!(alternate.to_string(), "127.0.0.2");
    assert_ne!(second, stun.primary.port());
    for ip in [stun.primary.ip(), alternate] {
        for port in [stun.primary.port(), second] {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.connect((ip, port)).await.unwrap();
            // What is no STUN is not answered, and does no harm.
            socket.send(b"nonsense").await.unwrap();
            socket.send(&request(7)).await.unwrap();
            let mut answer = [0; 512];
            let len = socket.recv(&mut answer).await.unwrap();
            assert!(is_stun(&answer[..len]), "{ip}:{port}");
            assert_eq!((answer[..2].to_vec(), answer[8..20].to_vec()), (vec![1, 1], vec![7; 12]));
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_external_address_is_told() {
    let flags = ["--external-ip", "20.0.0.1", "--seed", "a@20.0.0.1:80"];
    let (server, _dir) = Running::fresh(&flags).await;
    assert_eq!(server.info.stun[0].primary.ip().to_string(), "20.0.0.1");
    assert_eq!(server.info.effective.as_str(), "PUBLIC");
    let warnings: Vec<&str> = server.info.warnings.iter().map(|warning| warning.code()).collect();
    assert_eq!(warnings, ["no_alternate_stun"]);
    server.stop().await.unwrap();
}
