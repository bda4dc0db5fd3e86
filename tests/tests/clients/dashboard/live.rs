//! With the real server and real nodes, from the sign-in to the server's restart, by the keyboard alone.

use std::process::Command;

use meetpoint_tests::binary::{Node, Server, meetpoint};
use serde_json::json;

use super::cdp::Page;
use super::{DESK, check_access, has_browser, server, token};

/// All that is loaded before anything is shown.
const MAX_FIRST_LOAD: u64 = 600_000;

fn node(server: &Server, name: &str, args: &[&str]) -> Node {
    Node::start(Command::new(meetpoint()), &server.url(), name, Some(&server.join_token()), args)
}

/// Presses Tab until this is what has the keyboard; every stop on the way has to be seen.
fn tab_to(page: &mut Page, what: &str) {
    for _ in 0..60 {
        page.press("Tab");
        let seen = page.eval(
            "(() => { const at = document.activeElement; if (at === document.body) return true; const style = getComputedStyle(at); \
             return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2; })()",
        );
        assert_eq!(seen, json!(true), "the focus is not seen");
        if page.eval(&format!("document.activeElement.matches({what:?})")) == true {
            return;
        }
    }
    panic!("no way by the keyboard to {what}");
}

#[test]
fn the_dashboard_shows_real_nodes_live() {
    if !has_browser("the_dashboard_shows_real_nodes_live") {
        return;
    }
    let (server, _dir) = server();
    let origin = format!("http://{}", server.http);
    let mut bob = node(&server, "bob", &["--echo"]);
    bob.event("joined");
    let mut page = Page::open();
    page.look(DESK, "light");
    page.go(&format!("{origin}/"));
    page.until("document.querySelector('#token')");
    assert!(page.received > 0 && page.received < MAX_FIRST_LOAD, "{} bytes", page.received);
    let whole = "performance.getEntries().reduce((sum, one) => sum + (one.decodedBodySize ?? 0), 0)";
    let whole = page.eval(whole).as_f64().expect("a number");
    assert!(whole > 400_000.0 && whole < MAX_FIRST_LOAD as f64, "{whole} bytes");
    println!("first load: {} bytes travel, {whole} in all", page.received);
    check_access(&mut page, "sign in");

    // The first stop skips what is the same on all pages.
    page.press("Tab");
    assert_eq!(page.eval("document.activeElement.id"), "skip");
    sign_in(&mut page, "mpv1wrong");
    page.until("document.querySelector('.wrong').textContent.includes('neither the admin token nor the viewer token')");
    // That it was refused is what a browser notes of a 401.
    page.complaints.retain(|complaint| !complaint.contains("401"));
    sign_in(&mut page, &token(&server, "viewer-token"));
    page.until(
        "document.title === 'Overview · Meetpoint' && document.querySelector('#link').innerText === 'live'",
    );
    page.until("document.querySelector('.graph').ariaLabel.includes('1 node, 0 direct')");

    // Another one joins and meets the first: all of it shows without asking.
    let mut alice = node(&server, "alice", &["--connect", "bob"]);
    alice.event("echo");
    page.until("document.querySelector('.graph').ariaLabel.includes('2 nodes, 1 direct')");
    page.until("document.querySelector('.log').innerText.includes('alice joined')");
    page.until("document.querySelector('.log').innerText.includes('direct')");
    walk(&mut page);
    keeps_no_secret(&mut page, &token(&server, "viewer-token"), &origin);
    assert_eq!(page.complaints, [""; 0], "the console");
    drop(alice);
    page.until("document.querySelector('.log').innerText.includes('alice was lost') || document.querySelector('.log').innerText.includes('alice left')");
    comes_back(&mut page, server);
}

/// Types a token into the form, which has the keyboard's next stops.
fn sign_in(page: &mut Page, token: &str) {
    page.until("document.querySelector('#token')");
    tab_to(page, "#token");
    page.write(token);
    page.press("Enter");
}

/// Goes to every page by the keyboard, and back.
fn walk(page: &mut Page) {
    let pages = ["nodes", "paths", "latency", "seeds", "relay", "events"];
    for name in pages {
        tab_to(page, &format!("#tabs a[href='#/{name}']"));
        page.press("Enter");
        let title = format!("{}{} · Meetpoint", name[..1].to_uppercase(), &name[1..]);
        page.until(&format!(
            "document.title === {title:?} && document.querySelector('h1').innerText.length > 3"
        ));
        page.until("document.activeElement.id === 'main'");
        check_access(page, name);
    }
    page.eval("history.go(-5)");
    page.until("document.title === 'Nodes · Meetpoint' && document.querySelector('#tabs [aria-current]').innerText === 'Nodes'");
    tab_to(page, "main td a");
    page.press("Enter");
    page.until("document.title === 'alice · Meetpoint'");
    page.until("document.querySelector('.facts').innerText.includes('Loopback') && document.querySelector('main').innerText.includes('bob')");
    check_access(page, "a node's page");
    tab_to(page, "main a[href^='#/paths/']");
    page.press("Enter");
    page.until("document.title === 'alice and bob · Meetpoint'");
    page.until("document.querySelector('main').innerText.includes('they met directly')");
    check_access(page, "a pair's page");
    page.eval("history.back()");
    page.until("document.title === 'alice · Meetpoint'");
    page.eval("location.hash = '#/'");
    page.until("document.title === 'Overview · Meetpoint'");
}

/// The token is where it must be, and nobody else was asked for anything.
fn keeps_no_secret(page: &mut Page, token: &str, origin: &str) {
    let kept = page.eval("JSON.stringify([Object.entries(localStorage), document.cookie, location.href, document.documentElement.outerHTML])");
    assert!(!kept.as_str().expect("text").contains(token));
    assert_eq!(page.eval("sessionStorage.getItem('meetpoint-token')"), token);
    for url in &page.asked {
        let is_own = url.starts_with(&format!("{origin}/")) || url.starts_with("about:");
        assert!(is_own && !url.contains(token), "it asked {url}");
    }
}

/// The server goes away, which is said, and comes back, which is noticed.
fn comes_back(page: &mut Page, mut server: Server) {
    let (addr, data) = (server.http.to_string(), server.data.clone());
    server.process.terminate().expect("it ends");
    page.until("document.querySelector('#link').innerText.includes('does not answer')");
    check_access(page, "while the server is away");
    let args = [
        "--http",
        &addr,
        "--stun",
        "127.0.0.1:0",
        "--stun-alt-port",
        "0",
        "--stun-tcp",
        "off",
        "--stun-tls",
        "off",
    ];
    let again = Server::start(Command::new(meetpoint()), &data, &args);
    page.until("document.querySelector('#link').innerText === 'live'");
    page.eval("location.hash = '#/relay'");
    page.until("document.querySelector('main').innerText.includes('does not relay')");
    drop(again);
}

#[test]
fn an_empty_cluster_says_what_to_do_next() {
    if !has_browser("an_empty_cluster_says_what_to_do_next") {
        return;
    }
    let (server, _dir) = server();
    let mut page = Page::open();
    page.look(DESK, "dark");
    page.go(&format!("http://{}/", server.http));
    sign_in(&mut page, &token(&server, "admin-token"));
    page.until(
        "document.querySelector('main').innerText.includes('meetpoint node --rendezvous https://127.0.0.1')",
    );
    check_access(&mut page, "an empty cluster");
    assert_eq!(page.complaints, [""; 0], "the console");
}
