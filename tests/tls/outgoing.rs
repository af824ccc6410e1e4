//! Connections to real servers that speak TLS: PostgreSQL, Redis and NATS, with certificates that
//! are right, for another host, over, of an unknown authority, and changed while the service runs.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use order_service::tls::{Client, client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Authority, Files, Signed, give_to};
use crate::database::Database;
use crate::http::{created, wb_answered, wb_posted};
use crate::server::{SIGNAL_TIME, Server, binary, until};
use crate::servers::{self, Private, free_port};

/// A PostgreSQL server with TLS.
struct Encrypted {
    server: Private,
    files: Files,
    data: String,
}

impl Encrypted {
    fn start(signed: &Signed) -> Option<Self> {
        let server = Private::postgres()?;
        let data = psql(server.url(), "SHOW data_directory").unwrap();
        let encrypted = Self { server, files: Files::new(), data };
        encrypted.show(signed);
        Some(encrypted)
    }

    /// Shows this certificate from now on.
    fn show(&self, signed: &Signed) {
        let data = std::path::Path::new(&self.data);
        for (name, text) in [("tests.crt", &signed.cert), ("tests.key", &signed.key)] {
            let path = data.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            give_to(&path, data);
        }
        for sql in [
            "ALTER SYSTEM SET ssl_cert_file = 'tests.crt'",
            "ALTER SYSTEM SET ssl_key_file = 'tests.key'",
            "ALTER SYSTEM SET ssl = on",
            "SELECT pg_reload_conf()",
        ] {
            psql(self.server.url(), sql).unwrap();
        }
        until("it is shown", SIGNAL_TIME, || (self.shown().as_ref() == Some(&signed.der())).then_some(()));
    }

    /// The certificate that it shows.
    fn shown(&self) -> Option<Vec<u8>> {
        let address = self.server.url().strip_prefix("postgres://postgres@")?.strip_suffix("/postgres")?.to_owned();
        let config = client::Config { verify: client::Verify::Nothing, ..client::Config::default() };
        let client = Client::open(&config).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut socket = tokio::net::TcpStream::connect(address).await.ok()?;
            socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.ok()?;
            if socket.read_u8().await.ok()? != b'S' {
                return None;
            }
            let stream = client.connect("localhost", socket).await.ok()?;
            Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
        })
    }

    fn url(&self, host: &str, parameters: &str) -> String {
        let url = self.server.url().replace("127.0.0.1", host);
        if parameters.is_empty() { url } else { format!("{url}?{parameters}") }
    }
}

/// What a command of ours says of a server: its exit code and its errors.
fn asked(url: &str) -> (Option<i32>, String) {
    let home = tempfile::tempdir().unwrap();
    let done = binary(home.path()).args(["migrate", "status", "--postgres", url]).output().unwrap();
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

fn psql(url: &str, sql: &str) -> Result<String, String> {
    let output = Command::new("psql").args(["-XAtq", "-c", sql, url]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn postgres_is_verified_as_far_as_sslmode_says() {
    let (authority, strangers) = (Authority::new("Test CA"), Authority::new("Strangers' CA"));
    let Some(server) = Encrypted::start(&authority.sign(&["localhost"])) else { return };
    let ca = server.files.write("ca.pem", &authority.pem());
    let other_ca = server.files.write("other.pem", &strangers.pem());
    let rooted = |mode: &str| format!("sslmode={mode}&sslrootcert={ca}");
    // A certificate that is right for one name of the machine and wrong for the other.
    for (host, parameters) in [
        ("localhost", rooted("verify-full")),
        ("127.0.0.1", rooted("verify-ca")),
        ("127.0.0.1", rooted("require")),
        ("127.0.0.1", "sslmode=require".into()),
        ("127.0.0.1", String::new()),
        ("127.0.0.1", "sslmode=disable".into()),
    ] {
        let (code, error) = asked(&server.url(host, &parameters));
        assert_eq!(code, Some(0), "{host} {parameters}: {error}");
    }
    let wrong = |host: &str, parameters: &str, expected: &[&str]| {
        let (code, error) = asked(&server.url(host, parameters));
        assert_eq!(code, Some(1), "{host} {parameters}: {error}");
        assert!(expected.iter().all(|part| error.contains(part)), "{host} {parameters}: {error}");
    };
    wrong("127.0.0.1", &rooted("verify-full"), &["127.0.0.1", "localhost", "for another host"]);
    for mode in ["require", "verify-ca", "verify-full"] {
        let parameters = format!("sslmode={mode}&sslrootcert={other_ca}");
        wrong("localhost", &parameters, &["CN=Test CA", "not among the authorities of", "other.pem"]);
    }
    wrong("localhost", "sslmode=verify-full&sslrootcert=system", &["CN=Test CA", "that this system trusts"]);
    server.show(&authority.sign_expired(&["localhost"]));
    wrong("localhost", &rooted("verify-full"), &["expired"]);
    assert_eq!(asked(&server.url("localhost", "sslmode=require")).0, Some(0));
    // The variables of the older services have the same words.
    let port = server.server.url().rsplit_once(':').unwrap().1.split('/').next().unwrap().to_owned();
    let home = tempfile::tempdir().unwrap();
    let done = binary(home.path())
        .args(["migrate", "status"])
        .envs([("POSTGRES_HOST", "localhost"), ("POSTGRES_PORT", &port), ("POSTGRES_USER", "postgres")])
        .envs([("POSTGRES_DB", "postgres"), ("POSTGRES_SSLMODE", "verify-full"), ("POSTGRES_SSLROOTCERT", &ca)])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && error.contains("expired"), "{error}");
    // A certificate that signs itself and is named as the root is trusted, as OpenSSL does it.
    let own = Authority::new("localhost");
    let alone = Signed { cert: own.pem(), key: own.0.key().serialize_pem() };
    server.show(&alone);
    let own = server.files.write("own.pem", &alone.cert);
    assert_eq!(asked(&server.url("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={own}"))).0, Some(0));
}

/// As libpq: where the server's rules refuse the kind of connection that is tried first, the other one
/// is tried, by every connection of the service.
#[test]
fn prefer_and_allow_try_the_other_kind_where_the_rules_refuse_the_first() {
    let authority = Authority::new("Test CA");
    let Some(server) = Encrypted::start(&authority.sign(&["localhost"])) else { return };
    for role in ["plain", "secure", "refused"] {
        psql(server.server.url(), &format!("CREATE ROLE {role} SUPERUSER LOGIN")).unwrap();
    }
    let hba = psql(server.server.url(), "SHOW hba_file").unwrap();
    let rules = std::fs::read_to_string(&hba).unwrap();
    let added = "hostssl all plain all reject\nhostnossl all plain all trust\n\
                 hostssl all secure all trust\nhostnossl all secure all reject\nhost all refused all reject\n";
    std::fs::write(&hba, format!("{added}{rules}")).unwrap();
    psql(server.server.url(), "SELECT pg_reload_conf()").unwrap();
    let url = |role: &str, mode: &str| server.url("localhost", mode).replace("postgres@", &format!("{role}@"));
    until("the rules are read", SIGNAL_TIME, || (asked(&url("refused", "")).0 == Some(1)).then_some(()));
    for (role, mode, is_let_in) in [
        ("plain", "", true),
        ("plain", "sslmode=prefer", true),
        ("plain", "sslmode=allow", true),
        ("plain", "sslmode=disable", true),
        ("plain", "sslmode=require", false),
        ("secure", "", true),
        ("secure", "sslmode=prefer", true),
        ("secure", "sslmode=allow", true),
        ("secure", "sslmode=require", true),
        ("secure", "sslmode=disable", false),
        ("refused", "sslmode=prefer", false),
        ("refused", "sslmode=allow", false),
    ] {
        let (code, error) = asked(&url(role, mode));
        assert_eq!(code, Some(i32::from(!is_let_in)), "{role} {mode}: {error}");
        assert!(is_let_in || error.contains("pg_hba.conf"), "{role} {mode}: {error}");
    }
    // What was wanted first is what is told of.
    assert!(asked(&url("refused", "sslmode=prefer")).1.contains("SSL encryption"));
    assert!(asked(&url("refused", "sslmode=allow")).1.contains("no encryption"));
    // Not after a certificate that is not believed.
    let other = server.files.write("other.pem", &Authority::new("Strangers' CA").pem());
    let (code, error) = asked(&url("plain", &format!("sslmode=prefer&sslrootcert={other}")));
    assert!(code == Some(1) && error.contains("not among the authorities of"), "{error}");
    for (role, mode, encrypted) in [("plain", "prefer", "0"), ("secure", "allow", "1")] {
        let database = Database::create_on(server.server.url());
        let url = url(role, &format!("sslmode={mode}")).replace("/postgres?", &format!("/{}?", database.name()));
        let mut service = Server::start(&["--postgres", &url]);
        created(&service, wb_posted("x"));
        service.restart();
        assert_eq!(service.get("/order/x").expect(200).text(), wb_answered("x"));
        let kinds = database.query(&format!(
            "SELECT DISTINCT ssl::int FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = '{role}'"
        ));
        assert_eq!(kinds, [encrypted], "{role}");
    }
}

#[test]
fn versions_of_tls_and_places_in_the_parameters_are_as_the_url_says() {
    let authority = Authority::new("Test CA");
    let Some(server) = Encrypted::start(&authority.sign(&["localhost"])) else { return };
    let (code, error) = asked(&server.url("localhost", "sslmode=require&ssl_min_protocol_version=TLSv1.3"));
    assert_eq!(code, Some(0), "{error}");
    psql(server.server.url(), "ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.2'").unwrap();
    psql(server.server.url(), "SELECT pg_reload_conf()").unwrap();
    until("only the older version is spoken", SIGNAL_TIME, || {
        let (code, error) = asked(&server.url("localhost", "sslmode=require&ssl_min_protocol_version=TLSv1.3"));
        (code == Some(1)).then(|| {
            assert!(error.contains("it speaks none of the versions of TLS"), "{error}");
        })
    });
    for parameters in ["ssl_max_protocol_version=TLSv1.2", "ssl_min_protocol_version=TLSv1"] {
        let (code, error) = asked(&server.url("localhost", &format!("sslmode=require&{parameters}")));
        assert_eq!(code, Some(0), "{parameters}: {error}");
    }
    let port = server.server.url().rsplit_once(':').unwrap().1.split('/').next().unwrap();
    for url in [
        format!("postgres://postgres@nowhere.invalid:1/postgres?host=127.0.0.1&port={port}"),
        format!("postgres://postgres@/postgres?host=127.0.0.1&port={port}"),
        format!("postgres://postgres@127.0.0.1:1/postgres?port={port}"),
        format!("host=nowhere.invalid port=1 user=postgres host=127.0.0.1 port={port}"),
    ] {
        let (code, error) = asked(&url);
        assert_eq!(code, Some(0), "{url}: {error}");
    }
}

/// The name that was asked for stands in the first message, for anyone to read, unless `sslsni=0`.
#[test]
fn the_name_is_not_told_where_sslsni_is_0() {
    let hello = |parameters: &str| {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let reading = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut bytes = vec![0; 8];
            socket.read_exact(&mut bytes).unwrap();
            socket.write_all(b"S").unwrap();
            let mut hello = vec![0; 4096];
            let length = socket.read(&mut hello).unwrap();
            hello.truncate(length);
            hello
        });
        let (code, error) = asked(&format!("postgres://u@localhost:{port}/d?sslmode=require{parameters}"));
        assert_eq!(code, Some(1), "{error}");
        reading.join().unwrap()
    };
    let has_name = |hello: &[u8]| hello.windows(9).any(|part| part == b"localhost");
    for (parameters, expected) in [("", true), ("&sslsni=1", true), ("&sslsni=0", false)] {
        let hello = hello(parameters);
        assert!(order_service::listen::is_tls(&hello), "{hello:?}");
        assert_eq!(has_name(&hello), expected, "{parameters}");
    }
}

#[test]
fn a_postgres_without_tls_is_told_from_one_with_it() {
    let Some(url) = servers::postgres() else { return };
    let home = tempfile::tempdir().unwrap();
    let ask = |parameters: &str| {
        let url = format!("{url}?{parameters}");
        let done = binary(home.path()).args(["migrate", "status", "--postgres", &url]).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    assert_eq!(ask("sslmode=prefer").0, Some(0));
    let (code, error) = ask("sslmode=require");
    assert!(code == Some(1) && error.contains("TLS"), "{error}");
}

/// Every connection of the service: pools, the reader of a start, locks, those beside.
#[test]
fn a_service_on_an_encrypted_postgres_does_all_it_does_and_follows_its_certificate() {
    let authority = Authority::new("Test CA");
    let Some(server) = Encrypted::start(&authority.sign(&["localhost"])) else { return };
    // Nothing gets in without TLS, and the login is bound to the channel.
    let hba = psql(server.server.url(), "SHOW hba_file").unwrap();
    psql(server.server.url(), "CREATE ROLE bound SUPERUSER LOGIN PASSWORD 'secret'").unwrap();
    let rules = std::fs::read_to_string(&hba).unwrap();
    let bound = "hostssl all bound all scram-sha-256\nhost all bound all reject\n";
    std::fs::write(&hba, format!("{bound}{rules}")).unwrap();
    psql(server.server.url(), "SELECT pg_reload_conf()").unwrap();
    let database = Database::create_on(server.server.url());
    let ca = server.files.write("ca.pem", &authority.pem());
    let port = server.server.url().rsplit_once(':').unwrap().1.split('/').next().unwrap().to_owned();
    let url = format!(
        "postgres://bound:secret@localhost:{port}/{}?sslmode=verify-full&channel_binding=require&sslrootcert={ca}",
        database.name()
    );
    let mut service = Server::start(&["--postgres", &url]);
    created(&service, wb_posted("x"));
    service.restart();
    assert_eq!(service.get("/order/x").expect(200).text(), wb_answered("x"));
    let plain = database.query(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'bound' AND NOT ssl",
    );
    assert_eq!(plain, ["0"], "every connection is encrypted");
    let encrypted = database
        .query("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'bound' AND ssl");
    assert_ne!(encrypted, ["0"]);
    // Another authority takes over: first the server's certificate, which is not believed, then
    // ours to follow.
    let next = Authority::new("Next CA");
    server.show(&next.sign(&["localhost"]));
    psql(server.server.url(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bound'")
        .unwrap();
    let refused = service.post("/orders", wb_posted("y"));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(!refused.text().contains("CN="), "what is wrong is for the log: {}", refused.text());
    let waiting = Server::start_cold(&["--postgres", &url]);
    until("readiness says it without names", SIGNAL_TIME, || {
        let told = waiting.get("/readyz").expect(503).text().to_owned();
        assert!(["CN=", "localhost", "bound", database.name()].iter().all(|name| !told.contains(name)), "{told}");
        told.contains("the certificate of PostgreSQL is not believed").then_some(())
    });
    drop(waiting);
    until("the log says what is wrong", SIGNAL_TIME, || {
        let is_said = |line: &String| line.contains("CN=Next CA") && line.contains("not among the authorities of");
        service.log().iter().any(is_said).then_some(())
    });
    assert_eq!(service.get("/order/x").expect(200).text(), wb_answered("x"));
    server.files.write("ca.pem", &format!("{}{}", authority.pem(), next.pem()));
    until("writes go on", SIGNAL_TIME, || {
        matches!(service.post("/orders", wb_posted("z")).status, 200 | 201).then_some(())
    });
    assert!(service.log().iter().all(|line| !line.contains("secret")));
    assert!(service.stop().success());
}

#[test]
fn postgres_asks_for_a_certificate_and_gets_it() {
    let authority = Authority::new("Test CA");
    let Some(server) = Encrypted::start(&authority.sign(&["localhost"])) else { return };
    let data = std::path::Path::new(&server.data);
    std::fs::write(data.join("clients.crt"), authority.pem()).unwrap();
    give_to(&data.join("clients.crt"), data);
    psql(server.server.url(), "ALTER SYSTEM SET ssl_ca_file = 'clients.crt'").unwrap();
    psql(server.server.url(), "CREATE ROLE shop SUPERUSER LOGIN").unwrap();
    let hba = psql(server.server.url(), "SHOW hba_file").unwrap();
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("hostssl all shop all cert\n{rules}")).unwrap();
    psql(server.server.url(), "SELECT pg_reload_conf()").unwrap();
    let shop = authority.sign_client("shop");
    let (cert, key) = (server.files.write("c.pem", &shop.cert), server.files.write("k.pem", &shop.key));
    let mode = |mode| std::fs::set_permissions(server.files.path("k.pem"), PermissionsExt::from_mode(mode)).unwrap();
    mode(0o600);
    let url = server.url("localhost", "sslmode=require").replace("postgres@", "shop@");
    let with = |url: &str| asked(&format!("{url}&sslcert={cert}&sslkey={key}"));
    until("the rules are read", SIGNAL_TIME, || (asked(&url).0 == Some(1)).then_some(()));
    let (code, error) = with(&url);
    assert_eq!(code, Some(0), "{error}");
    mode(0o644);
    let (code, error) = with(&url);
    assert!(code == Some(78) && error.contains("can be read by others"), "{error}");
}

/// A server that a test started itself.
struct Own {
    child: Child,
    port: u16,
}

impl Own {
    /// Waits until it takes connections.
    fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut own = Self { child, port };
        until("the server answers", SIGNAL_TIME, || {
            assert!(own.child.try_wait().unwrap().is_none(), "it has ended");
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        own
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn redis(files: &Files, signed: &Signed, port: u16) -> Own {
    let [cert, key] = files.write_signed(signed);
    let (ca, home) = (files.text("ca.pem"), files.text(""));
    let settings = format!(
        "bind 127.0.0.1\nport 0\ntls-port {port}\nsave \"\"\ndir {home}\ntls-cert-file {cert}\ntls-key-file {key}\n\
         tls-ca-cert-file {ca}\ntls-auth-clients optional\nuser orders on >secret ~order* +@all\n"
    );
    Own::start(Command::new("redis-server").arg(files.write("redis.conf", &settings)), port)
}

/// How a service finds its Redis: whether the breaker is closed, and what the log says.
fn is_used(service: &Server) -> bool {
    service.metric("redis_breaker_open ") == 0.0
}

#[test]
fn redis_is_reached_over_tls_as_a_user_of_its_own() {
    if servers::redis().is_none() {
        return;
    }
    let (authority, strangers) = (Authority::new("Test CA"), Authority::new("Strangers' CA"));
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    let other = files.write("other.pem", &strangers.pem());
    let port = free_port();
    let server = redis(&files, &authority.sign(&["localhost"]), port);
    let url = format!("rediss://orders:secret@localhost:{}", server.port);
    let service = Server::start(&["--redis", &url, "--redis-ca", &ca]);
    until("it is used", SIGNAL_TIME, || is_used(&service).then_some(()));
    // Of one that comes too late to be written, on a busy machine, nothing is to be found.
    let mut n = 0;
    until("an order is there", SIGNAL_TIME, || {
        n += 1;
        created(&service, wb_posted(&format!("x{n}")));
        let is_there = |n: u32| {
            let said = Command::new("redis-cli")
                .args(["--tls", "--cacert", &ca, "-h", "localhost", "-p", &port.to_string()])
                .args(["--user", "orders", "--pass", "secret", "--no-auth-warning", "GET", &format!("order:x{n}")])
                .output()
                .unwrap();
            String::from_utf8_lossy(&said.stdout).trim() == wb_answered(&format!("x{n}"))
        };
        (1..=n).any(is_there).then_some(())
    });
    for (url, ca, expected) in [
        (format!("rediss://orders:secret@127.0.0.1:{port}"), &ca, "for another host"),
        (url, &other, "not among the authorities of"),
        (format!("redis://orders:secret@localhost:{port}"), &String::new(), "Redis is unavailable"),
    ] {
        let mut flags = vec!["--redis", &url];
        if !ca.is_empty() {
            flags.extend(["--redis-ca", ca]);
        }
        let wrong = Server::start(&flags);
        until("the log says what is wrong", SIGNAL_TIME, || {
            wrong.log().iter().any(|line| line.contains(expected)).then_some(())
        });
        assert!(wrong.log().iter().all(|line| !line.contains("Other(")), "{:?}", wrong.log());
        assert!(!is_used(&wrong));
        assert!(wrong.log().iter().all(|line| !line.contains("secret")), "{:?}", wrong.log());
    }
    // A new authority, while the service runs.
    drop(server);
    until("it is missed", SIGNAL_TIME, || (!is_used(&service)).then_some(()));
    let _server = redis(&files, &strangers.sign(&["localhost"]), port);
    until("it is not believed", SIGNAL_TIME, || {
        service.log().iter().any(|line| line.contains("Strangers' CA")).then_some(())
    });
    files.write("ca.pem", &strangers.pem());
    until("it is used again", SIGNAL_TIME, || is_used(&service).then_some(()));
}

fn nats(files: &Files, signed: &Signed, port: u16, more: &str) -> Own {
    let [cert, key] = files.write_signed(signed);
    let settings = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {:?} }}\n\
         tls {{ cert_file: {cert:?}, key_file: {key:?} }}\n{more}\n",
        files.text("jetstream")
    );
    let settings = files.write("nats.conf", &settings);
    Own::start(Command::new("nats-server").args(["-c", &settings]), port)
}

#[test]
fn nats_is_reached_over_tls_by_every_kind_of_login() {
    if servers::nats().is_none() {
        return;
    }
    let (authority, strangers) = (Authority::new("Test CA"), Authority::new("Strangers' CA"));
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    let other = files.write("other.pem", &strangers.pem());
    // Made by `nk -gen user`, and of no use anywhere else.
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let public = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let nkey = files.write("user.nk", seed);
    let port = free_port();
    let logins = format!("authorization {{ users: [ {{ user: orders, password: secret }}, {{ nkey: {public} }} ] }}");
    let server = nats(&files, &authority.sign(&["localhost"]), port, &logins);
    let by_password = format!("tls://orders:secret@localhost:{port}");
    let by_nkey = format!("tls://localhost:{port}");
    for flags in [
        vec!["--nats", &by_password, "--nats-ca", &ca],
        vec!["--nats", &by_nkey, "--nats-ca", &ca, "--nats-nkey", &nkey],
    ] {
        let service = Server::start(&flags);
        drop(service); // it is ready once the stream is read
    }
    let wrong_host = format!("tls://orders:secret@127.0.0.1:{port}");
    for (url, ca, expected) in [
        (&wrong_host, &ca, "for another host"),
        (&by_password, &other, "not among the authorities of"),
        (&by_nkey, &ca, "NATS refuses the credentials"),
    ] {
        let service = Server::start_cold(&["--nats", url, "--nats-ca", ca]);
        until("the log says what is wrong", SIGNAL_TIME, || {
            service.log().iter().any(|line| line.contains(expected)).then_some(())
        });
        let told = service.get("/readyz").expect(503).text().to_owned();
        assert!(!told.contains("localhost") && !told.contains("127.0.0.1"), "{told}");
        assert!(service.log().iter().all(|line| !line.contains("Other(")), "{:?}", service.log());
        assert!(service.log().iter().all(|line| !line.contains("secret")), "{:?}", service.log());
    }
    // Another certificate after a restart, of another authority, which is named while the service
    // waits for it.
    let service = Server::start(&["--nats", &by_password, "--nats-ca", &ca]);
    drop(server);
    let _server = nats(&files, &strangers.sign(&["localhost"]), port, &logins);
    files.write("ca.pem", &strangers.pem());
    let home = tempfile::tempdir().unwrap();
    until("orders come again", SIGNAL_TIME, || {
        let publish = ["publish", "--nats", &by_password, "--count", "1"];
        let done = binary(home.path()).args(publish).env("ORDER_NATS_CA", &ca).output().unwrap();
        let stored = || service.get("/api/stats").json()["total_orders"].as_u64() > Some(0);
        (done.status.success() && stored()).then_some(())
    });
}

/// Base64 as URLs have it, without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let piece = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digit = move |n: usize| char::from(DIGITS[(bits >> (18 - 6 * n)) as usize & 63]);
        (0..=chunk.len()).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(piece).collect()
}

/// What one key says of another, as NATS has it.
fn claim(issuer: &nkeys::KeyPair, subject: &nkeys::KeyPair, more: &serde_json::Value) -> String {
    let claims = serde_json::json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test", "sub": subject.public_key(),
        "nats": more,
    });
    let head = base64url(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{head}.{}", base64url(claims.to_string().as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", base64url(&signature))
}

#[test]
fn nats_takes_credentials() {
    if servers::nats().is_none() {
        return;
    }
    let files = Files::new();
    let authority = Authority::new("Test CA");
    let ca = files.write("ca.pem", &authority.pem());
    let (operator, account) = (nkeys::KeyPair::new_operator(), nkeys::KeyPair::new_account());
    let user = nkeys::KeyPair::new_user();
    let all = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let operator_claim = claim(&operator, &operator, &serde_json::json!({"type": "operator", "version": 2}));
    let account_claim =
        claim(&operator, &account, &serde_json::json!({"limits": all, "type": "account", "version": 2}));
    let of_user = serde_json::json!({
        "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2,
    });
    let user_claim = claim(&account, &user, &of_user);
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{user_claim}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    let credentials = files.write("user.creds", &credentials);
    let system = nkeys::KeyPair::new_account();
    let system_claim = claim(&operator, &system, &serde_json::json!({"type": "account", "version": 2}));
    let known = format!(
        "operator: \"{operator_claim}\"\nsystem_account: {1}\nresolver: MEMORY\n\
         resolver_preload: {{\n {0}: \"{account_claim}\"\n {1}: \"{system_claim}\"\n}}",
        account.public_key(),
        system.public_key()
    );
    let server = nats(&files, &authority.sign(&["localhost"]), free_port(), &known);
    let url = format!("tls://localhost:{}", server.port);
    let service = Server::start(&["--nats", &url, "--nats-ca", &ca, "--nats-credentials", &credentials]);
    let home = tempfile::tempdir().unwrap();
    let done = binary(home.path())
        .args(["publish", "--nats", &url, "--count", "3"])
        .envs([("ORDER_NATS_CA", &ca), ("ORDER_NATS_CREDENTIALS", &credentials)])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    until("they are there", SIGNAL_TIME, || {
        (service.get("/api/stats").json()["total_orders"].as_u64() == Some(3)).then_some(())
    });
}

#[test]
fn files_of_other_servers_that_do_not_fit_are_told() {
    let home = tempfile::tempdir().unwrap();
    let files = Files::new();
    let authority = Authority::new("Test CA");
    let ca = files.write("ca.pem", &authority.pem());
    let empty = files.write("empty.pem", "");
    let redis = ["--redis", "rediss://localhost:1"];
    let nats = ["--nats", "tls://localhost:1"];
    for (arguments, expected) in [
        ([&redis[..], &["--redis-ca", "/no/such"]].concat(), "/no/such: cannot be read"),
        ([&redis[..], &["--redis-ca", &empty]].concat(), "has no certificate in PEM"),
        ([&redis[..], &["--redis-ca", &ca, "--redis-cert", &ca]].concat(), "--redis-cert: needs --redis-key"),
        ([&redis[..], &["--redis-ca", &ca, "--redis-key", &ca]].concat(), "--redis-key: needs --redis-cert"),
        (vec!["--redis", "localhost:1", "--redis-ca", &ca], "change nothing without rediss://"),
        (vec!["--redis-ca", &ca], "--redis"),
        (vec!["--postgres", "postgres://h/d?sslcrl=x"], "the option sslcrl is not supported"),
        (vec!["--postgres", "host=h passfile=x"], "the option passfile is not supported"),
        (vec!["--postgres", "postgres://h/d?gssencmode=require"], "the option gssencmode is supported as"),
        (vec!["--postgres", "postgres://h/d?ssl_max_protocol_version=TLSv1.1"], "must be TLSv1.2 or TLSv1.3"),
        (vec!["--postgres", "postgres://h/d?sslsni=2"], "sslsni is neither 0 nor 1"),
        ([&nats[..], &["--nats-ca", "/no/such"]].concat(), "/no/such: cannot be read"),
        ([&nats[..], &["--nats-ca", &ca, "--nats-nkey", &ca]].concat(), "is no seed"),
        ([&nats[..], &["--nats-ca", &ca, "--nats-credentials", &ca]].concat(), "are no credentials"),
        (vec!["--nats", "tls://me:pw@localhost:1", "--nats-ca", &ca, "--nats-nkey", &ca], "more than one of"),
        (vec!["--nats-nkey", &ca], "--nats"),
    ] {
        let done = binary(home.path()).args(["config", "check"]).args(&arguments).output().unwrap();
        let error = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(78), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}
