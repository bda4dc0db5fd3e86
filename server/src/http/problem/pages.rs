//! A page for each problem, at the URI that its `type` names, and one that lists them all.
//!
//! They are for whoever meets a problem in a log and follows its link. All their words are this file's and the table of codes':
//! nothing that was sent is on them.

use std::fmt::Write;

use axum::Router;
use axum::extract::Path;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Problem, ProblemCode, TYPES};
use crate::http::App;

/// The dashboard's sheet, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What is told of a problem besides its status and its hint.
struct Page {
    code: ProblemCode,
    means: &'static str,
    causes: &'static [&'static str],
}

macro_rules! pages {
    ($($variant:ident: $means:literal, [$($cause:literal),+ $(,)?];)+) => {
        const PAGES: &[Page] =
            &[$(Page { code: ProblemCode::$variant, means: $means, causes: &[$($cause),+] }),+];
    };
}

pages! {
    BadRequest: "The request is not one that this server can read.",
        ["A part of the path is no valid text once its percent signs are resolved.", "A proxy or a script put the request together wrongly."];
    BadJson: "The body is not JSON.",
        ["A quote, a comma or a brace is missing.", "The shell took the quotes away: put the body in single quotes.", "The body is empty where one is needed."];
    BadQuery: "A parameter behind the question mark is unknown, or its value is of another kind.",
        ["Its name is misspelt.", "A number or an event's type has a typing error.", "A token was put into the URL, where it never belongs."];
    BadLimit: "The number of entries of a page is none that is allowed.",
        ["`limit` is 0 or above 500.", "The whole of a long list was asked for at once: it comes in pages."];
    BadCursor: "The place in the list is none that this server gave.",
        ["`after` belongs to another list.", "It was cut off, or encoded twice."];
    BadEventId: "The place in the event stream is none that this server gave.",
        ["`after` or Last-Event-ID is neither an event's `id` nor its `seq`.", "It was cut off."];
    BadNodeId: "What stands in the path is no node's id.",
        ["A node's name was given where its id is needed.", "The id was cut off, or written in capitals."];
    BadTokenId: "What stands in the path is no join token's id.",
        ["The token itself was given: do not put it into URLs, and revoke it if a log has it now.", "The id was cut off."];
    Unauthorized: "The request bears no token, or one that this server does not know.",
        ["There is no Authorization header.", "The token is that of another server, or it was replaced since.", "A space or a line's end was copied along.", "The scheme is not `Bearer`."];
    Forbidden: "The token is known, and does not suffice for this.",
        ["The viewer token was used for something that changes the server's state."];
    BadForwarded: "A trusted proxy says in two ways who asks, so neither can be believed.",
        ["The proxy adds X-Forwarded-For and passes on a Forwarded header that the client had set, or the other way round."];
    NotFound: "There is nothing at this path.",
        ["The path has a typing error or a slash too many.", "The client is made for another version of the server."];
    UnknownCluster: "This server has no cluster of that name.",
        ["The name has a typing error.", "The cluster lives on another server.", "A foreign cluster was taken away."];
    ForeignCluster: "The cluster's home is another server, and only the home can do this.",
        ["A node, a token or a secret of a foreign cluster was asked for here."];
    OwnCluster: "This server is the cluster's home, so it can't be added or taken away as a foreign one.",
        ["The name is that of a cluster that this server made at its start."];
    ForeignClusterKnown: "The cluster is served already, under another key.",
        ["Its home made a new key.", "Two different clusters have the same name."];
    UnknownNode: "No node of the cluster has that id or name.",
        ["It never joined this cluster.", "It was ephemeral and is forgotten since it left.", "It is away and was asked for by its name: then only its id is known.", "It was removed."];
    UnknownSeed: "The cluster has no seed of that name.",
        ["The name has a typing error.", "The seed was deleted."];
    UnknownToken: "The cluster has no join token of that id.",
        ["The id is that of another cluster's token.", "The token expired long ago and was cleared away."];
    UnknownRevocation: "No node of that id is revoked in the cluster.",
        ["It was never removed.", "The revocation has been lifted, or has ended."];
    BadRevocation: "The word that a node was removed is not signed by the cluster's key.",
        ["It was changed on its way.", "It is about another cluster.", "The cluster's key is another one by now."];
    UnknownSecret: "The cluster has no secret of that id in use.",
        ["It has been removed already.", "The id is that of another cluster's secret."];
    KnownSecret: "The cluster has this very secret in use already.",
        ["The same change was sent twice."];
    UnknownRelaySession: "The relay has no allocation of that id.",
        ["It has ended: its client left, or was silent for too long.", "The server was started since."];
    UnknownRelayUser: "The relay has no static user of that name.",
        ["The name has a typing error.", "The user was minted by `POST /v1/relay/credentials`: those are not kept."];
    UnknownRelaySecret: "The relay accepts no secret of that id.",
        ["It has been dropped already."];
    CurrentRelaySecret: "New credentials are minted with this secret, so it can't be dropped.",
        ["No other secret has been added yet."];
    KnownRelaySecret: "The relay accepts this very secret already.",
        ["The same change was sent twice."];
    GivenToken: "The token comes from a file or a variable that the server's start names, so the server does not replace it.",
        ["--admin-token-file, --viewer-token-file or their variables are in use."];
    NoTokenBefore: "No replaced token is still accepted.",
        ["It was dropped already.", "Its time is over.", "The token was never replaced."];
    RelayFull: "The relay has as many static users or secrets as it may.",
        ["Old ones were never removed."];
    RelayOff: "This server does not relay.",
        ["It was started without --relay-ip."];
    SeedNameTaken: "Another seed of the cluster has this name.",
        ["Two servers were given the same name.", "The server has a new seed key: its data directory was lost."];
    SeedAddressTaken: "Another seed of the cluster has this address.",
        ["The server is registered under another name already."];
    SeedApproved: "The operator stands by this seed, so it can't move by itself.",
        ["The server has another address now and registers itself anew."];
    StaleRegistration: "A newer registration of this seed is known.",
        ["The same registration was sent again.", "Two servers run with the same data directory's copy."];
    ClockSkew: "The registration was signed at a time that is too far from this server's.",
        ["The clock of one of the two is wrong: let both follow a time server.", "The registration was held up on its way."];
    BadRegistration: "The registration's signature does not hold.",
        ["It was signed for another server.", "It was changed on its way, for example by a proxy that writes JSON anew."];
    BadToken: "The join token does not let this in.",
        ["It has expired, was revoked, or is used up.", "Its scope is another one.", "It allows other names only.", "It is another server's."];
    NotHere: "The request names an address that this server does not know to be its own.",
        ["The server is behind an address translation and was not told its public address.", "A name resolves to another server."];
    PublicSeedInPrivateCluster: "A seed of a PRIVATE cluster can't be public.",
        ["The seed's address is a public one.", "Its network type was given as PUBLIC."];
    BadSeedInPublicCluster: "A seed of a PUBLIC cluster has to be public and reachable.",
        ["The seed's address is private or loopback.", "It was declared PRIVATE.", "It could not be reached."];
    NoSeedInPublicCluster: "Without this seed the PUBLIC cluster would have none.",
        ["Its last approved seed was to be deleted or disapproved."];
    DeclaredPublicButPrivate: "The seed is declared public and its address is not.",
        ["The address is private, loopback, or one that a carrier shares among customers."];
    DeclaredPrivateButPublic: "The seed is declared private and its address is public.",
        ["The public address was given instead of the private one."];
    SeedAddressRefused: "No server can have this address.",
        ["It is a multicast, a documentation or a reserved address.", "It is the address that means all interfaces."];
    MethodNotAllowed: "There is something at this path, and not with this method.",
        ["GET was sent for a change, or the other way round.", "A redirect made a GET of a POST."];
    NotAcceptable: "The answer has no form that the request accepts.",
        ["`Accept` names JSON, and this is an event stream."];
    Timeout: "The request took too long.",
        ["The client sends slowly, or stopped in the middle.", "The server or its disk is overloaded."];
    ClusterFull: "The cluster has as many of these as it may.",
        ["Seeds, tokens or nodes that nobody needs any more were never removed.", "A script adds them in a loop."];
    TooLarge: "The request's body is longer than any that this server has use for.",
        ["A file was sent instead of a small object."];
    UrlTooLong: "Path and query are longer than any that this server has.",
        ["A list was put into the query.", "A redirect goes in circles and adds to the URL."];
    HeadersTooLarge: "The request's headers are longer than any that this server has use for.",
        ["Large cookies of another service on the same host are sent along."];
    UnsupportedMediaType: "The body is of a kind that this server does not read.",
        ["The header `Content-Type` is missing: with curl use --json, or -H.", "A form was sent."];
    Invalid: "The body is JSON, and says something that can't be.",
        ["A field is misspelt or of another type.", "A number is out of its range.", "A name has characters that names do not have."];
    UpgradeRequired: "This path speaks WebSocket, and the request does not ask for that.",
        ["It was opened in a browser or with curl.", "A proxy in between does not pass the Upgrade header on."];
    RateLimited: "Too many requests came from this principal or this address.",
        ["A program asks in a loop: let it watch `/v1/events` instead.", "Many clients share one address, and no trusted proxy tells them apart.", "Wrong tokens were tried again and again."];
    Overloaded: "The server has as many requests or streams as it takes at once, or is going away.",
        ["More than 256 event streams are open.", "The disk is slower than what is written.", "The server is being stopped."];
    NotReady: "The server is running, and a part of it does not work.",
        ["It has only just started, or is being stopped.", "Its disk is full or slow.", "No STUN answer came back on its own host: a firewall drops it."];
    Internal: "The server failed, through no fault of the request.",
        ["This is a defect: the log has the particulars under the request's id, which the answer's header x-request-id has."];
    Storage: "The registry or a file in the data directory could not be read or written.",
        ["The disk fails, or is mounted read-only.", "The data directory belongs to another user.", "The database was damaged: see `PRAGMA integrity_check`."];
    BackupRuns: "One backup is made at a time, and one is being made or read.",
        ["Two operators, or two runs of one timer, met.", "A client that reads slowly has not come to its end; it has ten minutes."];
    ConfigRefused: "What the files say now is no configuration of a server, so the one in use was kept, all of it.",
        ["A key of the configuration file has a typing error, or a value that its flag does not take.", "The certificate and the key do not belong together.", "A file that a flag names was moved, or may not be read."];
    DiskFull: "There is no room left for the server's data directory. What is there can still be read.",
        ["Another program fills the same disk.", "The audit log or the registry has outgrown its volume.", "A quota is used up."];
}

fn page_of(code: ProblemCode) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.code == code)
}

/// `/problems` and `/problems/CODE`.
pub(in crate::http) fn routes() -> Router<App> {
    let one = |Path(word): Path<String>| std::future::ready(one(&word));
    Router::new()
        .route(TYPES, get(|| std::future::ready(page(&index()))))
        .route(&format!("{TYPES}/{{code}}"), get(one))
}

fn one(word: &str) -> Response {
    let code = ProblemCode::ALL.iter().find(|code| code.as_str() == word);
    match code {
        Some(code) => page(&text(*code)),
        None => Problem::new(ProblemCode::NotFound, "no problem has this code").into_response(),
    }
}

fn page(html: &str) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    (headers, html.to_owned()).into_response()
}

fn frame(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} · Meetpoint</title>\n<link rel=\"icon\" href=\"/dashboard/icon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"/dashboard/style.css\">\n</head>\n<body>\n<header class=\"bar\">\
         <a class=\"brand\" href=\"/\">Meetpoint</a></header>\n<main>\n{body}</main>\n\
         <footer class=\"foot\"><a href=\"/\">Dashboard</a><a href=\"/docs/\">REST interface</a>\
         <a href=\"{TYPES}\">Problems</a></footer>\n</body>\n</html>\n"
    )
}

fn text(code: ProblemCode) -> String {
    let (word, status) = (code.as_str(), code.status());
    let page = page_of(code);
    let means = page.map_or("", |page| page.means);
    // Writing to a string can't fail.
    let mut body = String::new();
    let _ = writeln!(
        body,
        "<div class=\"head\"><h1><code>{word}</code></h1><p class=\"soft\">HTTP status {status}</p></div>\n\
         <section class=\"card\"><header><h2>What it means</h2></header><div class=\"body\"><p>{}</p></div></section>",
        markup(means)
    );
    let causes = page.map_or(&[][..], |page| page.causes);
    let causes: String = causes.iter().map(|cause| format!("<li>{}</li>", markup(cause))).collect();
    let _ = writeln!(
        body,
        "<section class=\"card\"><header><h2>Likely causes</h2></header><div class=\"body\"><ul>{causes}</ul></div></section>\n\
         <section class=\"card\"><header><h2>What to do</h2></header><div class=\"body\"><p>{}.</p></div></section>\n\
         <p class=\"soft\">The answer's <code>detail</code> has the particulars of the case; its header <code>x-request-id</code> is \
         in the server's log. <a href=\"{TYPES}\">All problems</a></p>",
        markup(&capitalised(code.hint()))
    );
    frame(word, &body)
}

fn index() -> String {
    let row = |code: &ProblemCode| {
        let (word, status) = (code.as_str(), code.status().as_u16());
        let means = page_of(*code).map_or_else(String::new, |page| markup(page.means));
        format!(
            "<tr><td><a href=\"{TYPES}/{word}\"><code>{word}</code></a></td><td class=\"right\">{status}</td><td class=\"long\">{means}</td></tr>\n"
        )
    };
    let rows: String = ProblemCode::ALL.iter().map(row).collect();
    let body = format!(
        "<div class=\"head\"><h1>Problems</h1><p class=\"soft\">Each refusal of the REST interface has one of these codes. Its \
         <code>type</code> leads to the code's page here.</p></div>\n<section class=\"card\" aria-label=\"Problems\">\
         <div class=\"frame whole\" tabindex=\"0\" role=\"region\" aria-label=\"Problems, scrollable\"><table><thead><tr><th scope=\"col\">Code</th>\
         <th scope=\"col\" class=\"right\">Status</th><th scope=\"col\">What it means</th></tr></thead><tbody>\n{rows}</tbody></table></div></section>\n"
    );
    frame("Problems", &body)
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Text as HTML, with what stands in backticks as code.
fn markup(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let parts = escaped.split('`').enumerate();
    parts
        .map(|(at, part)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_one_page() {
        for code in ProblemCode::ALL {
            let pages: Vec<&Page> = PAGES.iter().filter(|page| page.code == *code).collect();
            let [page] = pages[..] else {
                panic!("{}: {} pages; add one to this file's table", code.as_str(), pages.len())
            };
            assert!(
                page.means.ends_with('.') && page.causes.iter().all(|cause| cause.ends_with('.')),
                "{}",
                code.as_str()
            );
        }
    }

    #[test]
    fn text_becomes_markup_and_nothing_else_does() {
        assert_eq!(markup("a <b> & `c` d"), "a &lt;b&gt; &amp; <code>c</code> d");
        assert_eq!(markup("`a`"), "<code>a</code>");
    }
}
