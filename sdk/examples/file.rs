//! Sends a file to a node by its name, or takes what others send.
//!
//! ```text
//! export MEETPOINT_URL=https://203.0.113.10:8080 MEETPOINT_JOIN_TOKEN=mpj1...
//! cargo run -p meetpoint --example file -- receive bob
//! cargo run -p meetpoint --example file -- send bob report.pdf
//! ```
//!
//! What is received lies in the working directory, under the sender's key: a name that the other side chooses is never
//! used as a path.

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};

use meetpoint::{Connection, Node, PathKind};

/// Read and written at once.
const CHUNK_LEN: usize = 64 * 1024;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["receive", name] => receive(&join(name).await?).await,
        ["send", peer, path] => send(&join("sender").await?, peer, path).await,
        _ => Err("usage: file receive NAME | file send NAME FILE".into()),
    }
}

async fn join(name: &str) -> Result<Node> {
    let (url, token) = (env::var("MEETPOINT_URL")?, env::var("MEETPOINT_JOIN_TOKEN")?);
    Ok(Node::builder(&url).name(name).join_token(token.trim()).start().await?)
}

async fn send(node: &Node, peer: &str, path: &str) -> Result<()> {
    let mut file = File::open(path)?;
    let connection = node.connect_when_present(peer).await?;
    let mut stream = connection.open_uni().await?;
    let (mut chunk, mut total) = (vec![0; CHUNK_LEN], 0);
    loop {
        let len = file.read(&mut chunk)?;
        if len == 0 {
            break;
        }
        stream.write_all(&chunk[..len]).await?;
        total += len;
    }
    stream.finish()?;
    // Nothing, once the peer has read all of it.
    stream.stopped().await?;
    let way = match connection.path().borrow().kind {
        PathKind::Relayed => "by the relay",
        _ => "directly",
    };
    println!("{total} bytes sent, at the end {way}");
    node.leave().await;
    Ok(())
}

async fn receive(node: &Node) -> Result<()> {
    while let Some(connection) = node.accept().await {
        tokio::spawn(async move {
            if let Err(error) = take(&connection).await {
                eprintln!("from {}: {error}", connection.peer());
            }
        });
    }
    Ok(())
}

async fn take(connection: &Connection) -> Result<()> {
    let mut stream = connection.accept_uni().await?;
    let path = format!("from-{}", connection.peer());
    // A file that is there stays as it is.
    let mut file = File::create_new(&path)?;
    let (mut chunk, mut total) = (vec![0; CHUNK_LEN], 0);
    while let Some(len) = stream.read(&mut chunk).await? {
        file.write_all(&chunk[..len])?;
        total += len;
    }
    file.sync_all()?;
    println!("{total} bytes in {path}");
    // Who has sent it closes the connection.
    connection.closed().await;
    Ok(())
}
