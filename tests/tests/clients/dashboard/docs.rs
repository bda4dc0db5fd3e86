//! The documentation at `/docs`: it signs in and tries calls, without anything from elsewhere; and every call of the
//! contract can be tried as it is filled in there.

use serde_json::{Value, json};

use super::cdp::Page;
use super::{DESK, has_browser, server, token};

/// Tries a call by the page's own buttons: opens its block, takes what is filled in, sends it; gives the status that
/// came back.
const TRY: &str = r"async (name) => {
  const until = async (found) => { for (let at = 0; at < 1200; at += 1) { const it = found(); if (it) return it; await new Promise((done) => setTimeout(done, 50)); } return null; };
  const text = (block, part) => block.querySelector(part).innerText.replace(/\u200b/g, '').trim();
  const block = [...document.querySelectorAll('.opblock')].find((one) => `${text(one, '.opblock-summary-method')} ${text(one, '.opblock-summary-path')}` === name);
  block.querySelector('.opblock-summary-control').click();
  (await until(() => block.querySelector('.try-out__btn'))).click();
  (await until(() => block.querySelector('.btn.execute'))).click();
  const live = await until(() => block.querySelector('.live-responses-table .response .response-col_status'));
  block.querySelector('.opblock-summary-control').click();
  return live?.childNodes[0]?.textContent ?? 'nothing came back';
}";
/// One of each kind: read, read a page, read a stream, make, change, remove.
const TRIED: [(&str, &str); 6] = [
    ("GET /v1/status", "200"),
    ("GET /v1/clusters/{cluster}/nodes", "200"),
    ("GET /v1/events", "200"),
    ("POST /v1/clusters/{cluster}/join-tokens", "201"),
    ("PATCH /v1/clusters/{cluster}", "200"),
    ("DELETE /v1/clusters/{cluster}/seeds/{name}", "404"),
];

/// Sends every call of the contract that the page has read, the server's end last, with the examples in it; gives each
/// with what came back and what it may be.
const ALL: &str = r"async (token) => {
  const spec = ui.specSelectors.specJson().toJS();
  const answers = [];
  const isLast = ([path]) => path === '/v1/drain';
  const paths = Object.entries(spec.paths).sort((a, b) => isLast(a) - isLast(b));
  for (const [path, item] of paths) for (const [method, call] of Object.entries(item)) {
    const given = (call.parameters ?? []).filter((one) => one.example !== undefined);
    const filled = given.filter((one) => one.in === 'path').reduce((url, one) => url.replace(`{${one.name}}`, encodeURIComponent(one.example)), path);
    const query = new URLSearchParams(given.filter((one) => one.in === 'query').map((one) => [one.name, one.example]));
    const body = call.requestBody?.content['application/json'].example;
    const headers = { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) };
    const response = await fetch(`${filled}?${query}`, { method: method.toUpperCase(), headers, body: body && JSON.stringify(body) });
    await response.text();
    answers.push([`${method} ${path}`, String(response.status), Object.keys(call.responses)]);
  }
  return answers;
}";

#[test]
fn the_documentation_tries_every_call() {
    if !has_browser("the_documentation_tries_every_call") {
        return;
    }
    let (server, _dir) = server();
    let origin = format!("http://{}", server.http);
    let mut page = Page::open();
    page.look(DESK, "light");
    page.go(&format!("{origin}/docs/"));
    page.until("document.querySelectorAll('.opblock').length > 40");
    page.eval("document.querySelector('.btn.authorize').click(); 0");
    page.until("document.querySelector('.auth-container input')");
    page.eval("document.querySelector('.auth-container input').focus(); 0");
    let admin = token(&server, "admin-token");
    page.write(&admin);
    page.eval("document.querySelector('.auth-btn-wrapper .authorize').click(); 0");
    page.until("document.querySelector('.auth-container').innerText.includes('Authorized')");
    page.eval("document.querySelector('.btn-done').click(); 0");
    for (name, status) in TRIED {
        assert_eq!(page.eval(&format!("({TRY})({name:?})")), status, "{name}");
    }
    let answers = page.eval(&format!("({ALL})({admin:?})"));
    let answers = answers.as_array().expect("a list");
    for answer in answers {
        let is_known = answer[2].as_array().is_some_and(|known| known.contains(&answer[1]));
        assert!(is_known && answer[1] != "401", "{answer}: that is not in the contract");
    }
    let is_good = |answer: &&Value| answer[1].as_str().is_some_and(|status| status.starts_with('2'));
    let good = answers.iter().filter(is_good).count();
    println!(
        "{} calls, {good} did what they are for, the others were refused as the contract says",
        answers.len()
    );
    assert!(answers.len() > 40 && good > 20, "{answers:?}");
    // A refusal is noted by the browser as one; there is nothing else.
    page.complaints.retain(|complaint| !complaint.contains("the server responded with a status of 4"));
    assert_eq!(page.complaints, [""; 0], "the console");
    for url in &page.asked {
        let is_own =
            url.starts_with(&format!("{origin}/")) || url.starts_with("about:") || url.starts_with("data:");
        assert!(is_own && !url.contains(&admin), "it asked {url}");
    }
    // The page forgets the token: what it keeps would be there for whoever uses the browser next.
    let kept = page.eval(
        "JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage), document.cookie])",
    );
    assert_eq!(kept, json!("[[],[],\"\"]"));
}
