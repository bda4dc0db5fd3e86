//! A door from this machine's loopback into the server's namespace.

use std::net::SocketAddr;

use meetpoint_cli::lab::Host;
use tokio::net::{TcpListener, TcpStream};

use crate::exit::Failure;

/// The address under which a browser on this machine reaches the server. Without a namespace
/// that is the server's own.
pub(super) async fn open(host: Option<Host>, http: SocketAddr) -> Result<SocketAddr, Failure> {
    let Some(host) = host else { return Ok(http) };
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Failure::failed)?;
    let ui = listener.local_addr().map_err(Failure::failed)?;
    // Ends with the runtime, that is with the demo.
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((browser, _)) => {
                    tokio::spawn(carry(browser, host.clone(), http));
                }
                Err(error) => tracing::warn!(%error, "the demo's door is stuck"),
            }
        }
    });
    Ok(ui)
}

async fn carry(mut browser: TcpStream, host: Host, http: SocketAddr) {
    let connect = move || host.run_in(|| std::net::TcpStream::connect(http));
    let Ok(Ok(Ok(server))) = tokio::task::spawn_blocking(connect).await else { return };
    let ready = server.set_nonblocking(true).and_then(|()| TcpStream::from_std(server));
    let Ok(mut server) = ready else { return };
    // Either side may hang up at any time.
    let _ = tokio::io::copy_bidirectional(&mut browser, &mut server).await;
}
