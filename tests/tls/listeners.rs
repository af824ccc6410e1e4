//! Listeners: what OpenSSL finds, that encrypted answers are the plain ones, certificates that
//! change, handshakes that do not end, sockets of the file system.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;

use super::{Authority, Client, Files, Secured, listeners_of, read_reply};
use crate::http::{created, wb_posted};
use crate::server::{READ_TIME, SIGNAL_TIME, Server, binary, until};

/// What `openssl s_client` says, with these arguments and this on its standard input.
fn s_client(secured: &Secured, arguments: &[&str], input: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &secured.address().to_string(), "-servername", "localhost"])
        .args(["-CAfile", &secured.files.text("ca.pem"), "-verify_return_error"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    client.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

#[test]
fn what_openssl_finds_at_a_listener() {
    let secured = Secured::start(&[]);
    let close = "GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = s_client(&secured, &[version, "-ign_eof"], close);
        assert!(said.contains(name) && said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(said.contains("HTTP/1.1 200 OK") && said.contains("pong"), "{said}");
    }
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(&secured, &[version, "-cipher", "ALL:@SECLEVEL=0"], "");
        assert!(said.contains("no peer certificate available"), "{version}: {said}");
    }
    // No cipher without forward secrecy, without authentication, or of blocks.
    for ciphers in ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "aNULL:@SECLEVEL=0", "NULL:@SECLEVEL=0"] {
        let said = s_client(&secured, &["-tls1_2", "-cipher", ciphers], "");
        assert!(said.contains("no peer certificate available"), "{ciphers}: {said}");
    }
    for (offered, expected) in [("h2", "h2"), ("http/1.1", "http/1.1"), ("http/1.1,h2", "h2")] {
        let said = s_client(&secured, &["-alpn", offered], "");
        assert!(said.contains(&format!("ALPN protocol: {expected}\n")), "{offered}: {said}");
    }
    for (spoken, expected) in [(&["http/1.1"][..], Some("http/1.1")), (&["x", "h2"], Some("h2")), (&[], None)] {
        let connection = secured.client().speaking(spoken).connect(secured.address()).unwrap();
        assert_eq!(connection.protocol().as_deref(), expected);
    }
    let said = s_client(&secured, &["-alpn", "spdy/1"], "");
    assert!(said.contains("alert no application protocol"), "{said}");
    // A client that asks to agree again is told that there is no such thing.
    let said = s_client(&secured, &["-tls1_2"], "R\n");
    assert!(said.contains("no renegotiation") || said.contains("NO_RENEGOTIATION"), "{said}");
}

/// What the others do not ask for: nothing old, nothing that is answered before the handshake is done.
#[test]
fn what_openssl_does_not_get_at_a_listener() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let secured = Secured::start(&["--grpc", "tls:127.0.0.1:0", "--admin", &format!("tls:{free}")]);
    let close = "GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let said = s_client(&secured, &["-tls1_2", "-comp", "-ign_eof"], close);
    assert!(said.contains("Compression: NONE") && said.contains("Secure Renegotiation IS supported"), "{said}");
    // A first flight with a request in it: its session does not allow for it.
    let (session, early) = (secured.files.text("early.pem"), secured.files.write("early.txt", close));
    let said = s_client(&secured, &["-tls1_3", "-ign_eof", "-sess_out", &session], close);
    assert!(said.contains("Max Early Data: 0"), "{said}");
    let said = s_client(&secured, &["-tls1_3", "-ign_eof", "-sess_in", &session, "-early_data", &early], close);
    assert!(!said.contains("Early data was accepted"), "{said}");
    for (arguments, is_taken) in [
        (&["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"][..], true),
        (&["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], true),
        (&["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"], false),
        (&["-tls1_3", "-groups", "X25519"], true),
        (&["-tls1_3", "-groups", "ffdhe2048"], false),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], true),
        (&["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"], false),
        (&["-tls1_2", "-cipher", "PSK:@SECLEVEL=0"], false),
        (&["-tls1_2", "-sigalgs", "ECDSA+SHA1:RSA+SHA1"], false),
    ] {
        let said = s_client(&secured, &[arguments, &["-ign_eof"]].concat(), close);
        assert_eq!(said.contains("pong"), is_taken, "{arguments:?}: {said}");
    }
    // Each listener speaks its own protocols.
    let serving = secured.server.log().into_iter().find(|line| line.contains("\"serving\"")).unwrap();
    let serving: serde_json::Value = serde_json::from_str(&serving).unwrap();
    let (grpc, admin) = (serving["grpc"].as_str().unwrap().trim_start_matches("tls:"), free.to_string());
    for (listener, offered, expected) in [
        (grpc, "h2", Some("h2")),
        (grpc, "http/1.1", None),
        (&admin, "http/1.1", Some("http/1.1")),
        (&admin, "h2", None),
    ] {
        let said = s_client(&secured, &["-connect", listener, "-alpn", offered], "");
        match expected {
            Some(chosen) => assert!(said.contains(&format!("ALPN protocol: {chosen}\n")), "{listener}: {said}"),
            None => assert!(said.contains("alert no application protocol"), "{listener} {offered}: {said}"),
        }
    }
}

/// Errors have the id of a request, also where none was read.
fn assert_has_id(head: &str) {
    let id = head.split("x-request-id: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    assert!(id.is_some_and(|id| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{head}");
}

/// A protocol that is not spoken: an alert and a line of the log, or an answer that says so.
#[test]
fn a_client_of_another_protocol_is_told_so() {
    let secured = Secured::start(&["--grpc", "127.0.0.1:0"]);
    let line = "a client offers no protocol of this listener (ALPN)";
    for offered in ["http/1.0", "http/0.9,spdy/3"] {
        let said = s_client(&secured, &["-alpn", offered], "");
        assert!(said.contains("alert no application protocol"), "{said}");
    }
    until("it is logged", SIGNAL_TIME, || logged(&secured.server, 0, line));
    // curl, which speaks HTTP/2 at once: over TLS it is answered, without it is told of TLS.
    let curl = |url: &str| {
        let done = Command::new("curl")
            .args(["--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "20"])
            .args(["--cacert", &secured.files.text("ca.pem"), "--write-out", " %{http_version}", url])
            .output()
            .expect("curl is installed");
        (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let port = secured.address().port();
    assert_eq!(curl(&format!("https://localhost:{port}/ping")), (Some(0), "pong 2".into()));
    let (code, said) = curl(&format!("http://localhost:{port}/ping"));
    assert!(code != Some(0) && code != Some(28), "it is not let wait: {said}");
    // HTTP/1.1 where gRPC is spoken.
    let serving = secured.server.log().into_iter().find(|line| line.contains("\"serving\"")).unwrap();
    let serving: serde_json::Value = serde_json::from_str(&serving).unwrap();
    let grpc: std::net::SocketAddr = serving["grpc"].as_str().unwrap().parse().unwrap();
    for pieces in [&["GET / HTTP/1.1\r\nHost: x\r\n\r\n"][..], &["P", "OST /x HTTP/1.1\r\n\r\n"], &["PU", "T"]] {
        let mut socket = TcpStream::connect(grpc).unwrap();
        socket.set_read_timeout(Some(READ_TIME)).unwrap();
        socket.set_nodelay(true).unwrap();
        for piece in pieces {
            socket.write_all(piece.as_bytes()).unwrap();
        }
        let (head, body) = read_reply(&mut socket).unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"), "{head}");
        assert_has_id(&head);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["reason"], &body["status"]), (&"http2_required".into(), &400.into()));
        assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0, "and closed");
    }
    // The preface in pieces is one.
    let mut socket = TcpStream::connect(grpc).unwrap();
    socket.set_read_timeout(Some(READ_TIME)).unwrap();
    socket.set_nodelay(true).unwrap();
    for piece in [&b"P"[..], b"RI * HTT", b"P/2.0\r\n\r\nSM\r\n\r\n", &[0, 0, 0, 4, 0, 0, 0, 0, 0]] {
        socket.write_all(piece).unwrap();
    }
    let mut frame = [0; 9];
    socket.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "settings are answered by settings");
}

#[test]
fn sessions_are_resumed_until_the_certificate_changes() {
    let secured = Secured::start(&[]);
    assert!(secured.server.metric("tls_certificate_valid_until_seconds ") > 1.7e9);
    let session = secured.files.text("session.pem");
    let close = "GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for version in ["-tls1_2", "-tls1_3"] {
        let said = s_client(&secured, &[version, "-ign_eof", "-sess_out", &session], close);
        assert!(said.contains("New, ") && said.contains("pong"), "{said}");
        let said = s_client(&secured, &[version, "-ign_eof", "-sess_in", &session], close);
        assert!(said.contains("Reused, ") && said.contains("pong"), "{said}");
    }
    secured.files.write_signed(&secured.authority.sign(&["localhost"]));
    let before = secured.server.log().len();
    secured.server.signal(Signal::HUP);
    until("the certificates are read again", SIGNAL_TIME, || {
        logged(&secured.server, before, "certificates read again")
    });
    let said = s_client(&secured, &["-tls1_3", "-ign_eof", "-sess_in", &session], close);
    assert!(said.contains("New, ") && said.contains("pong"), "a session of before goes on: {said}");
}

fn logged(server: &Server, from: usize, what: &str) -> Option<()> {
    server.log()[from..].iter().any(|line| line.contains(what)).then_some(())
}

/// What is sent, in these pieces, by a client that then says that it is done.
fn pipelines() -> Vec<Vec<Vec<u8>>> {
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n").into_bytes();
    let last = "Connection: close\r\n";
    let hit = get("/order/one", "");
    let many = [hit.repeat(50), get("/orders/two", ""), get("/order/none", ""), get("/order/one", last)].concat();
    let bytes: Vec<Vec<u8>> =
        [get("/order/one", ""), get("/order/two", last)].concat().chunks(1).map(<[u8]>::to_vec).collect();
    let head = |path: &str| format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
    vec![
        vec![get("/order/one", last)],
        vec![many],
        bytes,
        vec![get("/order/one", "If-None-Match: \"1\"\r\n"), head("/orders/one"), get("/order/gone?x=1", last)],
        vec![[hit.repeat(400), get("/api/orders", "").repeat(3), get("/order/large", last)].concat()],
        vec![[get("/order/large", ""), hit.clone(), get("/api/orders", ""), get("/order/one", last)].concat()],
        vec![b"GET /order/one HTTP/1.1\r\n\r\n".to_vec()],
        vec![b"GET /order/one HTTP/9.9\r\nHost: x\r\n\r\n".to_vec()],
        vec![b"G\0T / HTTP/1.1\r\n\r\n".to_vec()],
        vec![hit, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()],
        vec![get("/order/one", "Expect: 100-continue\r\nConnection: close\r\n")],
        vec![b"GET /order/one HTTP/1.0\r\n\r\n".to_vec()],
        vec![b"GET /api/orders HTTP/1.0\r\nAccept: application/x-ndjson\r\n\r\n".to_vec()],
    ]
}

/// Answers without what is of the moment.
fn timeless(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let is_lasting = |line: &&str| !line.starts_with("date: ") && !line.starts_with("x-request-id: ");
    text.split("\r\n").filter(is_lasting).collect::<Vec<_>>().join("\r\n")
}

/// Fails with the first difference of two long texts, and what is around it.
#[track_caller]
fn assert_same(given: &str, expected: &str, what: &str) {
    let Some(at) = (given != expected).then(|| given.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count())
    else {
        return;
    };
    let around =
        |text: &str| text.as_bytes()[at.saturating_sub(300)..text.len().min(at + 100)].escape_ascii().to_string();
    panic!(
        "{what}: {} bytes and not {}, from {at} on:\n{}\nand not\n{}",
        given.len(),
        expected.len(),
        around(given),
        around(expected)
    );
}

#[test]
fn encrypted_answers_are_the_plain_ones_byte_for_byte() {
    let socket = Files::new();
    let unix = format!("unix:{}", socket.text("s"));
    let secured = Secured::start(&["--listen", &unix]);
    for name in ["one", "two"] {
        created(&secured.server, wb_posted(name));
    }
    let large =
        wb_posted("large").replace("\"entry\":", &format!("\"padding\":\"{}\",\"entry\":", "x".repeat(300_000)));
    created(&secured.server, large);
    until("the list has all three", SIGNAL_TIME, || {
        (secured.server.get("/api/orders").json().as_array()?.len() == 3).then_some(())
    });
    for (n, pieces) in pipelines().into_iter().enumerate() {
        let mut plain = TcpStream::connect(secured.server.address()).unwrap();
        plain.set_read_timeout(Some(READ_TIME)).unwrap();
        plain.set_nodelay(true).unwrap();
        let mut local = UnixStream::connect(socket.path("s")).unwrap();
        local.set_read_timeout(Some(READ_TIME)).unwrap();
        let mut encrypted = secured.connect();
        for piece in &pieces {
            plain.write_all(piece).unwrap();
            local.write_all(piece).unwrap();
            encrypted.send(piece);
        }
        let mut answers = [Vec::new(), Vec::new()];
        plain.read_to_end(&mut answers[0]).unwrap();
        local.read_to_end(&mut answers[1]).unwrap();
        let expected = timeless(&answers[0]);
        assert!(!expected.is_empty(), "pipeline {n}");
        assert_same(&timeless(&answers[1]), &expected, &format!("pipeline {n} over a socket of the file system"));
        assert_same(&timeless(&encrypted.until_end()), &expected, &format!("pipeline {n} over TLS"));
    }
}

#[test]
fn a_request_without_tls_is_told_so_and_tls_without_a_listener_for_it_is_closed_with_a_line() {
    let secured = Secured::start(&["--admin", "tls:127.0.0.1:0"]);
    for request in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "POST"] {
        let mut socket = TcpStream::connect(secured.address()).unwrap();
        socket.set_read_timeout(Some(READ_TIME)).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let (head, body) = read_reply(&mut socket).unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"), "{head}");
        assert_has_id(&head);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["reason"], &body["status"]), (&"tls_required".into(), &400.into()));
        assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0, "and closed");
    }
    let before = secured.server.log().len();
    assert!(secured.client().connect(secured.server.address()).is_err(), "there is no TLS");
    let line = "a client speaks TLS on a listener without it";
    until("it is logged", SIGNAL_TIME, || logged(&secured.server, before, line));
    secured.server.get("/ping").expect(200);
    secured.connect().get("/ping");
    let other = Server::start(&["--admin", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]);
    let serving = other.log().into_iter().find(|line| line.contains("\"serving\"")).unwrap();
    let serving: serde_json::Value = serde_json::from_str(&serving).unwrap();
    let grpc = serving["grpc"].as_str().unwrap().parse().unwrap();
    assert!(secured.client().connect(grpc).is_err(), "there is none for gRPC either");
    until("it is logged", SIGNAL_TIME, || logged(&other, 0, line));
}

#[test]
fn clients_show_certificates_where_they_are_asked_to() {
    let strangers = Authority::new("Strangers' CA");
    let required = Secured::start(&["--tls-client-ca", "{ca}"]);
    let shop = required.authority.sign_client("shop");
    let answered = |secured: &Secured, client: Client| {
        // In TLS 1.3 a client learns with its first answer that it is not let in.
        let mut connection = client.connect(secured.address())?;
        connection.send("GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n");
        connection.reply().map(|(head, _)| assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}"))
    };
    answered(&required, required.client().showing(shop.clone())).unwrap();
    for client in [
        required.client(),
        required.client().showing(strangers.sign_client("shop")),
        required.client().showing(required.authority.sign_expired(&["localhost"])),
    ] {
        assert!(answered(&required, client).is_err());
    }
    let optional = Secured::start(&["--tls-client-ca", "{ca}", "--tls-client-auth", "optional"]);
    answered(&optional, optional.client()).unwrap();
    answered(&optional, optional.client().showing(optional.authority.sign_client("shop"))).unwrap();
    assert!(answered(&optional, optional.client().showing(shop)).is_err(), "one that leads nowhere is no none");
    // Each connection is judged by its own certificate: none takes up where another left.
    let files = Files::new();
    let (cert, key) = {
        let shop = required.authority.sign_client("shop");
        (files.write("c.pem", &shop.cert), files.write("k.pem", &shop.key))
    };
    let session = files.text("session.pem");
    let close = "GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for version in ["-tls1_2", "-tls1_3"] {
        let shown = [version, "-ign_eof", "-cert", &cert, "-key", &key];
        let said = s_client(&required, &[&shown[..], &["-sess_out", &session]].concat(), close);
        assert!(said.contains("pong"), "{said}");
        if files.path("session.pem").exists() {
            let said = s_client(&required, &[version, "-ign_eof", "-sess_in", &session], close);
            assert!(!said.contains("Reused, ") && !said.contains("pong"), "{said}");
        }
    }
}

#[test]
fn certificates_change_while_requests_go_on_and_bad_ones_change_nothing() {
    let secured = Secured::start(&[]);
    created(&secured.server, wb_posted("x"));
    let mut old = secured.connect();
    let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            let (client, address) = (secured.client(), secured.address());
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    // A new connection each time, through every change.
                    let mut connection = client.connect(address).expect("a handshake");
                    for _ in 0..5 {
                        let (head, _) = connection.get("/order/x");
                        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let mut last = old.shown();
    for round in 0..3 {
        let before = secured.server.log().len();
        secured.files.write_signed(&secured.authority.sign(&["localhost"]));
        if round == 0 {
            secured.server.signal(Signal::HUP); // the others are found out without
        }
        let newest = until("the new one is shown", SIGNAL_TIME, || {
            let shown = secured.connect().shown();
            (shown != last).then_some(shown)
        });
        until("it is logged", SIGNAL_TIME, || logged(&secured.server, before, "certificates read again"));
        last = newest;
    }
    // One that is over is no better than the one that is shown.
    let before = secured.server.log().len();
    let shown = [secured.files.text("cert.pem"), secured.files.text("key.pem")];
    let saved = shown.clone().map(|path| std::fs::read_to_string(path).unwrap());
    secured.files.write_signed(&secured.authority.sign_expired(&["localhost"]));
    secured.server.signal(Signal::HUP);
    until("that it has expired is logged", SIGNAL_TIME, || logged(&secured.server, before, "has expired on"));
    assert_eq!(secured.connect().shown(), last);
    for (path, text) in shown.iter().zip(saved) {
        std::fs::write(path, text).unwrap();
    }
    let good = [secured.files.text("cert.pem"), secured.files.text("key.pem")]
        .map(|path| std::fs::read_to_string(path).unwrap());
    let other = secured.authority.sign(&["localhost"]);
    for (name, text, why) in [
        ("cert.pem", "no PEM", "has no certificate in PEM"),
        ("key.pem", other.key.as_str(), "is not the key of the certificate in"),
        (
            "key.pem",
            "-----BEGIN PRIVATE KEY-----\nSECRETSECRET\n-----END PRIVATE KEY-----\n",
            "the private key cannot be used",
        ),
    ] {
        let before = secured.server.log().len();
        secured.files.write(name, text);
        secured.server.signal(Signal::HUP);
        until("the bad one is reported", SIGNAL_TIME, || logged(&secured.server, before, why));
        assert_eq!(secured.connect().shown(), last, "the old one stays");
        secured.files.write("cert.pem", &good[0]);
        secured.files.write("key.pem", &good[1]);
        let before = secured.server.log().len();
        secured.server.signal(Signal::HUP);
        until("all is as it was", SIGNAL_TIME, || logged(&secured.server, before, "certificates are as they were"));
    }
    std::fs::remove_file(secured.files.path("key.pem")).unwrap();
    let before = secured.server.log().len();
    until("found without a signal", SIGNAL_TIME, || logged(&secured.server, before, "key.pem: cannot be read"));
    assert_eq!(secured.connect().shown(), last);
    until("many were answered", SIGNAL_TIME, || {
        let is_enough =
            answered.load(Ordering::Relaxed) > 100 || clients.iter().any(std::thread::JoinHandle::is_finished);
        is_enough.then_some(())
    });
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    // Who is connected stays so.
    assert!(old.get("/order/x").0.starts_with("HTTP/1.1 200 OK"));
    assert!(secured.server.log().iter().all(|line| !line.contains("SECRET")), "no part of a key is told");
}

#[test]
fn handshakes_that_do_not_end_are_closed_and_hold_no_others_up() {
    // Long enough for a handshake on a busy machine.
    let secured = Secured::start(&["--http-header-time", "5s"]);
    let connect = || {
        let socket = TcpStream::connect(secured.address()).unwrap();
        socket.set_read_timeout(Some(READ_TIME)).unwrap();
        socket
    };
    let mut silent: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    let mut begun: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut socket = connect();
            socket.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252]).unwrap();
            socket
        })
        .collect();
    // And one whose handshake is done and who then says nothing, or not all.
    let mut after = secured.connect();
    let mut part = secured.connect();
    part.send("GET /ping HT");
    assert!(secured.connect().get("/ping").0.starts_with("HTTP/1.1 200 OK"));
    for socket in silent.iter_mut().chain(&mut begun) {
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest); // with a reset or without
        assert!(rest.len() < 64, "an alert at most: {rest:?}");
    }
    assert!(after.reply().is_err() && part.reply().is_err(), "closed");
    until("all are gone", SIGNAL_TIME, || (secured.server.metric("http_connections ") < 3.0).then_some(()));
    // What is no TLS at all.
    let mut garbage = connect();
    garbage.write_all(&[0; 100]).unwrap();
    let _ = garbage.read_to_end(&mut Vec::new());
    assert!(secured.connect().get("/ping").0.starts_with("HTTP/1.1 200 OK"));
}

/// A client that leaves is noticed while its stream is quiet, and one that closes in order too.
#[test]
fn a_stream_ends_with_its_client() {
    let secured = Secured::start(&["--events-heartbeat", "10m"]);
    for is_in_order in [true, false] {
        let mut stream = secured.connect();
        stream.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut head = [0; 15];
        stream.0.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        until("it is counted", SIGNAL_TIME, || (secured.server.metric("http_connections ") >= 2.0).then_some(()));
        if is_in_order {
            stream.0.conn.send_close_notify();
            stream.0.flush().unwrap();
            stream.0.conn.complete_io(&mut stream.0.sock).ok();
            stream.socket().shutdown(Shutdown::Write).unwrap();
        } else {
            drop(stream);
        }
        until("it is let go", SIGNAL_TIME, || (secured.server.metric("http_connections ") < 2.0).then_some(()));
    }
}

#[test]
fn a_stop_lets_encrypted_connections_finish() {
    let mut secured = Secured::start(&[]);
    created(&secured.server, wb_posted("x"));
    let mut idle = secured.connect();
    idle.get("/order/x");
    let mut posting = secured.connect();
    let body = wb_posted("y");
    posting.send(format!(
        "POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    ));
    // Asked for its body it is known to be under way.
    let (head, _) = posting.reply().unwrap();
    assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
    posting.send(&body[..10]);
    secured.server.terminate();
    assert_eq!(idle.until_end(), b"", "closed in order");
    posting.send(&body[10..]);
    // The intake is over, as it would be without TLS; the answer is whole, and so is its end.
    let (head, body) = posting.reply().unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") || head.starts_with("HTTP/1.1 201 "), "{head}");
    assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
    assert_eq!(posting.until_end(), b"");
    assert!(secured.server.wait().success());
}

#[test]
fn a_socket_of_the_file_system_is_there_as_long_as_its_process() {
    let files = Files::new();
    let path = files.path("orders.sock");
    let flag = format!("unix:{}", path.display());
    let mut server = Server::start(&["--listen", &flag]);
    assert!(listeners_of(&server).contains(&flag));
    let found = std::fs::metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    let ask = || {
        let mut socket = UnixStream::connect(&path).unwrap();
        socket.write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        read_reply(&mut socket).unwrap()
    };
    assert_eq!(ask().1, b"pong");
    // Another process cannot take it.
    let home = tempfile::tempdir().unwrap();
    let other = binary(home.path()).args(["serve", "--listen", &flag]).output().unwrap();
    let error = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && error.contains("another process listens on it"), "{error}");
    assert_eq!(ask().1, b"pong");
    // One that was killed leaves it, and the next one takes its place.
    server.kill();
    assert!(path.exists());
    server.start_again();
    assert_eq!(ask().1, b"pong");
    assert!(server.stop().success());
    assert!(!path.exists(), "removed at the end");
    // What is no socket is left alone.
    std::fs::write(&path, "mine").unwrap();
    let other = binary(home.path()).args(["serve", "--listen", &flag]).output().unwrap();
    let error = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && error.contains("something else than a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn metrics_and_readiness_are_asked_for_over_any_listener() {
    let files = Files::new();
    let admin = format!("unix:{}", files.text("admin.sock"));
    let secured = Secured::start(&["--admin", &admin]);
    let mut socket = UnixStream::connect(files.path("admin.sock")).unwrap();
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(read_reply(&mut socket).unwrap().1, b"ready");
    let home = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str]| {
        let done = binary(home.path()).arg("healthcheck").args(arguments).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let secure = secured.address().port();
    assert_eq!(check(&["--url", &format!("https://127.0.0.1:{secure}/readyz")]).0, Some(0));
    assert_eq!(check(&["--url", &format!("{admin}:/readyz")]).0, Some(0));
    assert_eq!(check(&["--listen", &admin]).0, Some(0), "its own socket");
    let (code, error) = check(&["--url", &format!("http://127.0.0.1:{secure}/readyz")]);
    assert!(code == Some(1) && error.contains("400"), "{error}");
}

/// hyper answers such a head itself, with nothing but a status.
#[test]
fn heads_that_the_admin_address_cannot_read_are_refused_in_words_and_with_an_id() {
    let files = Files::new();
    let _secured = Secured::start(&["--admin", &format!("unix:{}", files.text("admin.sock"))]);
    let good = "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
    let many = format!("GET /readyz HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(200));
    let ids: Vec<String> = ["G ET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n", &many]
        .into_iter()
        .flat_map(|bad| [bad.to_owned(), format!("{good}{bad}")])
        .map(|requests| {
            let mut socket = UnixStream::connect(files.path("admin.sock")).unwrap();
            socket.write_all(requests.as_bytes()).unwrap();
            if requests.starts_with(good) {
                assert_eq!(read_reply(&mut socket).unwrap().1, b"ready");
            }
            let (head, body) = read_reply(&mut socket).unwrap();
            assert!(head.starts_with("HTTP/1.1 4") && head.contains("content-type: text/plain"), "{requests}: {head}");
            assert!(String::from_utf8(body).unwrap().contains("head"), "{requests}: {head}");
            assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0, "and closed");
            head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id").to_owned()
        })
        .collect();
    assert!(ids.iter().enumerate().all(|(at, id)| !id.is_empty() && !ids[..at].contains(id)), "{ids:?}");
}

/// Runs the five commands of a section of the document, with a port of this test's own, and shows what they say.
fn walked(section: &str, port: &str) -> String {
    let document = include_str!("../../docs/security.md");
    let (_, walk) = document.split_once(section).unwrap();
    let walk = walk.split("```").nth(1).unwrap().strip_prefix("sh\n").unwrap();
    assert_eq!(walk.lines().count(), 5, "five commands");
    let home = tempfile::tempdir().unwrap();
    let program = binary(home.path()).get_program().to_str().unwrap().to_owned();
    let walk = walk.replace(port, &crate::servers::free_port().to_string());
    let walk = ["serve", "keys"]
        .into_iter()
        .fold(walk, |walk, command| walk.replace(&format!("order-service {command}"), &format!("{program} {command}")));
    let path = std::env::var("PATH").unwrap();
    let script = format!("set -e\n{walk}kill $!\nwait $!\n");
    let done =
        Command::new("/bin/sh").args(["-c", &script]).current_dir(home.path()).env_clear().env("PATH", path).output();
    let done = done.unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

#[test]
fn the_walk_from_nothing_to_tls_leads_there() {
    let said = walked("## From nothing to TLS", "8443");
    assert!(said.contains("ready"), "{said}");
}

#[test]
fn the_walk_from_nothing_to_keys_leads_there() {
    let said = walked("## From nothing to keys", "8080");
    assert!(said.contains("\"name\":\"ops\""), "{said}");
}

#[test]
fn settings_of_encryption_that_do_not_fit_are_told() {
    let home = tempfile::tempdir().unwrap();
    let files = Files::new();
    let authority = Authority::new("Test CA");
    let [cert, key] = files.write_signed(&authority.sign(&["localhost"]));
    let other = files.write("other.pem", &authority.sign(&["localhost"]).key);
    let listen = ["--listen", "tls:127.0.0.1:0"];
    let pair = ["--tls-cert", &cert, "--tls-key", &key];
    let refused = |arguments: &[&str], expected: &str| {
        for command in ["serve", "config check"] {
            let done = binary(home.path()).args(command.split(' ')).args(arguments).output().unwrap();
            let error = String::from_utf8_lossy(&done.stderr);
            assert_eq!(done.status.code(), Some(78), "{command} {arguments:?}: {error}");
            assert!(error.contains(expected), "{command} {arguments:?}: {error}");
        }
    };
    refused(&listen, "a tls: listener needs --tls-cert");
    refused(&["--admin", "tls:127.0.0.1:0"], "a tls: listener needs --tls-cert");
    refused(&[&["--listen", "127.0.0.1:0"][..], &pair].concat(), "--tls-cert: changes nothing without a tls: listener");
    refused(&[&listen[..], &["--tls-key", &key]].concat(), "--tls-cert");
    refused(&[&listen[..], &["--tls-cert", &cert]].concat(), "--tls-key");
    refused(&[&listen[..], &pair, &["--tls-client-auth", "optional"]].concat(), "--tls-client-ca");
    refused(
        &[&listen[..], &pair, &["--tls-client-ca", "/no/such"]].concat(),
        "--tls-client-ca: /no/such: cannot be read",
    );
    // By the name that it was given: a variable, a key of a file.
    files.write("order.toml", &format!("listen = \"tls:127.0.0.1:0\"\ntls.key = \"{key}\"\ntls.cert = \"{key}\"\n"));
    let config = files.text("order.toml");
    refused(&["--config", &config], &format!("{config}: tls.cert: {key}: has no certificate in PEM"));
    for command in ["serve", "config check"] {
        let done = binary(home.path())
            .args(command.split(' '))
            .args(listen)
            .env("ORDER_TLS_CERT", "/no/such")
            .env("ORDER_TLS_KEY", &key)
            .output();
        let error = String::from_utf8_lossy(&done.unwrap().stderr).into_owned();
        assert!(error.contains("ORDER_TLS_CERT: /no/such: cannot be read"), "{error}");
    }
    refused(&[&listen[..], &["--tls-cert", &cert, "--tls-key", &other]].concat(), "is not the key of the certificate");
    refused(&[&listen[..], &["--tls-cert", &key, "--tls-key", &key]].concat(), "has no certificate in PEM");
    refused(&["--listen", "unix:"], "needs the path of a socket, of at most 90 bytes");
    refused(&["--listen", "unix:a", "--listen", "unix:a"], "--listen: names unix:a twice");
    refused(&["--listen", &format!("unix:/{}", "x".repeat(100))], "needs the path of a socket, of at most 90 bytes");
    let done = binary(home.path()).args(["config", "check"]).args(listen).args(pair).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
