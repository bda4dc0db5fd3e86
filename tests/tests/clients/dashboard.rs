//! The dashboard and the documentation in headless Chromium.
//!
//! What is shown live is shown with the real binary: its server, its nodes, its restart. How the pages look, at which
//! size and in which colours, is tried with a cluster that is made up, so that it is the same each time. Pictures go to
//! `target/dashboard`; a coarse grid of their brightness is committed (`screens.txt`) and compared with some tolerance,
//! since fonts differ between machines. `MEETPOINT_UPDATE=1` writes it anew; look at the pictures then.

mod cdp;
mod docs;
mod fake;
mod live;
mod looks;

use std::path::PathBuf;

use meetpoint_tests::binary::Server;
use meetpoint_tests::lab::{is_installed, skip};
use serde_json::{Value, json};
use tempfile::TempDir;

use cdp::Page;

/// A desk's window, and a phone's.
const DESK: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (390, 844);
/// Run in pages, and in nothing that is shipped.
const AXE: &str = include_str!("../../vendor/axe-4.14.1.min.js");

/// False, with word of it, where there is no browser.
fn has_browser(name: &str) -> bool {
    let is_there = is_installed("chromium");
    if !is_there {
        skip(name, "needs a browser: on Debian, apt-get install chromium");
    }
    is_there
}

/// A server on loopback with a relay.
fn server() -> (Server, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let args = ["--relay-ip", "127.0.0.1", "--stun-tcp", "off", "--stun-tls", "off"];
    (Server::on_loopback(&dir.path().join("data"), &args), dir)
}

fn token(server: &Server, name: &str) -> String {
    let text = std::fs::read_to_string(server.data.join(name)).expect("a token");
    text.trim().to_owned()
}

/// Where pictures go.
fn pictures() -> PathBuf {
    let own = std::env::current_exe().expect("a test executable");
    let target = own.ancestors().find(|dir| dir.ends_with("target") || dir.join("CACHEDIR.TAG").exists());
    let dir = target.unwrap_or(&own).join("dashboard");
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}

/// Checks what is seen with axe-core, all rules that it has.
fn check_access(page: &mut Page, what: &str) {
    if page.eval("typeof window.axe") != "object" {
        page.eval(&format!("{AXE}; 0"));
    }
    let found = page.eval(
        "axe.run(document, { resultTypes: ['violations'] }).then((found) => found.violations.map((one) => \
         `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html.slice(0, 200)).join(' ; ')}`))",
    );
    assert_eq!(found, json!([]), "{what}");
}

/// Nothing sticks out to the right.
fn check_width(page: &mut Page, what: &str) {
    let wide = page.eval("document.documentElement.scrollWidth > innerWidth");
    assert_eq!(wide, Value::Bool(false), "{what}: wider than the window");
}
