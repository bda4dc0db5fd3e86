//! Introductions by peers: what guests and introducers say to each other, and what the ends of a ticket sign.

use std::fmt::Debug;

use ed25519_dalek::SigningKey;
use meetpoint_proto::meet::{
    AgreementSecret, GuestMessage, Half, IntroducerMessage, MAX_HALF_LIFETIME_MS, decode, encode,
};
use meetpoint_proto::{ClusterName, NodeId};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Before a message stands its length.
const LEN_BYTES: usize = 4;

/// Reads the bytes as a message of either side.
pub fn meeting(bytes: &[u8]) {
    match message::<GuestMessage>(bytes) {
        Some(GuestMessage::Half(given)) => half(&given),
        Some(GuestMessage::Connect { peer, .. }) => crate::text::words(peer.as_bytes()),
        _ => {}
    }
    if let Some(IntroducerMessage::Half(given)) = message::<IntroducerMessage>(bytes) {
        half(&given);
    }
}

fn message<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let message: T = decode(bytes).ok()?;
    let written = encode(&message);
    let again = decode::<T>(&written[LEN_BYTES..]);
    assert_eq!(again.as_ref().ok(), Some(&message), "written, it is another message");
    Some(message)
}

fn cluster(name: &str) -> ClusterName {
    name.parse().expect("a name")
}

/// Nobody here holds the key of whoever it claims to be from; and once somebody has signed it, that is for one cluster
/// and for what it says.
fn half(given: &Half) {
    let (here, elsewhere) = (cluster("default"), cluster("other"));
    assert!(!given.is_signed(&elsewhere), "it verifies in a cluster that no input was signed for");
    let key = SigningKey::from_bytes(&[7; 32]);
    let own = Half { from: NodeId::from(&key), ..given.clone() }.signed(&here, &key);
    assert!(own.is_signed(&here) && !own.is_signed(&elsewhere));
    let longer = Half { not_after_unix_ms: own.not_after_unix_ms ^ 1, ..own.clone() };
    let turned = Half { asks: !own.asks, ..own.clone() };
    let mut moved = own.clone();
    moved.candidates.push(([20, 0, 0, 1], 1).into());
    assert!(
        [longer, turned, moved].iter().all(|changed| !changed.is_signed(&here)),
        "not all of it is signed"
    );
    // Time is as good as its bounds, at either end of what a number can say.
    for now in [0, given.not_after_unix_ms.saturating_sub(1), given.not_after_unix_ms, u64::MAX] {
        let left = given.not_after_unix_ms.checked_sub(now).filter(|left| *left > 0);
        assert_eq!(given.is_fresh(now), left.is_some_and(|left| left <= MAX_HALF_LIFETIME_MS));
    }
    if let Some((send, recv)) = AgreementSecret::from_random([3; 32]).agree(&own, given) {
        let is_one_key = own.from == given.from && own.key == given.key;
        assert!(send.as_bytes() != recv.as_bytes() || is_one_key, "a check could be reflected");
    }
}
