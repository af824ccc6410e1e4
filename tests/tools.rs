//! The tools against servers that stall, close and refuse: what they say must be what happened.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use order_service::tools::client::Server;
use order_service::tools::{healthcheck, load, publish};

use crate::cli::Home;
use crate::server::SIGNAL_TIME;

/// A server of one thread a connection; `answer` gives the whole answer to each request, or `None` to hang up.
fn serve(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || requests(socket, &*answer));
        }
    });
    address
}

fn requests(mut socket: TcpStream, answer: &dyn Fn(&str) -> Option<String>) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        std::io::Read::read_exact(&mut reader, &mut body).unwrap();
        let Some(text) = answer(&head) else { return };
        if socket.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// An address that refuses connections, and what keeps others from taking it.
pub fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn reply(status: &str, more: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status}\r\n{more}Content-Length: 2\r\n\r\nok"))
}

fn server(address: SocketAddr) -> Server {
    Server::parse(&format!("http://{address}"), false).unwrap()
}

fn load_of(address: SocketAddr) -> load::Config {
    load::Config {
        server: server(address),
        paths: Arc::from(["/order/x".to_owned()]),
        rate: Some(200.0),
        duration: Duration::from_secs(2),
        warm_up: Duration::ZERO,
        connections: 1,
        timeout: SIGNAL_TIME,
        headers: Vec::new(),
        expect: 200,
        is_strict: false,
        seed: 0,
        count: None,
    }
}

#[tokio::test]
async fn a_stall_counts_for_every_request_that_was_due_meanwhile() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let address = serve(move |_| {
        if asked.fetch_add(1, Ordering::Relaxed) == 100 {
            std::thread::sleep(Duration::from_secs(2));
        }
        reply("200 OK", "")
    });
    let config = load::Config { rate: Some(100.0), duration: Duration::from_secs(4), ..load_of(address) };
    let begun = Instant::now();
    let report = load::run(config).await.unwrap().json();
    // 200 of 400 requests were due during the stall: half of them waited, though only one was slow to be served.
    let (latency, service) = (&report["latency_us"], &report["service_us"]);
    assert!(latency["p90"].as_u64().unwrap() > 1_000_000, "{report}");
    assert!(service["p90"].as_u64().unwrap() < 500_000, "{report}");
    assert!(service["p100"].as_u64().unwrap() >= 2_000_000, "{report}");
    let worst = &report["slowest_at_seconds_us"][0];
    assert!((0.5..begun.elapsed().as_secs_f64()).contains(&worst[0].as_f64().unwrap()), "{report}");
    assert!(worst[1].as_u64() <= latency["p100"].as_u64() && worst[1].as_u64() >= Some(2_000_000), "{report}");
    // Not told to who may not come before all others. A machine that stops itself may take some of it.
    let without = &report["slowest_without_that_at_seconds_us"];
    assert_eq!(report["machine_stopped_at_seconds_us"].is_array(), without.is_array(), "{report}");
    assert!(without.is_null() || without[0][1].as_u64() > Some(100_000), "{report}");
}

#[tokio::test]
async fn answers_that_are_wrong_or_missing_are_told_apart() {
    let address = serve(|_| reply("404 Not Found", ""));
    let report = load::run(load_of(address)).await.unwrap();
    assert_eq!(report.right(), 0, "none was the status that was asked for");
    let is_first = AtomicBool::new(true);
    let address = serve(move |_| if is_first.swap(false, Ordering::Relaxed) { reply("200 OK", "") } else { None });
    // Only the look before the start was answered.
    let error = load::run(load_of(address)).await.unwrap().check().unwrap_err();
    assert!(error.to_string().contains("closed early"), "{error:#}");
    let (_kept, refusing_at) = refusing();
    let error = load::run(load_of(refusing_at)).await.err().unwrap();
    assert!(format!("{error:#}").contains("does not answer: connection refused"), "{error:#}");
    assert!(Server::parse("http://10.0.0.1:80", false).is_err(), "load is for this machine");
}

/// It waited awake for what was due next: 64 connections took a whole core from the service under load.
#[test]
fn waiting_for_what_is_due_costs_no_core_and_is_punctual() {
    let address = serve(|_| reply("200 OK", ""));
    let load = format!("load --url http://{address} --rate 1000 --duration 2s --warm-up 0s --json -");
    let script = format!("{} {load}; times >&2", env!("CARGO_BIN_EXE_order-service"));
    // Other tests run beside it and hold up most attempts on a busy machine. How late that machine wakes a thread that
    // sleeps is seen at the same time.
    crate::server::until("waiting is punctual", SIGNAL_TIME, || {
        let is_over = AtomicBool::new(false);
        let (output, late) = std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| median_lateness(&is_over));
            let output = std::process::Command::new("sh").args(["-c", &script]).output();
            is_over.store(true, Ordering::Relaxed);
            (output.unwrap(), sleeper.join().unwrap())
        });
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["answers"], 2000, "{report}");
        let spent = children_seconds(&String::from_utf8_lossy(&output.stderr));
        assert!(spent < 1.0, "{spent} s of processor time in 2 s");
        let median = |which: &str| report[which]["p50"].as_u64().unwrap();
        // The runtime's own timer would add 500 us.
        (median("latency_us") - median("service_us") < 250 + 2 * late.saturating_sub(100)).then_some(())
    });
}

/// By how many microseconds a thread is woken too late, in the middle of all times.
fn median_lateness(is_over: &AtomicBool) -> u64 {
    let time = Duration::from_millis(1);
    let mut late = Vec::new();
    while !is_over.load(Ordering::Relaxed) || late.is_empty() {
        let begun = Instant::now();
        std::thread::sleep(time);
        late.push(begun.elapsed().saturating_sub(time));
    }
    late.sort_unstable();
    u64::try_from(late[late.len() / 2].as_micros()).unwrap()
}

/// What `times` says that a shell's children have spent: its last line, `0m0.010s 0m0.020s`.
fn children_seconds(text: &str) -> f64 {
    let seconds = |time: &str| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    text.lines().last().unwrap().split_whitespace().map(seconds).sum()
}

fn publish_of(address: SocketAddr, count: u64) -> publish::Config {
    publish::Config {
        target: publish::Target::Http { server: server(address), connections: 2 },
        count,
        rate: None,
        invalid: 0.0,
        file: None,
        seed: 0,
        kind: publish::Kind::Wb,
        patience: SIGNAL_TIME,
    }
}

#[tokio::test]
async fn a_full_queue_is_tried_again() {
    let is_full = AtomicBool::new(true);
    let address = serve(move |_| {
        if is_full.swap(false, Ordering::Relaxed) {
            reply("503 Service Unavailable", "Retry-After: 1\r\n")
        } else {
            reply("201 Created", "")
        }
    });
    let summary = publish::run(publish_of(address, 5)).await.unwrap();
    assert_eq!(summary, publish::Summary { created: 5, ..publish::Summary::default() });
}

#[tokio::test]
async fn a_valid_order_that_is_rejected_is_a_failure() {
    let address = serve(|_| reply("422 Unprocessable Entity", ""));
    let error = publish::run(publish_of(address, 3)).await.unwrap_err();
    assert!(error.to_string().contains("3 orders did not fare as they should; the first: 422"), "{error}");
    let invalid = publish::Config { invalid: 1.0, ..publish_of(address, 3) };
    assert_eq!(publish::run(invalid).await.unwrap().rejected, 3, "what is broken on purpose is to be rejected");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_said_at_once_and_one_that_goes_away_ends_it() {
    let (_kept, refusing_at) = refusing();
    let error = publish::run(publish_of(refusing_at, 1_000_000)).await.unwrap_err();
    assert!(format!("{error:#}").contains("does not answer: connection refused"), "{error:#}");

    // One answer, and then the listener is gone with its connections.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        drop(listener.accept().unwrap()); // the look before the start
        let (socket, _) = listener.accept().unwrap();
        let is_first = std::cell::Cell::new(true);
        requests(socket, &|_| if is_first.take() { reply("201 Created", "") } else { None });
    });
    let config = publish::Config { patience: Duration::from_millis(500), ..publish_of(address, 1_000_000) };
    // Once, not a million times.
    let error = tokio::time::timeout(SIGNAL_TIME, publish::run(config)).await.expect("an end").unwrap_err();
    assert!(
        error.to_string().contains("the service is gone: no connection for 0.5 s; until then 1 created"),
        "{error}"
    );
}

#[tokio::test]
async fn a_health_check_asks_for_the_whole_url() {
    let address =
        serve(|head| reply(if head.starts_with("GET /readyz?lag=1 ") { "200 OK" } else { "404 Not Found" }, ""));
    healthcheck::run(&format!("http://{address}/readyz?lag=1"), SIGNAL_TIME).await.unwrap();
    let error = healthcheck::run(&format!("http://{address}"), SIGNAL_TIME).await.unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
}

/// It ended with 0, and its text did not say that anything was wrong.
#[test]
fn a_load_whose_answers_are_all_wrong_says_so_and_fails() {
    let home = Home::new();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    // Only the look before the start is answered.
    let closing =
        serve(move |_| asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(6).then(|| reply("200 OK", ""))?);
    for (address, reason) in [
        (serve(|_| reply("404 Not Found", "")), "5 status 404 instead of 200"),
        (serve(|_| reply("503 Service Unavailable", "")), "5 status 503 instead of 200"),
        (closing, "5 closed early"),
    ] {
        let url = format!("http://{address}");
        let load = ["load", "--url", &url, "--count", "5", "--connections", "1"];
        let done = home.run(&load).expect(1);
        assert!(done.out.contains(&format!("wrong        5 of 5: {reason}\n")), "{}", done.out);
        assert!(done.err.contains(&format!("no answer was right: 5 of 5: {reason}")), "{}", done.err);
        if !reason.contains("closed") {
            // Also where its report is not read to the end.
            let mut command = crate::server::binary(home.path());
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            assert_eq!(command.args(load).stdout(writer).status().unwrap().code(), Some(1));
        }
        // Programs get their report all the same.
        let report = home.run(&[&load[..], &["--json", "-"]].concat()).expect(1);
        let report: serde_json::Value = serde_json::from_str(&report.out).unwrap();
        assert_eq!(report["right_answers"], 0, "{report}");
    }
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let mixed = serve(move |_| {
        reply(if asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { "200 OK" } else { "404 No" }, "")
    });
    let url = format!("http://{mixed}");
    let done = home.run(&["load", "--url", &url, "--count", "6", "--connections", "1"]).expect(0);
    assert!(done.out.contains("wrong        3 of 6: 3 status 404 instead of 200\n"), "{}", done.out);
    let done = home.run(&["load", "--url", &url, "--count", "0"]).expect(1);
    assert!(done.err.contains("nothing was asked for"), "{}", done.err);
}

/// Both asked for the same paths whatever the URL said.
#[test]
fn a_path_in_the_url_of_a_service_is_a_part_of_every_request() {
    let address = serve(|head| {
        let is_below = head.starts_with("GET /prefix/order/x ") || head.starts_with("POST /prefix/orders ");
        reply(if is_below { if head.starts_with("POST") { "201 Created" } else { "200 OK" } } else { "404 No" }, "")
    });
    let home = Home::new();
    for end in ["", "/"] {
        let url = format!("http://{address}/prefix{end}");
        home.run(&["load", "--url", &url, "--id", "x", "--count", "3"]).expect(0);
        home.run(&["publish", "--http", &url, "--count", "3"]).expect(0);
    }
    for part in ["/?token=secret", "/#secret", "/prefix?secret"] {
        let url = format!("http://{address}{part}");
        for command in [&["load", "--url"], &["publish", "--http"]] {
            let done = home.run(&[&command[..], &[&url]].concat()).expect(78);
            assert!(done.err.contains("invalid URL") && !done.err.contains("secret"), "{}", done.err);
        }
    }
    for command in [&["load", "--url"], &["publish", "--http"], &["healthcheck", "--url"]] {
        let url = format!("http://me:secret@{address}/");
        let code = if command[0] == "healthcheck" { 1 } else { 78 };
        let done = home.run(&[&command[..], &[&url]].concat()).expect(code);
        assert!(done.err.contains("a user or a password") && !done.err.contains("secret"), "{}", done.err);
    }
    let url = format!("http://{address}");
    let done = home.run(&["load", "--url", &url, "--path", "order/x"]).expect(1);
    assert!(done.err.contains("invalid path \"order/x\""), "{}", done.err);
    let done = home.run(&["load", "--url", &url, "--header", "Authorization secret"]).expect(78);
    assert!(done.err.contains("invalid --header") && !done.err.contains("secret"), "{}", done.err);
}
