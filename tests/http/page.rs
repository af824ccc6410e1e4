//! The page and what belongs to it: built in, of one origin, cacheable.

use crate::server::Server;

#[test]
fn the_page_is_built_in_and_refers_to_no_other_host() {
    let server = Server::start(&[]);
    let page = server.get("/").expect(200);
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
    let policy = page.header("Content-Security-Policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") || policy.contains("default-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
    let html = page.text();
    assert!(html.to_lowercase().contains("<!doctype html>"));
    assert!(
        !html.contains("<script>") && !html.contains(" style=") && !html.contains(" onclick="),
        "the policy forbids inline code"
    );
    let mut found = 0;
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in html.match_indices(attribute) {
            let url = html[at + attribute.len()..].split('"').next().unwrap();
            assert!(!url.contains("//"), "another host: {url}");
            if url.starts_with("/static/") || url.starts_with("static/") {
                let asset = server.get(&format!("/{}", url.trim_start_matches('/'))).expect(200);
                assert!(!asset.body.is_empty());
                found += 1;
            }
        }
    }
    assert!(found >= 2, "a script and a style sheet");
}

#[test]
fn assets_have_their_types_and_tags() {
    let server = Server::start(&[]);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/static/app.js", "text/javascript; charset=utf-8"),
        ("/static/style.css", "text/css; charset=utf-8"),
        ("/static/favicon.svg", "image/svg+xml"),
    ] {
        let asset = server.get(path).expect(200);
        assert_eq!(asset.header("Content-Type"), Some(kind));
        assert_eq!(asset.header("Content-Length"), Some(asset.body.len().to_string().as_str()));
        let etag = asset.header("ETag").expect("a tag");
        assert_eq!(server.request("GET", path, &[("If-None-Match", etag)], "").expect(304).body, b"");
        server.request("GET", path, &[("If-None-Match", "\"other\"")], "").expect(200);
    }
    for path in [
        "/static/",
        "/static",
        "/static/../Cargo.toml",
        "/static/%2e%2e/Cargo.toml",
        "/static/index.html/",
        "/index.html",
        "/static//app.js",
    ] {
        let status = server.get(path).status;
        assert!(matches!(status, 302 | 404), "{path}: {status}");
    }
}

#[test]
fn the_description_of_the_interface_has_short_addresses() {
    let server = Server::start(&[]);
    for path in ["/docs", "/docs/", "/swagger", "/swagger/"] {
        let reply = server.get(path);
        assert!(matches!(reply.status, 301 | 302 | 307 | 308), "{path}: {}", reply.line);
        assert_eq!(reply.header("Location"), Some("/swagger/index.html"), "{path}");
        assert_eq!(reply.header("Content-Length"), Some("0"), "{path}");
    }
    let description = server.get("/openapi.json").expect(200);
    assert_eq!(description.header("Content-Type"), Some("application/json"));
    let document = description.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    for alias in ["/swagger.json", "/swagger/doc.json"] {
        assert_eq!(server.get(alias).expect(200).body, description.body, "{alias}");
    }
    let page = server.get("/swagger/index.html").expect(200);
    assert!(!page.text().contains("https://"), "no outside host");
    for path in [
        "/order/{id}",
        "/api/orders/{id}",
        "/orders/{id}",
        "/orders",
        "/api/orders",
        "/api/stats",
        "/events",
        "/health",
    ] {
        assert!(document["paths"][path].is_object(), "{path} is described");
    }
}

#[test]
fn the_page_of_an_order_that_is_not_there_is_an_error() {
    let server = Server::start(&[]);
    for path in [
        "/favicon.ico",
        "/nowhere",
        "/order",
        "/orders/",
        "/api",
        "/ORDER/x",
        "//order/x",
        "/order/x/y",
        "/api/orders/x/y",
    ] {
        let status = server.get(path).status;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
}
