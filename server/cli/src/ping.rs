//! `meetpoint ping`: a node of the moment, and how another one answers it.

use std::time::{Duration, Instant};

use meetpoint::{Connection, Event, Node, StartError};
use serde_json::json;

use crate::args::PingArgs;
use crate::exit::Failure;
use crate::signals::Stop;

/// A ping is what fills two datagrams: the second one has the peer acknowledge both at once, while one alone may
/// wait for its acknowledgement as long as QUIC allows (RFC 9000, section 13.2.1).
const PING_BYTES: usize = 2000;
/// Random characters of the node's name.
const NAME_LEN: usize = 8;

/// Joins, pings and leaves.
pub(crate) async fn run(args: PingArgs) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    tokio::select! {
        outcome = ping(&args) => outcome,
        signal = stop.wait() => Err(Failure::stopped(signal, "interrupted")),
    }
}

async fn ping(args: &PingArgs) -> Result<(), Failure> {
    let node = builder(args)?.start().await.map_err(refused)?;
    let outcome = meet(args, &node).await;
    node.leave().await;
    let (path, times) = outcome?;
    conclude(args, &path, &times)
}

fn builder(args: &PingArgs) -> Result<meetpoint::Builder, Failure> {
    let mut random = [0; NAME_LEN];
    getrandom::fill(&mut random).map_err(|error| Failure::failed(format!("no randomness: {error}")))?;
    let suffix: String = random.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let mut builder = meetpoint::Builder::default()
        .cluster(&args.cluster)
        .name(format!("ping-{suffix}"))
        .give_up_after(args.timeout)
        .insecure_http(args.insecure_http);
    builder = args.rendezvous.iter().fold(builder, meetpoint::Builder::server);
    builder = args.fingerprints.iter().copied().fold(builder, meetpoint::Builder::fingerprint);
    let token = match &args.join_token {
        Some(token) => Some(token.clone()),
        None => std::fs::read_to_string(&args.join_token_file).ok().map(|text| text.trim().to_owned()),
    };
    Ok(token.into_iter().fold(builder, meetpoint::Builder::join_token))
}

fn refused(error: StartError) -> Failure {
    match error {
        StartError::Rejected(refusal) => {
            Failure::rejected(format!("rejected: {} ({})", refusal.code, refusal.hint))
        }
        StartError::NoServer { .. } => Failure::no_server(error),
        StartError::Io(_) => Failure::failed(error),
        _ => Failure::usage(error),
    }
}

/// The path at the end, and how long each answer took.
async fn meet(args: &PingArgs, node: &Node) -> Result<(String, Vec<Option<Duration>>), Failure> {
    let mut events = node.events();
    let rejected = async {
        while let Some(event) = events.next().await {
            if let Event::Rejected(refusal) = event {
                return Failure::rejected(format!("rejected: {} ({})", refusal.code, refusal.hint));
            }
        }
        Failure::failed("this node ended")
    };
    let pinging = async {
        let connecting = tokio::time::timeout(args.timeout, node.connect(args.peer.as_str())).await;
        let late = |_| Failure::failed(format!("no path to {} in {:?}", args.peer, args.timeout));
        let failed = |error| Failure::failed(format!("no path to {}: {error}", args.peer));
        let connection = connecting.map_err(late)?.map_err(failed)?;
        let mut times = Vec::new();
        for number in 0..args.count {
            if number > 0 {
                tokio::time::sleep(args.interval).await;
            }
            let answered = tokio::time::timeout(args.timeout, once(&connection)).await;
            let took = answered.ok().and_then(Result::ok);
            tell(args, number, took, &connection);
            times.push(took);
        }
        Ok((connection.path().borrow().kind.as_str().to_owned(), times))
    };
    tokio::select! {
        outcome = pinging => outcome,
        failure = rejected => Err(failure),
    }
}

/// From the first byte to the acknowledgement of the last. The peer's application takes no part in it.
async fn once(connection: &Connection) -> Result<Duration, String> {
    let mut stream = connection.open_uni().await.map_err(|error| error.to_string())?;
    let start = Instant::now();
    stream.write_all(&[0; PING_BYTES]).await.map_err(|error| error.to_string())?;
    stream.finish().map_err(|error| error.to_string())?;
    // A peer that wants no such stream has answered as well.
    stream.stopped().await.map_err(|error| error.to_string())?;
    Ok(start.elapsed())
}

fn tell(args: &PingArgs, number: u32, took: Option<Duration>, connection: &Connection) {
    if args.json {
        return;
    }
    let path = *connection.path().borrow();
    match took {
        Some(took) => println!(
            "{} from {} ({}): {:.2} ms",
            number + 1,
            path.remote,
            path.kind.as_str(),
            took.as_secs_f64() * 1e3
        ),
        None => println!("{} no answer", number + 1),
    }
}

fn conclude(args: &PingArgs, path: &str, times: &[Option<Duration>]) -> Result<(), Failure> {
    let answered: Vec<f64> = times.iter().flatten().map(|took| took.as_secs_f64() * 1e3).collect();
    let (sent, received) = (times.len(), answered.len());
    let lost = 100 * (sent - received) / sent.max(1);
    let min = answered.iter().copied().reduce(f64::min);
    let max = answered.iter().copied().reduce(f64::max);
    let mean = (received > 0).then(|| answered.iter().sum::<f64>() / received as f64);
    if args.json {
        let told = json!({
            "peer": args.peer, "path": path, "sent": sent, "received": received, "loss_percent": lost,
            "min_ms": min, "avg_ms": mean, "max_ms": max,
        });
        println!("{told}");
    } else if let (Some(min), Some(mean), Some(max)) = (min, mean, max) {
        println!(
            "{path}; {sent} sent, {received} answered, {lost}% lost; min/avg/max {min:.2}/{mean:.2}/{max:.2} ms"
        );
    }
    if received == 0 { Err(Failure::failed(format!("{} did not answer", args.peer))) } else { Ok(()) }
}
