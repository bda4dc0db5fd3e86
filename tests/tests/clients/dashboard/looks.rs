//! Each page with a cluster that is made up: in light and dark, on a desk and on a phone; with a thousand nodes; with
//! hostile names.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::cdp::Page;
use super::fake::{Cluster, HOSTILE, NOW_MS, TOKEN, id, serve};
use super::{DESK, PHONE, check_access, check_width, has_browser, pictures, server};

/// Set to write the committed grids instead of comparing them.
const UPDATE: &str = "MEETPOINT_UPDATE";
/// The grid's columns and rows. A cell is as wide as a word: layout shows in it, and letters hardly do.
const GRID: (u32, u32) = (16, 12);
/// How far the brightness of a cell may be off on the average, of 255: a machine with other fonts stays below it, a
/// page without its sheet, its graph or a card does not.
const MEAN: f64 = 9.0;

/// The page's clock stands a minute after everything happened, wherever the test runs.
fn open(addr: std::net::SocketAddr) -> Page {
    let mut page = Page::open();
    let source = format!(
        "Date.now = () => {}; sessionStorage.setItem('meetpoint-token', '{TOKEN}');",
        NOW_MS + 60_000
    );
    page.call("Emulation.setTimezoneOverride", &json!({ "timezoneId": "UTC" }));
    page.call("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": source }));
    page.look(DESK, "light");
    page.go(&format!("http://{addr}/"));
    page.until("document.title === 'Overview · Meetpoint'");
    page
}

fn show(page: &mut Page, route: &str) {
    page.eval(&format!("location.hash = '#/{route}'; 0"));
    page.until(&format!("location.hash === '#/{route}' && document.querySelector('main h1') && !document.title.startsWith('Loading')"));
    // What is gathered is drawn, and a frame of it is shown.
    page.eval("new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(() => done(0))), 350))");
}

#[test]
fn each_page_is_clean_in_light_and_dark_on_a_desk_and_a_phone() {
    let name = "each_page_is_clean_in_light_and_dark_on_a_desk_and_a_phone";
    if !has_browser(name) {
        return;
    }
    let (server, _dir) = server();
    let mut page = open(serve(Cluster::of(14), server.http));
    let (node, pair) = (format!("nodes/{}", id(5)), format!("paths/{}/{}", id(4), id(5)));
    let routes = [
        ("overview", ""),
        ("nodes", "nodes"),
        ("node", &*node),
        ("paths", "paths"),
        ("pair", &*pair),
        ("latency", "latency"),
        ("seeds", "seeds"),
        ("relay", "relay"),
        ("events", "events"),
    ];
    let mut grids = String::new();
    for (size, device) in [(DESK, "desk"), (PHONE, "phone")] {
        for theme in ["light", "dark"] {
            page.look(size, theme);
            for (name, route) in routes {
                let what = format!("{name}-{device}-{theme}");
                show(&mut page, route);
                check_width(&mut page, &what);
                check_access(&mut page, &what);
                let grid = picture(&mut page, &what, theme);
                let _ = writeln!(grids, "{what} {grid}");
            }
        }
    }
    // A switch overrules what the browser prefers.
    page.eval("document.querySelector('#theme').click()");
    assert_eq!(page.eval("getComputedStyle(document.documentElement).colorScheme"), "light");
    assert_eq!(page.complaints, [""; 0], "the console");
    compare(&grids);
}

/// Takes a picture, checks what holds of any, and gives its grid.
fn picture(page: &mut Page, what: &str, theme: &str) -> String {
    let data = page.picture(&pictures().join(format!("{what}.png")));
    let (columns, rows) = GRID;
    // The page's own policy lets no other page's pictures in: this is drawn outside of it.
    let grid = page.eval(&format!(
        "(async () => {{ const bytes = Uint8Array.from(atob('{data}'), (one) => one.charCodeAt(0)); \
         const image = await createImageBitmap(new Blob([bytes], {{ type: 'image/png' }})); \
         const canvas = new OffscreenCanvas({columns}, {rows}); const draw = canvas.getContext('2d'); \
         draw.imageSmoothingQuality = 'high'; draw.drawImage(image, 0, 0, {columns}, {rows}); \
         const {{ data }} = draw.getImageData(0, 0, {columns}, {rows}); const grid = []; \
         for (let at = 0; at < data.length; at += 4) grid.push(Math.round(data[at] * .299 + data[at + 1] * .587 + data[at + 2] * .114)); \
         return grid; }})()"
    ));
    let grid: Vec<u8> = serde_json::from_value(grid).expect("a grid");
    let mean = grid.iter().map(|cell| f64::from(*cell)).sum::<f64>() / grid.len() as f64;
    assert_eq!(mean > 128.0, theme == "light", "{what} has a brightness of {mean}");
    let (low, high) = (grid.iter().min(), grid.iter().max());
    assert!(high.zip(low).is_some_and(|(high, low)| high - low > 4), "{what} shows nothing");
    grid.iter().fold(String::new(), |mut text, cell| {
        let _ = write!(text, "{cell:02x}");
        text
    })
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/dashboard/screens.txt")
}

/// Holds the grids against the committed ones.
fn compare(grids: &str) {
    if std::env::var_os(UPDATE).is_some() {
        return std::fs::write(file(), grids).expect("the grids are written");
    }
    let committed = std::fs::read_to_string(file()).expect("screens.txt");
    assert_eq!(committed.lines().count(), grids.lines().count());
    for (was, is) in committed.lines().zip(grids.lines()) {
        let ((name, was), (found, is)) =
            (was.split_once(' ').expect("a grid"), is.split_once(' ').expect("a grid"));
        assert_eq!(name, found);
        let cells = |text: &str| -> Vec<i32> {
            (0..text.len() / 2)
                .map(|at| i32::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal"))
                .collect()
        };
        let (was, is) = (cells(was), cells(is));
        let off: i32 = was.iter().zip(&is).map(|(was, is)| (was - is).abs()).sum();
        let mean = f64::from(off) / was.len() as f64;
        assert!(
            mean < MEAN,
            "{name} looks otherwise, by {mean:.1}: see {}/{name}.png; {UPDATE}=1 if that is right",
            pictures().display()
        );
    }
}

/// A name is shown as it is, and is never markup, an attribute or a place to go to (attack 18).
#[test]
fn hostile_names_are_only_names() {
    if !has_browser("hostile_names_are_only_names") {
        return;
    }
    let (server, _dir) = server();
    let mut page = open(serve(Cluster::of(14), server.http));
    let (node, pair) = (format!("nodes/{}", id(0)), format!("paths/{}/{}", id(0), id(1)));
    let routes = ["", "nodes", &node, "paths", &pair, "latency", "seeds", "relay", "events"];
    for route in routes {
        show(&mut page, route);
        assert_eq!(page.eval("window.harmed ?? null"), json!(null), "{route}");
        assert_eq!(
            page.eval(
                "document.querySelectorAll('main img, main script, main [onclick], main [onerror]').length"
            ),
            0,
            "{route}"
        );
        assert_eq!(
            page.eval(
                "[...document.links].filter((link) => !['http:', 'https:'].includes(link.protocol)).length"
            ),
            0,
            "{route}"
        );
    }
    show(&mut page, "nodes");
    let text = page.eval("document.querySelector('tbody').textContent");
    for name in HOSTILE {
        assert!(text.as_str().expect("text").contains(name), "{name}");
    }
    // The test is able to fail: without the policy such a name does harm once it becomes markup, and with it nothing
    // does.
    let blocked = page.eval("(() => { try { document.createElement('div').innerHTML = '<img>'; return 'made'; } catch { return 'blocked'; } })()");
    assert_eq!(blocked, "blocked");
    page.call("Page.setBypassCSP", &json!({ "enabled": true }));
    page.call("Page.reload", &json!({}));
    page.until("document.title.endsWith('Meetpoint') && !document.title.startsWith('Loading') && document.querySelector('tbody')");
    let made = format!(
        "(async () => {{ document.querySelector('main').innerHTML = {:?}; await new Promise((done) => setTimeout(done, 500)); return window.harmed ?? null; }})()",
        HOSTILE[0]
    );
    assert_eq!(page.eval(&made), 1);
}

/// Processor time, in seconds, that the page may take to show a thousand nodes at first, and then for each other page:
/// some times what it takes. Wall time would tell of the machine's other work.
const MAX_FIRST_S: f64 = 4.0;
const MAX_NEXT_S: f64 = 1.0;

#[test]
fn a_thousand_nodes_are_no_burden() {
    if !has_browser("a_thousand_nodes_are_no_burden") {
        return;
    }
    let (server, _dir) = server();
    let start = Instant::now();
    let mut page = open(serve(Cluster::of(1000), server.http));
    page.until("document.querySelector('.graph')?.ariaLabel?.includes('900 nodes')");
    let shown = start.elapsed();
    let first = page.busy_s();
    assert!(first < MAX_FIRST_S, "{first} s of processor time");
    let mut before = first;
    for route in ["nodes", "paths", "latency", "events", ""] {
        show(&mut page, route);
        let rows = page.eval("document.querySelectorAll('tbody tr').length").as_u64().expect("a number");
        assert!(rows < 150, "{route}: {rows} rows are in the page");
        let now = page.busy_s();
        assert!(now - before < MAX_NEXT_S, "{route}: {} s of processor time", now - before);
        before = now;
    }
    show(&mut page, "nodes");
    page.until("document.querySelector('table').ariaRowCount === '1001'");
    // What is further down is there when it is scrolled to.
    page.eval("document.querySelector('.frame').scrollTop = 38 * 500; 0");
    page.until("[...document.querySelectorAll('tbody tr')].some((row) => row.getAttribute('aria-rowindex') === '505')");
    page.eval("document.querySelector('input').focus(); 0");
    page.write("node-0777");
    page.until("document.querySelectorAll('tbody a').length === 1 && document.querySelector('tbody a').innerText === 'node-0777'");
    check_access(&mut page, "a thousand nodes");
    page.picture(&pictures().join("thousand-nodes.png"));
    show(&mut page, "");
    page.picture(&pictures().join("thousand-overview.png"));
    println!("1,000 nodes: {first:.1} s of processor time, shown after {shown:?}");
    assert_eq!(page.complaints, [""; 0], "the console");
}
