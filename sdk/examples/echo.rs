//! Two nodes in one program: one echoes, the other asks.
//!
//! Start a server (`meetpoint serve`), then:
//! `cargo run -p meetpoint --example echo -- http://127.0.0.1:8080 "$(cat meetpoint-data/join-token)"`

use std::error::Error;

use meetpoint::Node;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(token)) = (args.next(), args.next()) else {
        return Err("usage: echo URL JOIN-TOKEN".into());
    };
    let bob = Node::builder(&url).name("bob").join_token(token.trim()).start().await?;
    let echo = tokio::spawn(async move {
        if let Some(connection) = bob.accept().await {
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let Ok(message) = recv.read_to_end(1024).await else { break };
                if send.write_all(&message).await.is_err() || send.finish().is_err() {
                    break;
                }
            }
        }
        bob.leave().await;
    });

    let alice = Node::builder(&url).name("alice").join_token(token.trim()).start().await?;
    let connection = alice.connect_when_present("bob").await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"hello, bob").await?;
    send.finish()?;
    let answer = String::from_utf8(recv.read_to_end(1024).await?)?;
    let path = *connection.path().borrow();
    println!("{answer:?} came back, {} by {} after {:?}", path.kind.as_str(), path.remote, path.elapsed);
    alice.leave().await;
    echo.await?;
    Ok(())
}
