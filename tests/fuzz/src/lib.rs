//! What is fuzzed, as plain functions from bytes to nothing that panic when something is wrong.
//!
//! Each function of [`TARGETS`] runs in two ways. Under libFuzzer (`tests/fuzz/run`, the crate in `libfuzzer/`) it is
//! searched for as long as one likes. Under `cargo test` it replays what libFuzzer found worth keeping (`corpus/`),
//! what once went wrong (`regressions/`), and a fixed number of seeded changes of these, the same ones each time.
//!
//! A target that reads one kind of thing compares the reader with a slow one written here from the RFC's words, or sees
//! to it that what is accepted survives being written and read again. [`server()`] plays a whole life of the STUN and
//! TURN server against a model of what its answers promised.

mod agent;
mod codecs;
mod control;
mod input;
mod meeting;
mod message;
mod mutate;
mod node;
mod relay_client;
mod server;
mod stream;
mod text;
mod username;
mod wire;

pub use agent::agent;
pub use codecs::{Difference, differences, stun_codecs};
pub use control::{certificate, frames};
pub use meeting::meeting;
pub use message::{stun_address, stun_message};
pub use mutate::{Dice, mutate};
pub use node::{flow, lan, report, router, seed_list};
pub use relay_client::{is_relayed, relay_client};
pub use server::{play, server};
pub use stream::stream;
pub use text::{cidr, join_token, words};
pub use username::username;

/// Something to fuzz.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder and of its libFuzzer program.
    pub name: &'static str,
    /// What runs.
    pub run: fn(&[u8]),
    /// Longer inputs are no use.
    pub max_len: usize,
    /// Tests give it this share of their runs; a cheap target has a larger one.
    pub share: u32,
    /// Pieces that inputs are made of.
    pub words: &'static [&'static [u8]],
}

const COOKIE: &[u8] = &wire::COOKIE;
const FRAME_WORDS: &[&[u8]] = &[
    b"{\"type\":\"",
    b"hello",
    b"proof",
    b"candidates",
    b"connect",
    b"introduction",
    b"welcome",
    b"\":",
    b",\"",
    b"null",
    b"4294967296",
    b"-1",
    b"\\u0000",
    b"\"20.0.0.1:4000\"",
    b"[[[[",
    b"}",
];
const MEETING_WORDS: &[&[u8]] = &[
    b"{\"type\":\"half\",",
    b"{\"type\":\"meeting\",",
    b"connect",
    b"refused",
    b"\"asks\":true",
    b"\"candidates\":[",
    b"\"20.0.0.1:4000\"",
    b"\"[fe80::1%2]:1\"",
    b"18446744073709551615",
    b"a4dqobyha4dqobyha4dqobyha4",
    b",",
    b"]}",
];
const TEXT_WORDS: &[&[u8]] = &[
    b"mpj1",
    b"@",
    b":",
    b"[::1]",
    b"::ffff:",
    b"/32",
    b"/128",
    b"10.0.0.0",
    b".",
    b"-",
    b"65535",
    b"2002:",
    b"00",
];
const STUN_WORDS: &[&[u8]] = &[
    COOKIE,
    &[0x00, 0x01],
    &[0x00, 0x08, 0x00, 0x14],
    &[0x00, 0x1C, 0x00, 0x20],
    &[0x80, 0x28, 0x00, 0x04],
    &[0x00, 0x20, 0x00, 0x08, 0x00, 0x01],
    &[0x00, 0x12, 0x00, 0x14, 0x00, 0x02],
    &[0x80, 0x20],
];
const LAN_WORDS: &[&[u8]] = &[
    b"{\"meetpoint\":1",
    b"\"id\":\"",
    b"\"name\":\"",
    b"\"address\":\"",
    b"\"port\":",
    b"\"capabilities\":[",
    b"10.0.0.1",
    b"::ffff:",
    b"._meetpoint._tcp.local.",
    b"main",
    b",",
    b"}",
];
const LIST_WORDS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: ",
    b"\r\n\r\n",
    b"{\"address\":\"",
    b"\"fingerprint\":",
    b"\"priority\":",
    b"https://",
    b"a@h:1",
    b"# ",
    b"[",
    b"]",
    b"\n",
];
const ROUTER_WORDS: &[&[u8]] = &[
    b"LOCATION: http://10.0.0.1:5000/",
    b"<service>",
    b"</service>",
    b"<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>",
    b"<controlURL>",
    b"</controlURL>",
    b"<URLBase>http://10.0.0.1:80/</URLBase>",
    b"<NewExternalIPAddress>",
    b"</NewExternalIPAddress>",
    b"&amp;",
    b"\r\n",
    &[2, 0x80, 0, 0],
    &[0, 0x80, 0, 0],
];
const REPORT_WORDS: &[&[u8]] = &[
    b"{\"mapping\":\"",
    b"\"filtering\":\"",
    b"\"allocator\":{\"kind\":\"",
    b"endpoint_independent",
    b"address_and_port_dependent",
    b"sequential",
    b"block",
    b"\"delta\":",
    b"\"first\":",
    b"}\n",
];
/// Steps of the relay's play that lead somewhere.
const RELAY_WORDS: &[&[u8]] =
    &[&[1, 1, 1], &[1, 0, 7, 0], &[5, 0], &[4, 0], COOKIE, &[0x01, 0x03], &[0x40, 0x00]];
/// Steps of the server's play that lead somewhere.
const PLAY_WORDS: &[&[u8]] =
    &[&[19, 0, 0, 0], &[19, 1, 0, 0], &[19, 5, 4, 0], &[0, 2, 0, 0], &[13, 8], &[12, 0], &[12, 1]];

/// Everything that is fuzzed.
pub const TARGETS: [Target; 19] = [
    Target { name: "agent", run: agent, max_len: 1024, share: 1, words: STUN_WORDS },
    Target { name: "certificate", run: certificate, max_len: 256, share: 4, words: TEXT_WORDS },
    Target { name: "cidr", run: cidr, max_len: 128, share: 100, words: TEXT_WORDS },
    Target { name: "flow", run: flow, max_len: 512, share: 50, words: &[&[0xF7]] },
    Target { name: "frames", run: frames, max_len: 4096, share: 25, words: FRAME_WORDS },
    Target { name: "join_token", run: join_token, max_len: 300, share: 25, words: TEXT_WORDS },
    Target { name: "lan", run: lan, max_len: 1300, share: 50, words: LAN_WORDS },
    Target { name: "meeting", run: meeting, max_len: 4096, share: 10, words: MEETING_WORDS },
    Target { name: "relay_client", run: relay_client, max_len: 1024, share: 1, words: RELAY_WORDS },
    Target { name: "report", run: report, max_len: 600, share: 50, words: REPORT_WORDS },
    Target { name: "router", run: router, max_len: 2048, share: 50, words: ROUTER_WORDS },
    Target { name: "seed_list", run: seed_list, max_len: 2048, share: 25, words: LIST_WORDS },
    Target { name: "server", run: server, max_len: 2048, share: 10, words: PLAY_WORDS },
    Target { name: "stream", run: stream, max_len: 512, share: 50, words: STUN_WORDS },
    Target { name: "stun_address", run: stun_address, max_len: 64, share: 100, words: STUN_WORDS },
    Target { name: "stun_codecs", run: stun_codecs, max_len: 512, share: 50, words: STUN_WORDS },
    Target { name: "stun_message", run: stun_message, max_len: 512, share: 100, words: STUN_WORDS },
    Target { name: "username", run: username, max_len: 600, share: 25, words: TEXT_WORDS },
    Target { name: "words", run: words, max_len: 300, share: 50, words: TEXT_WORDS },
];
