//! Takes secrets out of text that somebody else will read.
//!
//! Nothing that goes into an archive should hold any: the server shows none and logs none. This is for what an
//! operator's own log, or a mistake, brings along.

use std::path::Path;

use crate::args::ServerArgs;
use crate::config;

/// What stands in the place of a secret.
const REDACTED: &str = "(redacted)";
/// A shorter known word would be found in everything.
const MIN_KNOWN_LEN: usize = 8;
/// What our own begin with: join tokens, admin and viewer tokens, cluster secrets.
const PREFIXES: [&str; 4] = ["mpj1", "mpa1", "mpv1", "mps1"];
/// Longer than a prefix with anything behind it that could be a name.
const MIN_TOKEN_LEN: usize = 20;
/// Beside the admin token, if that is read from a data directory.
const FILES: [&str; 6] =
    ["admin-token", "viewer-token", "join-token", "credential-secret", "seed-key", "tls/key.pem"];
/// Words after which a value is a secret, whoever wrote them.
const LABELS: [&str; 4] = ["token", "secret", "password", "authorization"];

/// Knows this machine's secrets, as far as they can be read, and what secrets look like.
pub(super) struct Redactor {
    known: Vec<String>,
}

impl Redactor {
    pub(super) fn new(server: &ServerArgs) -> Self {
        let mut known = config::secrets_of_environment();
        let mut read = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            known.extend(text.lines().map(|line| line.trim().to_owned()));
        };
        read(&server.admin_token_file);
        server.viewer_token_file.iter().for_each(|file| read(file));
        for name in FILES {
            read(&server.admin_token_file.with_file_name(name));
        }
        Self::of(known)
    }

    fn of(mut known: Vec<String>) -> Self {
        known.retain(|secret| secret.len() >= MIN_KNOWN_LEN && !secret.starts_with("-----"));
        Self { known }
    }

    /// The text without them.
    pub(super) fn clean(&self, text: &str) -> String {
        let known = |text: String, secret: &String| text.replace(secret.as_str(), REDACTED);
        let text = self.known.iter().fold(text.to_owned(), known);
        let mut out = String::with_capacity(text.len());
        let mut is_in_key = false;
        for line in text.split_inclusive('\n') {
            if line.contains("PRIVATE KEY-----") {
                // A key may be in one line, where its breaks are escaped; what is behind it goes with it.
                let before = line.split("-----").next().filter(|_| !is_in_key);
                is_in_key = line.contains("-----BEGIN") && !line.contains("-----END");
                words(before.unwrap_or_default(), &mut out);
                out.push_str("(redacted key)\n");
            } else if !is_in_key {
                words(line, &mut out);
            }
        }
        out
    }
}

/// Copies a line word by word; one that looks like a token, or that stands after a label, is left out.
fn words(line: &str, out: &mut String) {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || "-_+/=.~".contains(c);
    let mut rest = line;
    let mut expects_value = false;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_of_word(c) != is_of_word(first)).unwrap_or(rest.len());
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        if !is_of_word(first) {
            // Only a sign of assignment, and white space and quotes around it, stand before a value.
            expects_value &= piece.chars().all(|c| " :\"'\\".contains(c));
            out.push_str(piece);
            continue;
        }
        let (label, value) = piece.split_once('=').unwrap_or((piece, ""));
        let is_label = |word: &str| LABELS.iter().any(|label| word.to_ascii_lowercase().ends_with(label));
        let looks_like_one =
            piece.len() >= MIN_TOKEN_LEN && PREFIXES.iter().any(|prefix| piece.contains(prefix));
        let is_scheme = piece.eq_ignore_ascii_case("bearer");
        if looks_like_one {
            out.push_str(REDACTED);
        } else if is_label(label) && !value.is_empty() {
            out.push_str(label);
            out.push('=');
            out.push_str(REDACTED);
        } else if expects_value && !is_scheme && behind_label(piece) {
            out.push_str(REDACTED);
        } else {
            out.push_str(piece);
        }
        // `null` and the like are no secrets, and a sentence about tokens has no colon behind the word.
        expects_value = is_scheme
            || (is_label(label) && rest.trim_start_matches(['"', '\'', '\\', ' ']).starts_with([':', '=']))
            || (is_label(label) && piece.ends_with('='));
    }
}

fn behind_label(piece: &str) -> bool {
    piece.len() >= MIN_KNOWN_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let redactor = Redactor::of(vec!["winter garden".to_owned(), "short".to_owned()]);
        let check = |text: &str, expect: &str| assert_eq!(redactor.clean(text), expect, "{text}");
        check("all is well, short as it is\n", "all is well, short as it is\n");
        check("my winter garden is known", "my (redacted) is known");
        check("got mpa1abcdefghijklmnopqrst here", "got (redacted) here");
        check("\"x\":\"mpj1abcdefghijklmnopqrst.uvw\"", "\"x\":\"(redacted)\"");
        check("authorization: Bearer abcdefghijkl\n", "authorization: Bearer (redacted)\n");
        check("{\"password\":\"hunter2hunter2\"}", "{\"password\":\"(redacted)\"}");
        check("{\\\"join_token\\\": \\\"hunter2hunter2\\\"}", "{\\\"join_token\\\": \\\"(redacted)\\\"}");
        check("MEETPOINT_ADMIN_TOKEN=hunter2hunter2 x", "MEETPOINT_ADMIN_TOKEN=(redacted) x");
        check("--admin-token=hunter2hunter2", "--admin-token=(redacted)");
        check("the token was revoked yesterday", "the token was revoked yesterday");
        check("{\"scope\":\"node\",\"max_uses\":null}", "{\"scope\":\"node\",\"max_uses\":null}");
        check(
            "a\n-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----\nb\n",
            "a\n(redacted key)\n(redacted key)\nb\n",
        );
        check(
            "{\"key\":\"-----BEGIN PRIVATE KEY-----\\nMIGH\\n-----END PRIVATE KEY-----\"}\nb\n",
            "{\"key\":\"(redacted key)\nb\n",
        );
    }
}
