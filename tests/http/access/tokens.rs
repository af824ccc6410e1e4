//! Tokens: signed by keys of a file or behind a URL, which are fetched again for one that is new
//! and kept while the URL is silent.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::*;
use crate::server::{SIGNAL_TIME, until};
use crate::tls::{Authority, Files, Signed, accept};

const ISSUER: &str = "https://issuer.test";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

struct Signer {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { kid, pair: Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap() }
    }

    fn jwk(&self) -> String {
        let x = encode(self.pair.public_key());
        format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{}","x":"{x}"}}"#, self.kid)
    }

    fn token(&self, subject: &str, scope: &str, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let head = format!(r#"{{"alg":"EdDSA","kid":"{}","typ":"JWT"}}"#, self.kid);
        let claims = format!(
            r#"{{"iss":"{ISSUER}","aud":["orders","x"],"sub":"{subject}","scope":"{scope}","exp":{}}}"#,
            now.checked_add_signed(seconds).unwrap()
        );
        let signed = format!("{}.{}", encode(head), encode(claims));
        format!("Bearer {signed}.{}", encode(self.pair.sign(signed.as_bytes())))
    }
}

fn set(signers: &[&Signer]) -> String {
    let keys: Vec<String> = signers.iter().map(|signer| signer.jwk()).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

fn start(source: &str, flags: &[&str]) -> Server {
    let tokens = ["--auth-jwks", source, "--auth-issuer", ISSUER, "--auth-audience", "orders"];
    Server::start(&[&tokens, flags].concat())
}

fn get(server: &Server, path: &str, token: &str) -> Reply {
    server.request("GET", path, &[("Authorization", token)], "")
}

#[test]
fn tokens_of_a_file_s_keys_are_let_in_to_what_they_say() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("jwks.json");
    let (first, second) = (Signer::new("one"), Signer::new("two"));
    std::fs::write(&path, set(&[&first])).unwrap();
    let server = start(path.to_str().unwrap(), &[]);
    let all = first.token("ops", "orders:read orders:write", 600);
    let json = [("Authorization", &*all), ("Content-Type", "application/json")];
    server.request("POST", "/orders", &json, wb_of("x", "test")).expect(201);
    server.request("POST", "/orders", &json, wb_of("y", "other")).expect(201);
    let own = first.token("test", "orders:read:own", 600);
    let mut connection = server.connect();
    for _ in 0..3 {
        let reply = connection.request("GET", "/order/x", &[("Authorization", &own)], "").expect(200);
        assert_eq!(reply.text(), wb_of("x", "test"));
        connection.request("GET", "/order/y", &[("Authorization", &own)], "").expect(404);
    }
    get(&server, "/metrics", &all).expect(403);
    let nameless = get(&server, "/order/x", &first.token("", "orders:read events:read", 600)).expect(401);
    assert_eq!(nameless.json()["message"], "the token has no sub");
    let expired = get(&server, "/order/x", &first.token("ops", "orders:read", -31)).expect(401);
    assert_eq!(expired.json()["message"], "the token has expired");
    get(&server, "/order/x", &first.token("ops", "orders:read", -5)).expect(200); // clocks may be apart
    get(&server, "/order/x", &second.token("ops", "orders:read", 600)).expect(401);
    std::fs::write(&path, set(&[&second])).unwrap();
    until("the new key is known", SIGNAL_TIME, || {
        (get(&server, "/order/x", &second.token("ops", "orders:read", 600)).status == 200).then_some(())
    });
    assert_ne!(connection.request("GET", "/order/x", &[("Authorization", &own)], "").status, 200, "its key is gone");
}

/// All were "not valid".
#[test]
fn a_token_that_cannot_be_read_is_told_what_is_wrong_with_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("jwks.json");
    std::fs::write(&path, set(&[&Signer::new("one")])).unwrap();
    let server = start(path.to_str().unwrap(), &[]);
    for (token, told) in [
        ("Bearer a.b.c", "the token is no base64url"),
        ("Bearer W10.e30.e30", "a part of the token is no JSON object"),
        ("Bearer e30.e30.e30", "the token's algorithm is not accepted"),
    ] {
        let refused = get(&server, "/order/x", token).expect(401);
        assert_eq!(refused.json()["message"], told);
        assert!(refused.header("WWW-Authenticate").unwrap().ends_with(&format!("error_description=\"{told}\"")));
    }
}

/// A stream ends with its token.
#[test]
fn a_stream_ends_when_its_token_expires() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("jwks.json");
    let signer = Signer::new("one");
    std::fs::write(&path, set(&[&signer])).unwrap();
    let server = start(path.to_str().unwrap(), &[]);
    // Clocks may be apart by 30 s, so that it has two seconds left; where the machine holds it up for as long, more.
    let mut stream = [-28, -20, 0]
        .into_iter()
        .find_map(|seconds| {
            let mut stream = server.connect();
            let token = signer.token("a", "events:read orders:read", seconds);
            stream.ask("GET", "/events", &[("Authorization", &token)], "");
            (stream.try_head().unwrap().status == 200).then_some(stream)
        })
        .expect("a token that is still good");
    while stream.chunk().unwrap().is_some() {}
}

/// Its stream ends with the key that signed its token, in a second where that is a file's; those of
/// other keys go on, whatever else changes in the set.
#[test]
fn a_stream_ends_with_the_key_that_signed_its_token() {
    let (stays, goes) = (Signer::new("stays"), Signer::new("goes"));
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("jwks.json");
    std::fs::write(&path, set(&[&stays, &goes])).unwrap();
    let issuer = Issuer::start(set(&[&stays, &goes]));
    let of_url = start(&format!("http://{}/keys", issuer.address), &[]);
    let of_file = start(path.to_str().unwrap(), &[]);
    for (server, is_file) in [(&of_file, true), (&of_url, false)] {
        let scope = "events:read orders:read orders:write";
        let (going, staying) = (goes.token("a", scope, 600), stays.token("b", scope, 600));
        until("the keys are there", SIGNAL_TIME, || (get(server, "/api/stats", &going).status == 200).then_some(()));
        let open = |token: &str| {
            let mut stream = server.connect();
            stream.ask("GET", "/events", &[("Authorization", token)], "");
            stream.try_head().unwrap().expect(200);
            stream.chunk().unwrap().expect("a greeting");
            stream
        };
        let (mut ends, mut goes_on) = (open(&going), open(&staying));
        if is_file {
            std::fs::write(&path, set(&[&Signer::new("new"), &stays])).unwrap();
        } else {
            *issuer.set.lock().unwrap() = Some(set(&[&Signer::new("new"), &stays]));
            server.signal(rustix::process::Signal::HUP);
        }
        while ends.chunk().unwrap().is_some() {}
        assert_eq!(get(server, "/api/stats", &going).status, 401);
        let json = [("Authorization", &*staying), ("Content-Type", "application/json")];
        server.request("POST", "/orders", &json, wb_of("x", "test")).expect(201);
        let event = goes_on.chunk().unwrap().expect("the other stream goes on");
        assert!(String::from_utf8_lossy(&event).contains("\"order_uid\":\"x\""), "{event:?}");
    }
}

/// An issuer that answers what it is given, while it is there.
struct Issuer {
    address: std::net::SocketAddr,
    set: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

/// Answers one request.
fn answer(mut socket: impl Read + Write, body: Option<String>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return, // a client that does not believe who this is
        }
    }
    let answer = match body {
        Some(body) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        None => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".into(),
    };
    let _ = socket.write_all(answer.as_bytes()).and_then(|()| socket.flush());
}

impl Issuer {
    fn start(set: String) -> Self {
        Self::start_with(set, None)
    }

    /// With TLS where there is a certificate.
    fn start_with(set: String, certificate: Option<Signed>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (set, asked) = (Arc::new(Mutex::new(Some(set))), Arc::<AtomicUsize>::default());
        let (answers, count) = (Arc::clone(&set), Arc::clone(&asked));
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let body = answers.lock().unwrap().clone();
                match &certificate {
                    None => answer(socket, body),
                    Some(signed) => answer(accept(socket, signed), body),
                }
            }
        });
        Self { address, set, asked }
    }
}

/// The authorities of the system are trusted, which are those of a file where the environment says so.
#[test]
fn keys_are_fetched_over_tls_from_whom_the_system_trusts() {
    let (trusted, other) = (Authority::new("Trusted"), Authority::new("Other"));
    let files = Files::new();
    let roots = files.write("roots.pem", &trusted.pem());
    let signer = Signer::new("one");
    let start = |authority: &Authority| {
        let issuer = Issuer::start_with(set(&[&signer]), Some(authority.sign(&["localhost"])));
        let url = format!("https://localhost:{}/keys", issuer.address.port());
        let flags = ["--auth-jwks", &url, "--auth-issuer", ISSUER, "--auth-audience", "orders"];
        let server = Server::start_in(&flags, &[("SSL_CERT_FILE", &roots)]);
        server.wait_ready();
        (issuer, server)
    };
    let token = signer.token("ops", "orders:read", 600);
    let (_issuer, server) = start(&trusted);
    until("the keys are there", SIGNAL_TIME, || (get(&server, "/api/stats", &token).status == 200).then_some(()));
    let (_issuer, server) = start(&other);
    until("the refusal is told", SIGNAL_TIME, || {
        let lines = server.log();
        let told = lines.iter().find(|line| line.contains("token keys cannot be fetched"))?;
        assert!(told.contains("localhost") && told.contains("CN=Other"), "{told}");
        Some(())
    });
    assert_eq!(get(&server, "/api/stats", &token).status, 401);
}

#[test]
fn keys_behind_a_url_are_kept_and_fetched_again_for_a_new_one_but_not_for_each() {
    let (first, second) = (Signer::new("one"), Signer::new("two"));
    let issuer = Issuer::start(set(&[&first]));
    let server = start(&format!("http://{}/keys", issuer.address), &[]);
    let known = first.token("ops", "orders:read", 600);
    until("the keys are there", SIGNAL_TIME, || (get(&server, "/api/stats", &known).status == 200).then_some(()));
    *issuer.set.lock().unwrap() = None;
    // Tries of before may have been too many.
    let another = first.token("else", "orders:read", 600);
    until("another is let in", SIGNAL_TIME, || (get(&server, "/api/stats", &another).status == 200).then_some(()));
    // Unknown keys do not have the issuer asked each time.
    let (before, since) = (issuer.asked.load(Ordering::SeqCst), Instant::now());
    for _ in 0..20 {
        let status = get(&server, "/api/stats", &second.token("ops", "orders:read", 600)).status;
        assert!(matches!(status, 401 | 429), "{status}");
    }
    // Once in half a minute.
    let most = 1 + usize::try_from(since.elapsed().as_secs() / 30).unwrap();
    assert!(issuer.asked.load(Ordering::SeqCst) - before <= most);
    until("who is known is let in", SIGNAL_TIME, || (get(&server, "/api/stats", &known).status == 200).then_some(()));
    // A set without keys is one: what was let in by those of before is not any more.
    *issuer.set.lock().unwrap() = Some(set(&[]));
    server.signal(rustix::process::Signal::HUP);
    until("who was known is refused", SIGNAL_TIME, || (get(&server, "/api/stats", &known).status == 401).then_some(()));
    // What changes there is known at once when it is asked for.
    *issuer.set.lock().unwrap() = Some(set(&[&first, &second]));
    server.signal(rustix::process::Signal::HUP);
    until("the new key is known", SIGNAL_TIME, || {
        (get(&server, "/api/stats", &second.token("ops", "orders:read", 600)).status == 200).then_some(())
    });
}
