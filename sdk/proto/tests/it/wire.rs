//! Frames from outside: anything may come, nothing panics, and what is refused says why.
#![allow(clippy::unwrap_used, reason = "tests")]

use meetpoint_proto::wire::{
    ClientMessage, DecodeError, MAX_FRAME_BYTES, Refusal, ServerMessage, decode_client, decode_server, encode,
};
use meetpoint_proto::{Code, JoinToken, NodeId, SeedAddr};
use proptest::prelude::*;

#[test]
fn refused_frames() {
    let deep = format!(r#"{{"type":"connect","request":1,"peer":{}"#, "[".repeat(10_000));
    let big = format!(r#"{{"type":"leave","x":"{}"}}"#, "a".repeat(MAX_FRAME_BYTES));
    let cases: &[(&str, Code)] = &[
        ("", Code::BadMessage),
        ("{}", Code::BadMessage),
        ("[]", Code::BadMessage),
        (r#"{"type":"shout"}"#, Code::BadMessage),
        (r#"{"type":"proof","node":"zz"}"#, Code::BadMessage),
        (r#"{"type":"ping","seq":-1}"#, Code::BadMessage),
        (r#"{"type":"ping","seq":1"#, Code::BadMessage),
        (&deep, Code::BadMessage),
        (&big, Code::FrameTooLarge),
    ];
    for (frame, code) in cases {
        let refusal = decode_client(frame).unwrap_err().refusal();
        assert_eq!(refusal.code, *code, "{}", &frame[..frame.len().min(80)]);
        assert!(refusal.detail.is_some_and(|detail| detail.chars().count() <= 256));
    }
}

#[test]
fn details_are_fit_to_be_shown() {
    let refusal = Refusal::new(Code::BadName).detail("a\u{1b}[31mred\nnew line");
    assert_eq!(refusal.detail.unwrap(), "a\u{FFFD}[31mred\u{FFFD}new line");
}

#[test]
fn a_newer_servers_message_is_ignored_not_fatal() {
    assert_eq!(decode_server(r#"{"type":"of_the_future","x":1}"#), Ok(ServerMessage::Unknown));
    assert!(matches!(decode_server("nonsense"), Err(DecodeError::Malformed(_))));
}

proptest! {
    #[test]
    fn no_text_panics_a_parser(text in ".{0,300}") {
        let _ = decode_client(&text);
        let _ = decode_server(&text);
        let _ = text.parse::<SeedAddr>();
        let _ = text.parse::<JoinToken>();
        let _ = text.parse::<NodeId>();
    }

    #[test]
    fn no_damaged_message_panics_a_parser(at in 0usize..200, byte in any::<u8>(), request in any::<u32>()) {
        let message = ClientMessage::Connect { request, peer: "node-2".into(), wait: true, handshake: None };
        let mut frame = encode(&message).into_bytes();
        prop_assert_eq!(decode_client(std::str::from_utf8(&frame).unwrap()), Ok(message));
        let at = at % frame.len();
        frame[at] = byte;
        if let Ok(text) = String::from_utf8(frame) {
            let _ = decode_client(&text);
        }
    }
}
