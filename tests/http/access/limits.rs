//! How often: the rate of keys and addresses, failed attempts, and who is believed about an
//! address.

use std::time::Instant;

use super::*;
use crate::server::{Connection, SIGNAL_TIME, request, until};

const READ: &[&str] = &["orders:read", "orders:write"];

/// How many of so many reads in a row are answered.
fn answered(connection: &mut Connection, fields: &[(&str, &str)], count: usize) -> usize {
    (0..count).filter(|_| connection.request("GET", "/order/x", fields, "").status == 200).count()
}

/// As many reads at once as are too much, where one after the other might not be on a slow machine: how many are
/// answered. At such a rate no more than fit into the time that they took.
fn too_many(connection: &mut Connection, fields: &[(&str, &str)], count: usize, rate: usize) -> usize {
    let begun = Instant::now();
    let replies = connection.burst("/order/x", fields, count);
    let answered = replies.iter().filter(|reply| reply.status == 200).count();
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let most = (2 + seconds) * rate;
    assert!(answered <= most, "{answered} of {count} are answered, and {most} at most are due");
    answered
}

/// A read that is one too many.
fn refused(connection: &mut Connection, fields: &[(&str, &str)]) -> Reply {
    until("it is too much", SIGNAL_TIME, || {
        connection.burst("/order/x", fields, 40).into_iter().find(|reply| reply.status == 429)
    })
}

#[test]
fn a_key_has_its_rate_and_an_address_without_keys_has_one_too() {
    let mut keys = Keys::new(&[("usual", READ, None)]);
    keys.add("rare", READ, None, Some("3/s"));
    keys.write();
    let server = keys.start(&["--rate-limit", "1000000/s"]);
    keys.post(&server, "usual", "/orders", wb_posted("x")).expect(201);
    let (usual, rare) = (keys.bearer("usual"), keys.bearer("rare"));
    let mut connection = server.connect();
    assert_eq!(answered(&mut connection, &[("Authorization", &usual)], 200), 200);
    let count = too_many(&mut connection, &[("Authorization", &rare)], 100, 3);
    assert!((6..100).contains(&count), "{count}");
    let limited = refused(&mut connection, &[("Authorization", &rare)]);
    assert_eq!(limited.header("Retry-After"), Some("1"));
    assert_eq!(limited.header("RateLimit"), Some("\"default\";r=0;t=1"));
    assert_eq!(limited.header("RateLimit-Policy"), Some("\"default\";q=6;w=2"));
    assert!(limited.header("X-Request-Id").is_some() && limited.header("Date").is_some());
    assert_eq!(limited.json()["reason"], "rate_limited");
    // By the other way, the same.
    let detour = refused(&mut connection, &[("Authorization", &rare), ("TE", "trailers")]);
    assert_eq!(detour.body, limited.body);
    until("there is some again", SIGNAL_TIME, || {
        (answered(&mut connection, &[("Authorization", &rare)], 1) == 1).then_some(())
    });
    assert_eq!(answered(&mut connection, &[("Authorization", &usual)], 50), 50, "each has its own");

    // Who shows nothing is one of its address.
    let few = keys.start(&["--rate-limit", "1/s"]);
    refused(&mut few.connect(), &[]);

    let open = Server::start(&["--rate-limit", "50/s"]);
    created(&open, wb_posted("x"));
    let mut connection = open.connect();
    let count = too_many(&mut connection, &[], 300, 50);
    assert!((90..300).contains(&count), "{count}");
    for _ in 0..200 {
        open.get("/livez").expect(200);
        open.get("/health").expect(200);
    }
    assert!(open.log().iter().all(|line| !line.contains("\"ERROR\"")));
}

#[test]
fn failed_attempts_are_few() {
    let keys = Keys::new(&[("all", READ, None)]);
    let server = keys.start(&[]);
    keys.post(&server, "all", "/orders", wb_posted("x")).expect(201);
    let bearer = keys.bearer("all");
    let mut known = server.connect();
    known.request("GET", "/order/x", &[("Authorization", &bearer)], "").expect(200);
    let attempt = |n: usize| server.request("GET", "/order/x", &[("X-API-Key", &format!("osk_{n}"))], "");
    let limited = until("it is too much", SIGNAL_TIME, || {
        let mut guessing = server.connect();
        let guess = |n: usize| request("GET", "/order/x", &[("X-API-Key", &format!("osk_{n}"))], b"");
        guessing.send((0..40).flat_map(guess).collect::<Vec<u8>>());
        (0..40).map(|_| guessing.reply("GET")).find(|reply| reply.status == 429)
    });
    assert_eq!(limited.json()["reason"], "too_many_failures");
    assert_eq!(limited.header("Retry-After"), Some("1"));
    // Without anything to show there is nothing to guess, and nothing is counted.
    server.get("/order/x").expect(401);
    until("an attempt is judged again", SIGNAL_TIME, || (attempt(0).status == 401).then_some(()));
}

#[test]
fn only_trusted_proxies_are_believed() {
    let flags = ["--rate-limit", "1/s", "--trusted-proxies", "127.0.0.0/8"];
    let server = Server::start(&flags);
    created(&server, wb_posted("x"));
    let by = |address: &str| {
        let mut connection = server.connect();
        let xff = format!("6.6.6.6, {address}, 127.0.0.9");
        let replies = connection.burst("/order/x", &[("X-Forwarded-For", &xff)], 12);
        replies.iter().map(|reply| reply.status).collect::<Vec<_>>()
    };
    for n in 1..5 {
        let statuses = by(&format!("192.0.2.{n}"));
        assert_eq!(statuses[0], 200, "each address has its own: {statuses:?}");
    }
    assert!(by("192.0.2.1").contains(&429));
    // The proxy's own words in front of the connection.
    for header in [
        "PROXY TCP4 198.51.100.7 127.0.0.1 5000 8080\r\n".as_bytes(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x08\x7f\0\0\x01\x13\x88\x1f\x90",
    ] {
        let mut connection = server.connect();
        let (first, rest) = header.split_at(7);
        connection.send(first);
        std::thread::yield_now(); // in two pieces, or in one
        connection.send(rest);
        let statuses: Vec<u16> = connection.burst("/order/x", &[], 12).iter().map(|reply| reply.status).collect();
        assert!(statuses[0] == 200 && statuses.contains(&429), "{statuses:?}");
    }
    let mut bad = server.connect();
    bad.send("PROXY TCP4 nonsense\r\n");
    assert!(bad.is_closed_within(SIGNAL_TIME));

    // What is not trusted says nothing, and that is told once.
    let server = Server::start(&["--rate-limit", "1/s"]);
    created(&server, wb_posted("x"));
    let mut connection = server.connect();
    let asked = |n| request("GET", "/orders/x?", &[("X-Forwarded-For", &format!("192.0.2.{n}"))], b"");
    connection.send((0..12).flat_map(asked).collect::<Vec<u8>>());
    let statuses: Vec<u16> = (0..12).map(|_| connection.reply("GET").status).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    until("it is told", SIGNAL_TIME, || {
        server.log().iter().any(|line| line.contains("--trusted-proxies")).then_some(())
    });
    let mut connection = server.connect();
    connection.send("PROXY TCP4 198.51.100.7 127.0.0.1 5000 8080\r\n");
    connection.reply("GET").expect(400);
    until("that is told too", SIGNAL_TIME, || {
        server.log().iter().any(|line| line.contains("begins with a PROXY header")).then_some(())
    });
}
