//! The dashboard's files as they travel.

use crate::client::get;
use crate::running::Running;

/// All that a browser loads before anything is shown, as large as it is and as it travels.
const MAX_FIRST_LOAD: usize = 600_000;

#[tokio::test]
async fn the_page_and_its_files_are_small_and_kept() {
    let (server, _dir) = Running::fresh(&[]).await;
    let at = server.info.http;
    let page = get("/").send(at).await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.text.starts_with("<!doctype html>"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    assert!(policy.contains("require-trusted-types-for 'script'"), "{policy}");
    let mut paths = vec!["/".to_owned()];
    let (mut large, mut small) = (0, 0);
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        next += 1;
        let plain = get(&path).send(at).await;
        assert_eq!(plain.status.as_u16(), 200, "{path}");
        assert_eq!(plain.header("content-security-policy"), policy, "{path}");
        assert!(plain.header("content-encoding").is_empty());
        large += plain.text.len();
        let packed = get(&path).header("accept-encoding", "br, gzip").send(at).await;
        assert_eq!(
            (packed.header("content-encoding"), packed.header("vary")),
            ("gzip", "accept-encoding"),
            "{path}"
        );
        small += packed.header("content-length").parse::<usize>().unwrap();
        // Whoever has it is told so.
        for reply in [&plain, &packed] {
            let again = get(&path).header("if-none-match", reply.header("etag")).send(at).await;
            assert_eq!((again.status.as_u16(), again.text.len()), (304, 0), "{path}");
            assert!(!again.header("cache-control").is_empty());
        }
        assert_ne!(plain.header("etag"), packed.header("etag"), "{path}: they are different bytes");
        let stale = get(&path).header("if-none-match", "\"0123456789ab\"").send(at).await;
        assert_eq!(stale.status.as_u16(), 200, "{path}");
        let kept = plain.header("cache-control").contains("immutable");
        assert_eq!(kept, path.contains("/vendor/"), "{path}");
        // What it names is loaded too.
        if !path.contains("/vendor/") {
            for name in plain.text.split(['"', '\'']) {
                let name = name
                    .strip_prefix("./")
                    .map_or_else(|| name.to_owned(), |rest| format!("/dashboard/{rest}"));
                if name.starts_with("/dashboard/") && !paths.contains(&name) {
                    paths.push(name);
                }
            }
        }
    }
    assert!(paths.len() > 10, "{paths:?}");
    assert!(small < large && large < MAX_FIRST_LOAD, "{small} of {large} bytes travel");
    println!("first load: {large} bytes, {small} compressed, {} files", paths.len());
    get("/dashboard/vendor/").send(at).await.assert_problem(404, "not_found");
    get("/dashboard/../Cargo.toml").send(at).await.assert_problem(404, "not_found");
    server.stop().await.unwrap();
}

/// The page that a problem's type names is there, for each code; and one lists them all.
#[tokio::test]
async fn each_problem_has_its_page() {
    let (server, _dir) = Running::fresh(&["--limit-rest", "10000/60s"]).await;
    let at = server.info.http;
    let index = get("/problems").send(at).await;
    assert_eq!((index.status.as_u16(), index.header("content-type")), (200, "text/html; charset=utf-8"));
    let links: Vec<&str> = index.text.split('"').filter(|text| text.starts_with("/problems/")).collect();
    assert!(links.len() > 50, "{links:?}");
    for link in &links {
        let page = get(link).send(at).await;
        assert_eq!(page.status.as_u16(), 200, "{link}");
        assert!(page.header("content-security-policy").starts_with("default-src 'none'; style-src 'self';"));
        for part in ["What it means", "Likely causes", "What to do", &link["/problems/".len()..]] {
            assert!(page.text.contains(part), "{link}: {part}");
        }
        assert!(page.text.matches("<li>").count() >= 1, "{link}");
        assert!(!page.text.contains("<p></p>") && !page.text.contains('`'), "{link}: {}", page.text);
    }
    let refused = get("/v1/clusters").send(at).await.json();
    assert!(links.contains(&refused["type"].as_str().unwrap()), "{refused}");
    get("/problems/nothing").send(at).await.assert_problem(404, "not_found");
    get("/problems/%3Cscript%3E").send(at).await.assert_problem(404, "not_found");
    server.stop().await.unwrap();
}
