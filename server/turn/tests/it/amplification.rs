//! What somebody gets who writes another's address on his question.

use meetpoint_turn::message::{ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Class, REFRESH};
use meetpoint_turn::{Writer, attr};

use crate::common::{CLIENT, ID, error};
use crate::turn::{UDP, turn};

#[test]
fn a_challenge_is_at_most_three_times_its_question() {
    let check = |method: u16, attributes: &[(u16, &[u8])], expected: u16| {
        for has_fingerprint in [false, true] {
            let mut writer = Writer::new(Class::Request, method, ID);
            attributes.iter().for_each(|(kind, value)| writer.attribute(*kind, value));
            if has_fingerprint {
                writer.fingerprint();
            }
            let question = writer.finish();
            let answer = turn().give(CLIENT, &question).expect("an answer");
            assert_eq!(error(&answer), Some(expected), "{method:#x} {attributes:?}");
            assert!(answer.len() <= 3 * question.len(), "{} bytes for {}", answer.len(), question.len());
        }
    };
    // The first question of each client (RFC 8656, section 7.1) is challenged.
    check(ALLOCATE, &[(attr::REQUESTED_TRANSPORT, UDP)], 401);
    check(BINDING, &[(attr::USERNAME, b"a")], 401);
    // Nobody asks these first, but for the sake of the answer.
    for method in [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
        check(method, &[], 400);
        check(method, &[(0x8000, b"")], 400);
    }
    check(BINDING, &[(attr::USERNAME, b"")], 400);
}
