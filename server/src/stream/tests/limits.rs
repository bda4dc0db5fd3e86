//! Full queues: who waits, and what is lost.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Piped, binding, is_answer};

/// More than the inbox and the pipe hold.
const MANY: usize = 3000;

#[tokio::test(start_paused = true)]
async fn a_busy_shard_makes_the_client_wait_and_loses_nothing() {
    let mut piped = Piped::new();
    let mut sent = 0;
    // The shard does not turn, so there is an end to what is taken from the client.
    'full: loop {
        for byte in binding(1) {
            let mut waited = 0;
            while !matches!(
                futures_util::poll!(Box::pin(piped.client.write(&[byte]))),
                std::task::Poll::Ready(_)
            ) {
                tokio::task::yield_now().await;
                waited += 1;
                if waited > 100 {
                    break 'full;
                }
            }
            sent += 1;
        }
        assert!(sent / 20 < MANY, "the client never had to wait");
    }
    assert!(sent / 20 > 1000, "{sent}");
    piped.shard.settle().await;
    assert_eq!(piped.shard.frames, sent / 20);
}

#[tokio::test(start_paused = true)]
async fn many_answers_arrive_whole_and_in_order() {
    let mut piped = Piped::new();
    piped.client.write_all(&binding(1)).await.unwrap();
    piped.shard.settle().await;
    for index in 0..100_u8 {
        assert!(piped.shard.reply(vec![index; 1 + 40 * usize::from(index)]));
    }
    let mut answer = [0; 32];
    piped.client.read_exact(&mut answer).await.unwrap();
    assert!(is_answer(&answer, 1));
    for index in 0..100_u8 {
        let mut reply = vec![0; 1 + 40 * usize::from(index)];
        piped.client.read_exact(&mut reply).await.unwrap();
        assert!(reply.iter().all(|byte| *byte == index), "{index}");
    }
}
