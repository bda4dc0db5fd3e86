//! Nobody is waited for for ever. Time stands still here unless it is told to go on.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::advance;

use super::{Piped, binding, is_answer};

/// What the client does before it falls silent.
enum Before {
    Nothing,
    HalfAFrame,
    Binding,
    BindingAndAHalf,
    Allocate,
}

/// Checks that silence ends a connection at this moment and not before.
async fn check(before: Before, limit_s: u64, reason: &str) {
    let mut piped = Piped::new();
    let half = &binding(2)[..10];
    let sent = match before {
        Before::Nothing => Vec::new(),
        Before::HalfAFrame => half.to_vec(),
        Before::Binding | Before::Allocate => binding(1),
        Before::BindingAndAHalf => [&binding(1), half].concat(),
    };
    piped.client.write_all(&sent).await.unwrap();
    piped.shard.settle().await;
    if matches!(before, Before::Allocate) {
        // What the machine says to whom it grants an allocation.
        assert!(piped.shard.reply(vec![0x01, 0x03, 0, 0]));
        piped.shard.settle().await;
    }
    advance(Duration::from_secs(limit_s) - Duration::from_millis(10)).await;
    piped.shard.settle().await;
    assert!(!piped.served.is_finished(), "{reason}: too early");
    advance(Duration::from_millis(20)).await;
    assert_eq!(piped.end().await, reason);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection() {
    let (idle, slow) = ("no frame for too long", "a frame took too long");
    check(Before::Nothing, 10, idle).await;
    check(Before::HalfAFrame, 10, slow).await;
    check(Before::Binding, 60, idle).await;
    check(Before::BindingAndAHalf, 30, slow).await;
    check(Before::Allocate, 3660, idle).await;
}

/// A byte now and then is no frame.
#[tokio::test(start_paused = true)]
async fn dribbling_does_not_help() {
    let mut long = binding(2);
    long[3] = 200;
    long.resize(220, 0);
    let bytes = [binding(1), long].concat();
    // From the first frame on, or from the second.
    for (at_once, limit_s) in [(0, 10), (20, 30)] {
        let mut piped = Piped::new();
        piped.client.write_all(&bytes[..at_once]).await.unwrap();
        let mut waited_s = 0;
        for byte in &bytes[at_once..] {
            piped.shard.settle().await;
            if piped.served.is_finished() {
                break;
            }
            piped.client.write_all(&[*byte]).await.unwrap();
            piped.shard.settle().await;
            advance(Duration::from_secs(1)).await;
            waited_s += 1;
        }
        assert_eq!(waited_s, limit_s);
        assert_eq!(piped.end().await, "a frame took too long");
    }
}

#[tokio::test(start_paused = true)]
async fn who_goes_on_asking_stays() {
    let mut piped = Piped::new();
    let mut answer = [0; 32];
    for id in 1..100 {
        piped.client.write_all(&binding(id)).await.unwrap();
        piped.shard.settle().await;
        piped.client.read_exact(&mut answer).await.unwrap();
        assert!(is_answer(&answer, id));
        advance(Duration::from_secs(59)).await;
    }
    drop(piped.client);
    piped.shard.settle().await;
    assert_eq!(piped.served.await.unwrap().to_string(), "closed by the client");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_cut_off() {
    let mut piped = Piped::new();
    piped.client.write_all(&binding(1)).await.unwrap();
    piped.shard.settle().await;
    // A megabyte for one who reads nothing: what does not fit is lost, and the shard goes on.
    let taken = (0..1000).filter(|_| piped.shard.reply(vec![7; 1000])).count();
    assert!((128..=256).contains(&taken), "{taken}");
    piped.shard.settle().await;
    advance(Duration::from_secs(29)).await;
    piped.shard.settle().await;
    assert!(!piped.served.is_finished());
    advance(Duration::from_secs(2)).await;
    assert_eq!(piped.end().await, "the client does not read");
}
