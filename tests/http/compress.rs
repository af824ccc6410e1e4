//! Compressed forms of the list: who gets which, and that each is the list it says it is.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use order_service::http::paging::cursor;

use super::*;
use crate::server::{Connection, Reply, SIGNAL_TIME, Server, until};

const LIST: &str = "/api/orders";

/// The list for a client that sends this.
fn ask(server: &Server, accepted: &str) -> Reply {
    server.request("GET", LIST, &[("Accept-Encoding", accepted)], "").expect(200)
}

/// What a body is without its encoding.
fn decoded(reply: &Reply) -> Vec<u8> {
    match reply.header("Content-Encoding") {
        None => reply.body.clone(),
        Some("zstd") => zstd::decode_all(&reply.body[..]).expect("a zstd frame"),
        Some("gzip") => {
            let mut body = Vec::new();
            flate2::read::GzDecoder::new(&reply.body[..]).read_to_end(&mut body).expect("a gzip member");
            body
        }
        Some(other) => panic!("{other}"),
    }
}

fn etag(reply: &Reply) -> &str {
    reply.header("ETag").expect("a tag")
}

/// The number of the list in a tag.
fn generation(reply: &Reply) -> u64 {
    etag(reply).trim_matches('"').split('-').nth(1).expect("epoch-generation-count").parse().expect("a number")
}

/// Asks until the list comes in this encoding.
#[track_caller]
fn until_coded(server: &Server, encoding: &str) -> Reply {
    until(&format!("the list comes as {encoding}"), SIGNAL_TIME, || {
        Some(ask(server, encoding)).filter(|reply| reply.header("Content-Encoding") == Some(encoding))
    })
}

/// A server with so many orders, its list complete and at rest.
fn server_with(orders: usize, flags: &[&str]) -> Server {
    let server = Server::start(flags);
    post_lines(&server, &wb_lines("z", orders));
    until("the list is complete", SIGNAL_TIME, || {
        let list = server.get(LIST);
        let newest = format!("[{{\"order_uid\":\"z-{}\"", orders - 1);
        list.text().starts_with(&newest).then_some(())
    });
    server
}

fn compressions(server: &Server) -> f64 {
    server.metric("list_compressions_total ")
}

fn compress_seconds(server: &Server) -> f64 {
    server.metric("list_compress_seconds_total ")
}

/// The list for a client that takes no other form: it waits for it, and is told to come again where that takes too long.
fn list_in(connection: &mut Connection, accepted: &str) -> Reply {
    until("the form is there", SIGNAL_TIME, || {
        let reply = connection.request("GET", LIST, &[("Accept-Encoding", accepted)], "");
        (reply.status != 503).then(|| reply.expect(200))
    })
}

/// Posts an order and waits until the list begins with it.
fn listed(server: &Server, id: &str) {
    created(server, wb_posted(id));
    let start = format!("[{{\"order_uid\":\"{id}\"");
    until("the order is listed", SIGNAL_TIME, || server.get(LIST).text().starts_with(&start).then_some(()));
}

#[test]
fn every_form_is_the_plain_list() {
    let server = server_with(40, &[]);
    let plain = server.get(LIST).expect(200);
    assert_eq!((plain.header("Content-Encoding"), plain.header("Vary")), (None, Some("Accept-Encoding")));
    let plain_tag = etag(&plain).trim_matches('"').to_owned();
    let mut tags = vec![etag(&plain).to_owned()];
    for encoding in ["zstd", "gzip"] {
        let first = until_coded(&server, encoding);
        // Anyone who is slow to start may have the better form at once.
        let dense = until("the better form", SIGNAL_TIME, || {
            Some(ask(&server, encoding)).filter(|reply| etag(reply).contains("-dense"))
        });
        assert_eq!(etag(&dense), format!("\"{plain_tag}-dense-{encoding}\""));
        assert!(dense.body.len() <= first.body.len() && first.body.len() < plain.body.len() / 2);
        for form in [&first, &dense] {
            assert_eq!(decoded(form), plain.body);
            assert_eq!(form.header("Vary"), Some("Accept-Encoding"));
            for name in ["Content-Type", "Cache-Control", "Link"] {
                assert_eq!(form.header(name), plain.header(name), "{name}");
            }
            tags.push(etag(form).to_owned());
        }
        for path in ["/api/orders?limit=40", "/api/orders?limit=1000"] {
            let reply = server.request("GET", path, &[("Accept-Encoding", encoding)], "").expect(200);
            assert_eq!(reply.body, dense.body, "{path}");
        }
        let head = server.request("HEAD", LIST, &[("Accept-Encoding", encoding)], "").expect(200);
        for name in ["ETag", "Vary", "Content-Encoding", "Content-Length", "Content-Type"] {
            assert_eq!(head.header(name), dense.header(name), "{name}");
        }
    }
    // Who has any form has the list, whatever it asks for now.
    for known in &tags {
        for (accepted, tag) in [("identity", &tags[0]), ("zstd", &tags[2]), ("gzip", &tags[4])] {
            let headers = [("Accept-Encoding", accepted), ("If-None-Match", known)];
            let reply = server.request("GET", LIST, &headers, "").expect(304);
            assert_eq!((etag(&reply), reply.header("Vary")), (tag.as_str(), Some("Accept-Encoding")));
            assert_eq!(reply.header("Content-Encoding"), None);
        }
    }
    // A new list is none of them.
    created(&server, wb_posted("later"));
    until("the list has changed", SIGNAL_TIME, || {
        let headers = [("Accept-Encoding", "gzip"), ("If-None-Match", tags.last().unwrap().as_str())];
        (server.request("GET", LIST, &headers, "").status == 200).then_some(())
    });
    let changed = until_coded(&server, "gzip");
    assert!(decoded(&changed).starts_with(b"[{\"order_uid\":\"later\""));
}

#[test]
fn clients_get_the_form_they_like_best() {
    let server = server_with(20, &[]);
    for encoding in ["zstd", "gzip"] {
        until_coded(&server, encoding);
    }
    for (accepted, expected) in [
        ("", None),
        ("gzip", Some("gzip")),
        ("x-gzip", Some("gzip")),
        ("gzip, deflate", Some("gzip")),
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("zstd;q=0.5, gzip;q=0.9", Some("gzip")),
        ("gzip;q=0, *;q=0.1", Some("zstd")),
        ("*", Some("zstd")),
        ("gzip;q=0.5, identity", None),
        ("gzip;q=0", None),
        ("br, deflate", None),
        ("gzip, identity;q=0", Some("gzip")),
        ("nonsense;;q, gzip;q=x, \u{e9}", None),
    ] {
        let reply = ask(&server, accepted);
        assert_eq!(reply.header("Content-Encoding"), expected, "{accepted:?}");
        assert_eq!(reply.header("Vary"), Some("Accept-Encoding"), "{accepted:?}");
    }
    // Several fields are one list.
    let headers = [("Accept-Encoding", "zstd;q=0.1"), ("Accept-Encoding", "gzip")];
    assert_eq!(server.request("GET", LIST, &headers, "").header("Content-Encoding"), Some("gzip"));
}

#[test]
fn who_takes_no_plain_list_waits_for_a_form_or_is_told() {
    let server = server_with(20, &[]);
    for (accepted, encoding) in [("gzip, identity;q=0", "gzip"), ("*;q=0, zstd;q=0.2", "zstd")] {
        let reply = list_in(&mut server.connect(), accepted);
        assert_eq!(reply.header("Content-Encoding"), Some(encoding), "the very first answer");
        assert_eq!(decoded(&reply), server.get(LIST).body);
    }
    for accepted in ["identity;q=0", "*;q=0", "br, *;q=0"] {
        let reply = server.request("GET", LIST, &[("Accept-Encoding", accepted)], "").expect(406);
        assert_eq!(reply.header("Content-Type"), Some("application/problem+json"));
        assert_eq!(reply.header("Vary"), Some("Accept-Encoding"));
        assert_eq!(reply.json()["reason"], "not_acceptable");
        // Where there is but one form, it is better than none.
        for path in ["/api/orders?limit=1", "/order/z-1"] {
            let reply = server.request("GET", path, &[("Accept-Encoding", accepted)], "").expect(200);
            assert_eq!(reply.header("Content-Encoding"), None);
        }
    }
}

#[test]
fn what_is_small_or_a_part_comes_as_it_is() {
    let server = Server::start(&[]);
    // Who takes no other form waits for it wherever there is to be one.
    let plain = |path: &str| {
        for accepted in ["zstd, gzip", "zstd, gzip, identity;q=0"] {
            let reply = server.request("GET", path, &[("Accept-Encoding", accepted)], "").expect(200);
            assert_eq!((reply.header("Content-Encoding"), reply.header("Vary")), (None, None), "{path} {accepted}");
        }
    };
    plain(LIST);
    created(&server, envelope("{}"));
    until("the order is listed", SIGNAL_TIME, || (server.get(LIST).body.len() > 2).then_some(()));
    plain(LIST);
    post_lines(&server, &wb_lines("z", 20));
    until("the list is complete", SIGNAL_TIME, || {
        server.get(LIST).text().starts_with("[{\"order_uid\":\"z-19\"").then_some(())
    });
    until_coded(&server, "gzip");
    let older = format!("/api/orders?cursor={}", cursor(9));
    for path in ["/api/orders?limit=20", &older, "/api/orders?ids=z-1,z-2,z-3", "/order/z-1"] {
        plain(path);
    }
    let headers = [("Accept", "application/x-ndjson"), ("Accept-Encoding", "gzip")];
    let lines = server.request("GET", LIST, &headers, "").expect(200);
    assert_eq!((lines.header("Content-Encoding"), lines.text().lines().count()), (None, 21));
}

#[test]
fn nothing_is_compressed_unless_someone_asks() {
    let server = server_with(20, &[]);
    for _ in 0..50 {
        server.get(LIST).expect(200);
        ask(&server, "br, identity");
    }
    listed(&server, "one-more");
    assert!(compressions(&server).abs() < 0.5);
    until_coded(&server, "zstd");
    // The fast form, perhaps the better one; none in the other encoding, and none of the lists before.
    assert!(compressions(&server) < 2.5);
    // One more list at most is compressed for who asked and has gone.
    for n in 0..20 {
        listed(&server, &format!("gone-{n}"));
    }
    assert!(compressions(&server) < 3.5);
    assert!(compress_seconds(&server) > 0.0);
}

#[test]
fn it_can_be_turned_off() {
    let server = server_with(20, &["--list-compress", "no"]);
    // Where lists are compressed, the last of these would wait for a form.
    for accepted in ["gzip, zstd", "identity;q=0", "gzip, identity;q=0"] {
        let reply = ask(&server, accepted);
        assert_eq!((reply.header("Content-Encoding"), reply.header("Vary")), (None, None));
    }
    listed(&server, "one-more");
    assert!(compressions(&server).abs() < 0.5);
}

#[test]
fn forms_of_a_changing_list_are_never_older_than_the_list() {
    let server = server_with(300, &[]);
    let done = AtomicBool::new(false);
    let started = Instant::now();
    let (mut forms, mut lists) = (0, HashMap::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = server.connect();
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                connection.request("POST", "/orders", &[], wb_answered(&format!("w-{n}"))).expect(201);
                n += 1;
            }
        });
        let _done = SetOnDrop(&done); // also when an assertion fails, or the writer would go on for ever
        let mut connection = server.connect();
        let (mut shown, end) = (0, started + SIGNAL_TIME);
        while started.elapsed() < Duration::from_secs(2) || forms < 10 || lists.len() <= 10 {
            assert!(Instant::now() < end, "{forms} forms, {} lists", lists.len());
            for accepted in ["identity", "gzip", "zstd", "zstd, identity;q=0"] {
                let reply = list_in(&mut connection, accepted);
                // Also one after the other, whatever their forms: a list never goes back.
                assert!(generation(&reply) >= shown, "{} after {shown}", generation(&reply));
                shown = generation(&reply);
                forms += usize::from(reply.header("Content-Encoding").is_some());
                let body = decoded(&reply);
                assert!(*lists.entry(shown).or_insert_with(|| body.clone()) == body, "two bodies of one list");
            }
        }
        // It rests five times as long as it worked: it has done so after every form, once it has made another.
        let spent = compress_seconds(&server);
        let count = compressions(&server);
        until("another form is made", SIGNAL_TIME, || {
            ask(&server, "gzip, zstd");
            (compressions(&server) > count + 0.5).then_some(())
        });
        assert!(spent < started.elapsed().as_secs_f64() / 5.0, "{spent} s of {:?}", started.elapsed());
    });
}

/// Ends a writer however its test ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
