//! The TURN client of webrtc-rs, the crate `turn`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use meetpoint_cli::lab::SERVER_ADDRS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Mutex;
use tokio::time::timeout;
use turn::client::{Client, ClientConfig};
use webrtc_util::{Conn, Error};

use crate::document::{Outcome, Table};
use crate::rig::{Credential, Rig};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Sent one by one each way. Their lengths differ, so that over TCP each padding comes up.
const MESSAGES: usize = 40;

/// A TURN connection over TCP as the crate wants it: it frames nothing itself. RFC 8656, section 12.5: over a stream
/// ChannelData is padded to a multiple of four bytes.
struct Framed {
    reader: Mutex<OwnedReadHalf>,
    writer: Mutex<OwnedWriteHalf>,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Framed {
    async fn connect(remote: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(remote).await?;
        let local = stream.local_addr()?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: Mutex::new(reader), writer: Mutex::new(writer), local, remote })
    }

    async fn read_frame(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reader = self.reader.lock().await;
        reader.read_exact(&mut buffer[..4]).await?;
        let said = usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
        let is_channel_data = buffer[0] & 0b1100_0000 == 0b0100_0000;
        let len = if is_channel_data { 4 + said } else { 20 + said };
        let whole = buffer.get_mut(4..len.next_multiple_of(4)).ok_or(io::ErrorKind::InvalidData)?;
        reader.read_exact(whole).await?;
        Ok(len)
    }
}

#[async_trait]
impl Conn for Framed {
    async fn connect(&self, _: SocketAddr) -> Result<(), Error> {
        Ok(())
    }

    async fn recv(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        Ok(self.read_frame(buffer).await?)
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        Ok((self.read_frame(buffer).await?, self.remote))
    }

    async fn send(&self, data: &[u8]) -> Result<usize, Error> {
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        self.writer.lock().await.write_all(&padded).await?;
        Ok(data.len())
    }

    async fn send_to(&self, data: &[u8], _: SocketAddr) -> Result<usize, Error> {
        self.send(data).await
    }

    fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(self.local)
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        Some(self.remote)
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(self.writer.lock().await.shutdown().await?)
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

type Anything = Box<dyn std::error::Error + Send + Sync>;

/// Allocates, and sends messages to the peer and back.
async fn converse(
    conn: Arc<dyn Conn + Send + Sync>,
    server: SocketAddr,
    credential: Credential,
    peer: std::net::UdpSocket,
) -> Result<(), Anything> {
    let peer = UdpSocket::from_std(peer)?;
    let client = Client::new(ClientConfig {
        stun_serv_addr: server.to_string(),
        turn_serv_addr: server.to_string(),
        username: credential.username,
        password: credential.password,
        realm: String::new(),
        software: String::new(),
        rto_in_ms: 0,
        conn,
        vnet: None,
    })
    .await?;
    client.listen().await?;
    let relay = client.allocate().await?;
    let (relayed, target) = (relay.local_addr()?, peer.local_addr()?);
    let mut buffer = [0; 2048];
    for number in 0..MESSAGES {
        let message = vec![number as u8; 100 + number];
        relay.send_to(&message, target).await?;
        let (len, source) = peer.recv_from(&mut buffer).await?;
        if source != relayed || buffer[..len] != message {
            return Err(format!("message {number} came as {len} bytes from {source}").into());
        }
        peer.send_to(&message, relayed).await?;
        let (len, source) = relay.recv_from(&mut buffer).await?;
        if source != target || buffer[..len] != message {
            return Err(format!("message {number} came back as {len} bytes from {source}").into());
        }
    }
    client.close().await?;
    Ok(())
}

/// Runs it on the host this thread is on.
fn measure(work: impl Future<Output = Result<(), Anything>>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(async { timeout(PATIENCE, work).await }) {
        Ok(Ok(())) => Outcome::Passes,
        Ok(Err(error)) => Outcome::Fails(error.to_string()),
        Err(_) => Outcome::Fails(format!("not done after {PATIENCE:?}")),
    }
}

#[test]
fn the_client_of_webrtc_rs_is_relayed() {
    let name = "the_client_of_webrtc_rs_is_relayed";
    let Some(mut rig) = Rig::start(name) else { return };
    let ((host, _), (peer, _)) = (rig.public_host(), rig.public_host());
    let (server, addr) = (SocketAddr::from((SERVER_ADDRS[0], 3478)), host.addr());
    let at_peer = || {
        let socket = peer.run_in(|| std::net::UdpSocket::bind((peer.addr(), 0)));
        let socket = socket.expect("the peer").expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        socket
    };
    let (credential, target) = (rig.credential("udp"), at_peer());
    let over_udp = async move {
        let conn = Arc::new(UdpSocket::bind((addr, 0)).await?);
        converse(conn, server, credential, target).await
    };
    let (credential, target) = (rig.credential("tcp"), at_peer());
    let over_tcp = async move {
        let conn = Arc::new(Framed::connect(server).await?);
        converse(conn, server, credential, target).await
    };
    let mut table = Table::new("The client of webrtc-rs", &["connection to the relay", "shows"]);
    let shows =
        "Allocate, CreatePermission, Send and Data, ChannelBind and ChannelData, with a peer both ways";
    table.row(&["UDP", shows], &host.run_in(|| measure(over_udp)).expect("the host"));
    table.row(&["TCP", shows], &host.run_in(|| measure(over_tcp)).expect("the host"));
    table.hold();
}
