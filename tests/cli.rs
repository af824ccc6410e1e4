//! The command line: exit codes, settings and their order, and the subcommands on files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::http::{wb_answered, wb_lines, wb_posted};
use crate::server::{Server, binary, limited, process_status};

/// A command may take this long.
const TIME: Duration = Duration::from_mins(3);

/// A directory to run commands in.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, &[])
    }

    pub fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Done {
        let child =
            binary(self.path()).args(arguments).envs(environment.iter().copied()).stdout(Stdio::piped()).spawn();
        Done::wait(child.unwrap(), arguments)
    }

    pub fn run_fed(&self, arguments: &[&str], input: &str) -> Done {
        let mut child =
            binary(self.path()).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, input.as_bytes()).ok());
        let done = Done::wait(child, arguments);
        writer.join().unwrap();
        done
    }
}

/// How a command ended.
pub struct Done {
    code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Done {
    pub fn wait(child: Child, arguments: &[&str]) -> Self {
        let pid = rustix::process::Pid::from_child(&child);
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let Ok(output) = ended.recv_timeout(TIME) else {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            panic!("still running after {TIME:?}: {arguments:?}");
        };
        let Output { status, stdout, stderr } = output.unwrap();
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    /// Whether a signal ended it.
    pub fn is_killed(&self) -> bool {
        self.code.is_none()
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        assert!(!self.err.contains("panicked") && !self.err.contains("stack backtrace"), "{}", self.err);
        self
    }
}

#[test]
fn usage_errors_are_2() {
    let home = Home::new();
    for arguments in [
        &["--nonsense"][..],
        &["nonsense"],
        &["import"],
        &["migrate"],
        &["config"],
        &["serve", "--listen"],
        &["completions", "tcsh"],
    ] {
        let done = home.run(arguments).expect(2);
        assert!(!done.err.is_empty() && done.out.is_empty(), "{arguments:?}");
    }
}

#[test]
fn configuration_errors_are_78_and_name_each() {
    let home = Home::new();
    let done = home
        .run(&["serve", "--listen", "nowhere", "--sample", "many", "--http-idle-time", "soon", "--log", "loud"])
        .expect(78);
    for name in ["--listen", "--sample", "--http-idle-time", "--log"] {
        assert!(done.err.lines().any(|line| line.contains(name)), "{name} in {}", done.err);
    }
    let done = home.run_with(&["serve"], &[("ORDER_LISTEN", "nowhere"), ("ORDER_GRACE", "x")]).expect(78);
    assert!(done.err.contains("ORDER_LISTEN") && done.err.contains("ORDER_GRACE"), "{}", done.err);
    home.write("bad.toml", "listen = \"nowhere\"\nunknown_key = 1\n[http]\nidle_time = \"x\"\n");
    let done = home.run(&["serve", "--config", "bad.toml"]).expect(78);
    for name in ["listen", "unknown_key", "http.idle_time"] {
        assert!(done.err.contains(name), "{name} in {}", done.err);
    }
    home.write("broken.toml", "listen = [");
    for file in ["broken.toml", "missing.toml"] {
        let done = home.run(&["serve", "--config", file]).expect(78);
        assert!(done.err.contains(file), "{}", done.err);
    }
    assert!(!home.path().join("data").exists(), "nothing is touched before the settings are good");
    for command in [
        &["import", "x", "--profile", "odd"][..],
        &["export", "--profile", "odd"],
        &["migrate", "status", "--profile", "odd"],
    ] {
        home.run(command).expect(78);
    }
}

#[test]
fn a_database_that_nothing_can_connect_to_is_a_configuration_error() {
    let home = Home::new();
    for (url, named) in [
        ("host=a,b port=1,2,3", "3 ports for 2 hosts"),
        ("host=a,b hostaddr=127.0.0.1", "1 hostaddrs for 2 hosts"),
        ("postgres://me:secret@a/orders?channel_binding=require&sslmode=disable", "channel_binding"),
        ("postgres://me:secret@a/orders?sslmode=verify-full", "sslrootcert"),
        ("postgres://me:secret@a/orders?sslmode=perhaps", "sslmode"),
        ("postgres://me:secret@a:port/orders", "--postgres"),
    ] {
        for command in
            [&["serve", "--listen", "127.0.0.1:0"][..], &["export"], &["migrate", "status"], &["config", "check"]]
        {
            let done = home.run(&[command, &["--postgres", url]].concat()).expect(78);
            assert!(done.err.lines().count() == 1 && done.err.contains(named), "{url}: {}", done.err);
            assert!(!done.err.contains("secret"), "{}", done.err);
        }
    }
}

/// In the build of the image. Which properties another build refuses is below.
#[cfg(feature = "kafka-tls")]
#[test]
fn kafka_takes_settings_of_tls_and_sasl() {
    let home = Home::new();
    for properties in [
        &["security.protocol=SSL"][..],
        &["security.protocol=SASL_SSL", "sasl.mechanisms=PLAIN", "sasl.username=u", "sasl.password=p"],
        &["security.protocol=SASL_SSL", "sasl.mechanisms=SCRAM-SHA-512", "sasl.username=u", "sasl.password=p"],
        &["security.protocol=SASL_PLAINTEXT", "sasl.mechanisms=SCRAM-SHA-256", "sasl.username=u", "sasl.password=p"],
        &["security.protocol=SASL_SSL", "sasl.mechanisms=OAUTHBEARER", "enable.sasl.oauthbearer.unsecure.jwt=true"],
    ] {
        let mut line = vec!["config", "check", "--kafka", "127.0.0.1:1"];
        line.extend(properties.iter().flat_map(|property| ["--kafka-property", property]));
        home.run(&line).expect(0);
    }
    // Nothing would ever bring a token.
    for mechanism in ["sasl.mechanisms=OAUTHBEARER", "sasl.mechanism=oauthbearer"] {
        let line = ["config", "check", "--kafka", "127.0.0.1:1", "--kafka-property", "security.protocol=SASL_SSL"];
        let done = home.run(&[&line[..], &["--kafka-property", mechanism]].concat()).expect(78);
        let (name, _) = mechanism.split_once('=').unwrap();
        assert!(done.err.contains(name) && done.err.contains("no source of tokens"), "{}", done.err);
    }
    let wrong = ["--kafka-property", "security.protocol=SSL", "--kafka-property", "ssl.ca.location=/no/such"];
    let done = home.run(&[&["config", "check", "--kafka", "127.0.0.1:1"], &wrong[..]].concat()).expect(78);
    assert!(done.err.contains("ssl.ca.location"), "{}", done.err);
}

/// Properties that librdkafka refuses ended `serve` with a panic, and every other command with 1.
#[cfg(feature = "kafka")]
#[test]
fn what_a_library_refuses_is_a_configuration_error() {
    let home = Home::new();
    let mut refused = vec![
        ("no.such.property=1", "no.such.property"),
        ("acks=many", "acks"),
        ("session.timeout.ms=-5", "session.timeout.ms"),
        ("max.poll.interval.ms=1000", "max.poll.interval.ms"),
        ("bootstrap.servers=nowhere", "nowhere"),
        ("log_cb=x", "log_cb"),
        ("sasl.oauthbearer.method=oidc", "sasl.oauthbearer.method"),
        ("sasl.oauthbearer.method=oidc", "libcurl"),
        ("sasl.oauthbearer.method=oidc", "no build of this service has it"),
        ("=x", "kafka"),
        ("x", "NAME=VALUE"),
    ];
    if cfg!(not(feature = "kafka-tls")) {
        refused.push(("security.protocol=SSL", "kafka-tls"));
        refused.push(("security.protocol=SASL_PLAINTEXT", "kafka-tls"));
        refused.push(("ssl.key.password=secret", "ssl.key.password"));
    }
    let kafka = ["--kafka", "127.0.0.1:1"];
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let commands = [
        serve.to_vec(),
        vec!["healthcheck"],
        vec!["publish"],
        vec!["dlq", "list"],
        vec!["config", "check"],
        vec!["worker", "--postgres", "host=127.0.0.1"],
    ];
    for (n, (property, name)) in refused.iter().enumerate() {
        for (m, command) in commands.iter().enumerate() {
            // Each command sees some, and `serve` all: they read their settings in the same way.
            if m == 0 || n % 3 == m % 3 {
                let done = home.run(&[command, &kafka[..], &["--kafka-property", property]].concat()).expect(78);
                assert!(done.err.lines().count() == 1 && done.err.contains(name), "{command:?}: {}", done.err);
                assert!(!done.err.contains("secret"), "{}", done.err);
            }
        }
    }
    home.write("nul.toml", "[kafka]\nbrokers = \"127.0.0.1:1\"\nproperty = [\"sasl.password=secret\\u0000\"]\n");
    for command in &commands {
        let done = home.run_with(command, &[("CONFIG_PATH", "nul.toml")]).expect(78);
        assert!(done.err.contains("NUL") && !done.err.contains("secret"), "{}", done.err);
    }
    let good = ["--kafka-property", "linger.ms=5", "--kafka-property", "session.timeout.ms=20000"];
    home.run(&[&["config", "check"], &kafka[..], &good].concat()).expect(0);
}

#[test]
fn settings_are_checked_and_shown() {
    let home = Home::new();
    home.run(&["config", "check"]).expect(0);
    home.run(&["config", "check", "--sample", "x"]).expect(78);
    let print = |arguments: &[&str], environment: &[(&str, &str)]| {
        home.run_with(&[&["config", "print"], arguments].concat(), environment).expect(0).out
    };
    let listens =
        |text: &str, address: &str| text.lines().any(|line| line.starts_with("listen") && line.contains(address));
    // Defaults, then the file, then the environment, then flags.
    assert!(listens(&print(&[], &[]), "127.0.0.1:8080"));
    home.write("order.toml", "listen = [\"127.0.0.1:1001\"]\n");
    home.write("order.yaml", "listen:\n  - 127.0.0.1:1001\n");
    for file in ["order.toml", "order.yaml"] {
        let with = ["--config", file];
        assert!(listens(&print(&with, &[]), "127.0.0.1:1001"));
        assert!(listens(&print(&[], &[("CONFIG_PATH", file)]), "127.0.0.1:1001"));
        let environment = [("ORDER_LISTEN", "127.0.0.1:1002")];
        assert!(listens(&print(&with, &environment), "127.0.0.1:1002"));
        assert!(listens(&print(&["--config", file, "--listen", "127.0.0.1:1003"], &environment), "127.0.0.1:1003"));
    }
    for (name, value, address) in [
        ("API_PORT", "1004", "1004"),
        ("HTTP_PORT", "1005", "1005"),
        ("HTTP_SERVER_ADDR", "127.0.0.1:1006", "127.0.0.1:1006"),
        ("HTTP_SERVER_ADDR", ":1007", ":1007"),
    ] {
        assert!(listens(&print(&[], &[(name, value)]), address), "{name}");
    }
    // What is printed can be used as a file.
    home.write("printed.toml", print(&["--listen", "127.0.0.1:1008", "--http-idle-time", "7s"], &[]));
    let again = print(&["--config", "printed.toml"], &[]);
    assert!(listens(&again, "127.0.0.1:1008") && again.contains("7s"), "{again}");
}

/// Files were named twice, by the number of a source, or not at all.
#[test]
fn what_cannot_be_read_or_written_is_named_once() {
    let home = Home::new();
    fs::create_dir(home.path().join("dir")).unwrap();
    home.write("bad.ndjson", "{\n");
    let server = Server::start(&[]);
    let url = format!("http://{}", server.address());
    for (command, code, told) in [
        (&["import", "missing.ndjson"][..], 1, "cannot read missing.ndjson: No such file"),
        (&["import", "dir"], 1, "cannot read dir: it is a directory"),
        (&["import", "bad.ndjson", "--rejects", "dir"], 1, "cannot write dir: Is a directory"),
        (&["import", "bad.ndjson", "--rejects", "no/such"], 1, "cannot write no/such: No such file"),
        (&["publish", "--http", &url, "--file", "missing"], 1, "cannot read missing: No such file"),
        (&["publish", "--http", &url, "--file", "dir"], 1, "cannot read dir: it is a directory"),
        (&["export", "-o", "dir"], 1, "cannot write dir: Is a directory"),
        (&["serve", "--listen", "127.0.0.1:0", "--audit", "no/such"], 78, "--audit: no/such: No such file"),
    ] {
        let done = home.run(command).expect(code);
        let line = done.err.lines().last().unwrap_or_default();
        assert!(line.starts_with(&format!("order-service: {told}")), "{command:?}: {}", done.err);
    }
}

/// "settings are good" was said of details that changed nothing.
#[test]
fn a_detail_of_a_part_that_is_off_is_a_wrong_setting_wherever_it_is_set() {
    let home = Home::new();
    let check = |flags: &[&str], environment: &[(&str, &str)]| {
        home.run_with(&[&["config", "check"], flags].concat(), environment)
    };
    home.write("detail.toml", "[cache]\nwarm_max = 5\n");
    let mut wrong = vec![
        (
            &["--cache-warm-max", "5"][..],
            &[][..] as &[(&str, &str)],
            "--cache-warm-max: changes nothing without --cache-bytes-max",
        ),
        (&[], &[("ORDER_CACHE_WARM_MAX", "5")], "ORDER_CACHE_WARM_MAX: changes nothing without"),
        (&["--config", "detail.toml"], &[], "detail.toml: cache.warm_max: changes nothing without"),
        (
            &["--ready-needs-store", "yes"],
            &[],
            "--ready-needs-store: changes nothing without --postgres (POSTGRES_DSN)",
        ),
    ];
    if cfg!(feature = "kafka") {
        wrong.push((
            &["--kafka-lag-max", "5"],
            &[],
            "--kafka-lag-max: changes nothing without --kafka (KAFKA_BROKERS)",
        ));
    }
    for (flags, environment, message) in wrong {
        let done = check(flags, environment).expect(78);
        assert!(done.err.lines().count() == 1 && done.err.contains(message), "{message}: {}", done.err);
    }
    check(&["--cache-warm-max", "5", "--cache-ttl", "1h"], &[]).expect(0);
    // What is said of its owner is not said of it too.
    let done = check(&["--cache-warm-max", "5", "--cache-ttl", "soon"], &[]).expect(78);
    assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    // A variable that other programs know may be meant for them. An empty variable is none.
    if cfg!(feature = "kafka") {
        let done = check(&[], &[("KAFKA_GROUP_ID", "x"), ("KAFKA_BROKERS", "")]).expect(0);
        assert!(done.err.contains("KAFKA_GROUP_ID: changes nothing without --kafka (KAFKA_BROKERS)"), "{}", done.err);
        let server = Server::start_in(&[], &[("KAFKA_GROUP_ID", "x")]);
        assert!(server.log().iter().any(|line| line.contains("KAFKA_GROUP_ID: changes nothing without")));
        server.terminate();
    }
    // A default changes nothing either way, as in what `config print` writes.
    check(&["--ready-needs-store", "no"], &[("KAFKA_TOPIC", "orders"), ("NATS_SUBJECT", "orders")]).expect(0);
}

/// A file of several lines was one property, and the second line a part of the first one's value.
#[cfg(feature = "kafka")]
#[test]
fn properties_of_a_file_are_read_line_by_line() {
    let home = Home::new();
    let check = |environment: &[(&str, &str)]| {
        home.run_with(&["config", "check"], &[environment, &[("KAFKA_BROKERS", "127.0.0.1:1")]].concat())
    };
    let file = [("KAFKA_PROPERTIES_FILE", "kafka.properties")];
    home.write("kafka.properties", "# a comment\r\nlinger.ms=5 \r\n\r\nsession.timeout.ms = 20000\r\n");
    check(&file).expect(0);
    for (text, message) in [
        ("linger.ms=5\nno.such.property=secret\n", "no.such.property"),
        ("linger.ms=5\nacks secret\n", "KAFKA_PROPERTIES_FILE: kafka.properties: line 2: invalid property"),
        ("linger.ms=5\nlinger.ms=6\n", "kafka.properties: line 2: linger.ms: is in line 1 already"),
        ("sasl.password=secret\\\nmore=x\n", "kafka.properties: line 1: sasl.password: ends with a backslash"),
    ] {
        home.write("kafka.properties", text);
        let done = check(&file).expect(78);
        assert!(done.err.contains(message) && !done.err.contains("secret"), "{message}: {}", done.err);
    }
    // A variable may have lines too, and then values with commas.
    for text in ["linger.ms=5,batch.size=100000", "linger.ms=5 batch.size=100000", "debug=broker,topic\nlinger.ms=5"] {
        check(&[("KAFKA_PROPERTIES", text)]).expect(0);
    }
    check(&[("KAFKA_PROPERTIES", "linger.ms=5 no.such.property=1")]).expect(78);
}

#[test]
fn memory_comes_in_small_pages_unless_huge_ones_are_wished() {
    let has_huge = |pid: u32| process_status(pid, "THP_enabled");
    let here = has_huge(std::process::id());
    for (flags, expected) in [(&[][..], "0"), (&["--huge-pages", "yes"], here.as_str()), (&["--huge-pages", "no"], "0")]
    {
        assert_eq!(has_huge(Server::start(flags).pid()), expected, "{flags:?}");
    }
    Home::new().run(&["config", "check", "--huge-pages", "2MiB"]).expect(78);
}

#[test]
fn a_dot_env_file_is_the_weaker_environment() {
    let home = Home::new();
    home.write(".env", "# comment\nORDER_LISTEN=127.0.0.1:2001\nORDER_SAMPLE=\"5\"\n");
    let print = |environment: &[(&str, &str)]| home.run_with(&["config", "print"], environment).expect(0).out;
    assert!(print(&[]).contains("127.0.0.1:2001"), "{}", print(&[]));
    assert!(print(&[("ORDER_LISTEN", "127.0.0.1:2002")]).contains("127.0.0.1:2002"));
    home.write(".env", "ORDER_SAMPLE=x\n");
    home.run(&["serve"]).expect(78);
    // Lines of others are theirs, and what is wrong with ours is told without its value.
    home.write(".env", "SHOP_NAME=Joe's\nJAVA_OPTS=-Xmx1g -Xms1g\nORDER_LISTEN=127.0.0.1:2003\nPASSWORD=hidden\n");
    assert!(print(&[]).contains("127.0.0.1:2003"), "{}", print(&[]));
    home.write(".env", "\nORDER_POSTGRES=postgres://u:hidden's@h/d\nPASSWORD=hidden\n");
    let told = home.run(&["config", "check"]).expect(78).err;
    assert!(told.contains(".env: line 2: ORDER_POSTGRES: ") && !told.contains("hidden"), "{told}");
    home.write(".env", "REDIS_PASSWORD=very hidden\n");
    let told = home.run(&["config", "check"]).expect(78).err;
    assert!(told.contains(".env: line 1: REDIS_PASSWORD: ") && !told.contains("hidden"), "{told}");
    // Those of others are named by their numbers, which were passed by in silence.
    home.write(".env", "ORDER_SAMPLE=5\nhidden words\nSHOP=Joe's hidden\n");
    let told = home.run(&["config", "check"]).expect(0).err;
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        ["order-service: configuration: .env: lines 2, 3 cannot be read as NAME=value, and change nothing"]
    );
    home.write(".env", "hidden words\n".repeat(13));
    let told = home.run(&["config", "check"]).expect(0).err;
    assert!(told.contains("lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more cannot be read"), "{told}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_a_wrong_setting() {
    use std::os::unix::ffi::OsStrExt as _;
    let home = Home::new();
    let run = |name: &str| {
        let mut command = binary(home.path());
        command.args(["config", "check"]).env(name, std::ffi::OsStr::from_bytes(b"a\xff")).stdout(Stdio::piped());
        Done::wait(command.spawn().unwrap(), &["config", "check"])
    };
    assert!(run("ORDER_DATA").expect(78).err.contains("ORDER_DATA: is no UTF-8"));
    run("OF_ANOTHER_PROGRAM").expect(0);
}

#[test]
fn a_data_directory_belongs_to_one_process() {
    let server = Server::start(&[]);
    let home = Home::new();
    let data = server.data();
    let data = data.to_str().unwrap();
    home.write("one.ndjson", wb_lines("x", 1));
    for command in [
        &["serve", "--listen", "127.0.0.1:0", "--data", data][..],
        &["import", "one.ndjson", "--data", data],
        &["migrate", "down", "--yes", "--data", data],
    ] {
        let done = home.run(command).expect(1);
        assert!(done.err.to_lowercase().contains("use") || done.err.contains("lock"), "{command:?}: {}", done.err);
    }
    let done = home.run(&["migrate", "status", "--data", data]).expect(0);
    assert!(done.out.lines().all(|line| line.ends_with("applied")), "{}", done.out);
    // Reading what is there disturbs no one.
    crate::http::created(&server, wb_posted("x"));
    assert_eq!(home.run(&["export", "--data", data]).expect(0).out, wb_answered("x") + "\n");
}

#[test]
fn an_address_in_use_is_1() {
    let server = Server::start(&[]);
    let home = Home::new();
    let address = server.address().to_string();
    let done = home.run(&["serve", "--listen", &address]).expect(1);
    assert!(done.err.contains(&address), "{}", done.err);
}

#[test]
fn what_was_imported_is_exported() {
    let home = Home::new();
    home.write("orders.ndjson", wb_lines("i", 3000) + "\n" + &wb_posted("odd").replace(['\n', '\r'], " ") + "\n");
    let done = home.run(&["import", "orders.ndjson"]).expect(0);
    assert!(done.err.contains("3001"), "{}", done.err);
    let expected: Vec<String> = std::iter::once("odd".to_owned())
        .chain((0..3000).rev().map(|n| format!("i-{n}")))
        .map(|id| wb_answered(&id))
        .collect();
    let exported = home.run(&["export"]).expect(0).out;
    assert!(exported.lines().eq(expected.iter().map(String::as_str)), "newest first, byte for byte");
    home.run(&["export", "-o", "out.ndjson"]).expect(0);
    assert_eq!(fs::read_to_string(home.path().join("out.ndjson")).unwrap(), exported);
    // Again is no change, and the copy of a store is imported like any file.
    let again = home.run(&["import", "orders.ndjson"]).expect(0);
    assert!(again.err.contains("0 stored, 3001 unchanged"), "{}", again.err);
    home.run(&["import", "out.ndjson", "--data", "copy"]).expect(0);
    let copy = home.run(&["export", "--data", "copy"]).expect(0).out;
    assert!(copy.lines().rev().eq(exported.lines()));
    // From standard input too.
    home.run_fed(&["import", "-", "--data", "fed"], &exported).expect(0);
    assert_eq!(home.run(&["export", "--data", "fed"]).expect(0).out, copy);
    // A pipe is one, whatever it is called.
    home.run_fed(&["import", "/dev/stdin", "--data", "piped"], &exported).expect(0);
    assert_eq!(home.run(&["export", "--data", "piped"]).expect(0).out, copy);
    let pipe = home.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&pipe, &exported).unwrap());
        home.run(&["import", "pipe", "--data", "named"]).expect(0);
    });
    assert_eq!(home.run(&["export", "--data", "named"]).expect(0).out, copy);
}

/// Orders of both faces, changed and deleted in each way there is, in a store that is left.
fn used(home: &Home) -> PathBuf {
    let mut server = Server::start(&["--profile", "lenient"]);
    let user = "0190163d-8694-739b-aea5-966c26f8ad91";
    let id = |n: u32| format!("0190163d-8694-739b-aea5-966c26f8a{n:03}");
    for n in 0..5 {
        server.post("/orders", wb_posted(&format!("w-{n}"))).expect(201);
        server.post("/orders", format!(r#"{{"order_uid":"lenient-{n}","n":{n}}}"#)).expect(201);
    }
    // Only an import may name the id of an envelope that is not there yet.
    let payload = |n| format!(r#"{{"id":"x{n}","amount":{n}.50}}"#);
    let envelope = |n| format!("{{\"order_id\":\"{}\",\"user_id\":\"{user}\",\"payload\":{}}}\n", id(n), payload(n));
    home.write("envelopes.ndjson", (0..5).map(envelope).collect::<String>());
    assert!(server.stop().success());
    home.run(&["import", "envelopes.ndjson", "--data", server.data().to_str().unwrap()]).expect(0);
    server.start_again();
    let deleted = |id: &str| format!(r#"{{"order_id":"{id}","status":"deleted"}}"#);
    server
        .post("/orders", format!(r#"{{"order_id":"{}","user_id":"{user}","status":"done","payload":{{}}}}"#, id(1)))
        .expect(200);
    server.post("/orders", deleted(&id(2))).expect(200);
    server.post("/orders", deleted("w-3")).expect(200);
    assert!(server.stop().success());
    let data = home.path().join("used");
    fs::rename(server.data(), &data).unwrap();
    data
}

/// Whatever a user would see of it is the same.
#[test]
fn a_full_export_is_imported_as_the_same_orders() {
    let home = Home::new();
    used(&home);
    let full = home.run(&["export", "--full", "--data", "used"]).expect(0);
    assert!(!full.err.contains("left out"), "{}", full.err);
    let lines: Vec<serde_json::Value> = full.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 15);
    assert!(lines.iter().all(|line| line["meta"]["id"].is_string()), "{}", full.out);
    let states = |state: &str| lines.iter().filter(|line| line["meta"]["state"] == state).count();
    assert_eq!((states("live"), states("deleted"), states("tombstone")), (13, 1, 1));
    assert!(lines.iter().any(|line| line["order"].is_null() && line["meta"]["id"] == "w-3"));

    // Through a pipe and from a file, by the usual profile: what a store had is good enough for another.
    let plain = home.run(&["export", "--data", "used"]).expect(0);
    home.run_fed(&["import", "-", "--data", "piped"], &full.out).expect(0);
    home.write("full.ndjson", &full.out);
    home.run(&["import", "full.ndjson", "--data", "filed"]).expect(0);
    // Versions begin at 1, and all else is as it was.
    let without_versions = |text: &str| -> Vec<serde_json::Value> {
        let read = |line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["meta"]["version"] = 1.into();
            line
        };
        text.lines().map(read).collect()
    };
    for copy in ["piped", "filed"] {
        assert_eq!(home.run(&["export", "--data", copy]).expect(0).out, plain.out, "byte for byte, newest first");
        let again = home.run(&["export", "--full", "--data", copy]).expect(0).out;
        assert_eq!(without_versions(&again), without_versions(&full.out));
    }
    // Spelled by another program: the times of envelope orders were lost, and deleted ones with them.
    home.write("spaced.ndjson", full.out.replace("{\"order\":{", "{ \"order\": { "));
    home.run(&["import", "spaced.ndjson", "--data", "spaced"]).expect(0);
    let again = home.run(&["export", "--full", "--data", "spaced"]).expect(0).out;
    assert_eq!(without_versions(&again), without_versions(&full.out));
    // An order that is in another state than its line says was stored as it was, deleted ones as live.
    for (state, other) in [("live", "deleted"), ("deleted", "live")] {
        let said = |state: &str| format!("\"state\":\"{state}\"");
        let line = full.out.lines().find(|line| line.contains(&said(state))).unwrap();
        home.write("state.ndjson", line.replace(&said(state), &said(other)));
        home.run(&["import", "state.ndjson", "--data", "state", "--rejects", state]).expect(1);
        let told = fs::read_to_string(home.path().join(state)).unwrap();
        assert!(told.contains("/meta/state: is not the state of the order"), "{told}");
    }
    let again = home.run(&["import", "full.ndjson", "--data", "filed"]).expect(0);
    assert!(again.err.contains("0 stored, 15 unchanged"), "{}", again.err);
    assert!(!again.err.contains("differ"), "{}", again.err);

    // An order that is here already stays; it is said that it differs.
    home.write("other.ndjson", wb_answered("w-0").replace("WBIL", "XXXX") + "\n");
    home.run(&["import", "other.ndjson", "--data", "filed"]).expect(0);
    let again = home.run(&["import", "full.ndjson", "--data", "filed"]).expect(0);
    assert!(
        again.err.contains("15 unchanged") && again.err.contains("1 orders differ from what is here"),
        "{}",
        again.err
    );
    assert!(home.run(&["export", "--data", "filed"]).expect(0).out.contains("XXXX"));

    // What the usual export leaves out is said.
    assert!(plain.err.contains("left out: 2 deleted orders") && plain.err.contains("--full"), "{}", plain.err);
    // Envelope orders of it keep their times and amounts all the same, where they are not stored yet.
    home.write("plain.ndjson", &plain.out);
    home.run(&["import", "plain.ndjson", "--data", "plain", "--profile", "lenient"]).expect(0);
    let copied = home.run(&["export", "--data", "plain"]).expect(0).out;
    assert!(copied.lines().rev().eq(plain.out.lines()), "{copied}");
    // A line that is wrong is put aside whole.
    let good = full.out.lines().next().unwrap();
    for (index, (from, to, named)) in [
        ("\"kind\":\"wb\"", "\"kind\":\"other\"", "/meta/kind: must be wb or envelope"),
        ("\"kind\":\"wb\"", "\"kind\":\"envelope\"", "/meta/kind: is not the kind of the order"),
        ("\"version\":", "\"version\":-", "/meta/version: must be a whole number of at least 1"),
        ("\"updated_at\":\"2", "\"updated_at\":\"1", "/meta/updated_at: is before created_at"),
    ]
    .into_iter()
    .enumerate()
    {
        let (wrong, file) = (good.replacen(from, to, 1), format!("wrong-{index}.ndjson"));
        assert_ne!(wrong, good, "{from}");
        home.write(&file, &wrong);
        home.run(&["import", &file, "--data", "filed"]).expect(1);
        assert_eq!(fs::read_to_string(home.path().join(format!("{file}.rejected.raw"))).unwrap(), wrong + "\n");
        let told = fs::read_to_string(home.path().join(format!("{file}.rejected"))).unwrap();
        assert!(told.contains(named), "{told}");
    }
    // Lines that a store gave out are good enough for another one, which is said where the profile is.
    let help = home.run(&["import", "--help"]).expect(0).out;
    assert!(help.contains("are checked as lenient"), "{help}");
}

/// A store of a former version has orders whose times it did not note.
#[test]
fn a_store_without_times_is_exported_and_goes_on() {
    let home = Home::new();
    home.write("first.ndjson", wb_lines("a", 2));
    home.run(&["import", "first.ndjson"]).expect(0);
    home.run(&["migrate", "down", "--yes"]).expect(0);
    let of = |text: &str| -> Vec<bool> { text.lines().map(|line| line.contains("\"created_at\":")).collect() };
    assert_eq!(of(&home.run(&["export", "--full"]).expect(0).out), [false, false]);
    home.write("second.ndjson", wb_lines("b", 1));
    home.run(&["import", "second.ndjson"]).expect(0);
    let full = home.run(&["export", "--full"]).expect(0).out;
    assert_eq!(of(&full), [false, false, true], "{full}");
    home.run_fed(&["import", "-", "--data", "other"], &full).expect(0);
    let last = |text: &str| text.lines().last().unwrap().to_owned();
    assert_eq!(last(&home.run(&["export", "--full", "--data", "other"]).expect(0).out), last(&full));
}

#[test]
fn an_export_that_cannot_go_on_says_how_far_it_came_and_leaves_no_file_that_looks_whole() {
    let home = Home::new();
    home.write("orders.ndjson", wb_lines("e", 3000));
    home.run(&["import", "orders.ndjson"]).expect(0);
    home.write("out.ndjson", "what was there before\n");
    let before = || fs::read_to_string(home.path().join("out.ndjson")).unwrap();
    // A third of it is as large as a file may be.
    let arguments = ["export", "-o", "out.ndjson"];
    let mut command = limited(home.path(), "trap '' XFSZ && ulimit -f 2048");
    let done = Done::wait(command.args(arguments).stdout(Stdio::piped()).spawn().unwrap(), &arguments).expect(1);
    assert_eq!(before(), "what was there before\n");
    let part = fs::read_to_string(home.path().join("out.ndjson.part")).unwrap();
    let told = done.err.split("ended after ").nth(1).and_then(|rest| rest.split_once(" of 3000 orders"));
    let (orders, rest) = told.unwrap_or_else(|| panic!("{}", done.err));
    let orders: usize = orders.parse().unwrap();
    assert!(orders > 0 && part.lines().count() >= orders && rest.contains("out.ndjson.part"), "{}", done.err);
    // The next one takes its place.
    home.run(&arguments).expect(0);
    assert_eq!(before().lines().count(), 3000);
    assert!(!home.path().join("out.ndjson.part").exists());
}

/// They were counted, and neither named nor kept, and the import ended with 0.
#[test]
fn lines_that_the_store_refuses_are_put_aside_too() {
    let home = Home::new();
    let unknown = "0b0a1a52-0000-4000-8000-000000000001";
    let line = format!(r#"{{"order_id":"{unknown}","user_id":"{unknown}","status":"deleted","payload":{{}}}}"#);
    home.write("orders.ndjson", format!("{}\n{line}\n", wb_answered("a")));
    let done = home.run(&["import", "orders.ndjson", "--data", "data"]).expect(1);
    assert!(done.err.contains("1 lines are no valid orders, or are refused by the store"), "{}", done.err);
    assert_eq!(fs::read_to_string(home.path().join("orders.ndjson.rejected.raw")).unwrap(), format!("{line}\n"));
    let reasons = fs::read_to_string(home.path().join("orders.ndjson.rejected")).unwrap();
    assert!(reasons.contains("no order has this id"), "{reasons}");
    // The order of a line may be deleted here: that is final, and said.
    home.write("gone.ndjson", r#"{"order_uid":"a","status":"deleted"}"#);
    home.run(&["import", "gone.ndjson", "--data", "data"]).expect(0);
    let done = home.run(&["import", "orders.ndjson", "--data", "data"]).expect(1);
    assert!(done.err.contains("1 orders were deleted here, which is final"), "{}", done.err);
    assert_eq!(
        fs::read_to_string(home.path().join("orders.ndjson.rejected.raw")).unwrap(),
        format!("{line}\n"),
        "not once more"
    );
}

#[test]
fn lines_that_are_no_orders_are_put_aside_with_reasons() {
    let home = Home::new();
    let lines =
        [wb_answered("a"), "{".into(), wb_answered("b").replace("test@gmail.com", "no-address"), wb_answered("c")]
            .join("\n");
    home.write("mixed.ndjson", &lines);
    let done = home.run(&["import", "mixed.ndjson"]).expect(1);
    assert!(done.err.contains("2 lines") && done.err.contains("mixed.ndjson.rejected"), "{}", done.err);
    assert_eq!(home.run(&["export"]).expect(0).out, wb_answered("c") + "\n" + &wb_answered("a") + "\n");
    let rejected = fs::read_to_string(home.path().join("mixed.ndjson.rejected")).unwrap();
    assert!(rejected.contains("/delivery/email") && rejected.contains("not valid JSON"), "{rejected}");
    home.run(&["import", "mixed.ndjson", "--rejects", "aside"]).expect(1);
    assert_eq!(fs::read_to_string(home.path().join("aside")).unwrap(), rejected);
    // Once more, nothing is put aside a second time, and what was mended meanwhile stays.
    home.write("mixed.ndjson.rejected.raw", "mended\n");
    let done = home.run(&["import", "mixed.ndjson"]).expect(1);
    assert!(done.err.contains("2 lines"), "{}", done.err);
    assert_eq!(fs::read_to_string(home.path().join("mixed.ndjson.rejected")).unwrap(), rejected);
    assert_eq!(fs::read_to_string(home.path().join("mixed.ndjson.rejected.raw")).unwrap(), "mended\n");
    // What is new is put there too, and all of it where the lines were taken away.
    home.write("mixed.ndjson", format!("{lines}\n}}\n"));
    home.run(&["import", "mixed.ndjson"]).expect(1);
    let more = fs::read_to_string(home.path().join("mixed.ndjson.rejected")).unwrap();
    assert!(more.starts_with(&rejected) && more.lines().count() == 3, "{more}");
    fs::remove_file(home.path().join("mixed.ndjson.rejected.raw")).unwrap();
    home.run(&["import", "mixed.ndjson"]).expect(1);
    assert_eq!(fs::read_to_string(home.path().join("mixed.ndjson.rejected.raw")).unwrap().lines().count(), 3);
    home.run(&["import", "missing.ndjson"]).expect(1);
    home.write("empty.ndjson", "");
    home.run(&["import", "empty.ndjson"]).expect(0);
}

/// A long line was cut, and bytes that are not UTF-8 were replaced.
#[test]
fn rejected_lines_are_kept_byte_for_byte_and_can_be_mended_and_imported() {
    let home = Home::new();
    let mut long = wb_answered("long").into_bytes();
    long.truncate(long.len() - 1);
    long.extend(b",\"more\":\"");
    long.extend((0..30 << 20).map(|n| if n % 1000 == 0 { 0xff } else { b'x' }));
    long.extend(b"\"}");
    let odd = b"\xff\xfe{\"order_uid\":\"\x80\"}\r".to_vec();
    let good = wb_answered("good").into_bytes();
    let last = b"{\"order_uid\":".to_vec();
    let lines = [&odd[..], &long, &good, &last].join(&b'\n');
    let expected = [&odd[..], &long, &last, b""].join(&b'\n');
    home.write("mixed.ndjson", &lines);
    let done = home.run(&["import", "mixed.ndjson"]).expect(1);
    assert!(done.err.contains("3 lines") && done.err.contains("mixed.ndjson.rejected.raw"), "{}", done.err);
    let raw = || fs::read(home.path().join("mixed.ndjson.rejected.raw")).unwrap();
    assert!(raw() == expected, "not the lines as they were");
    let reasons = fs::read_to_string(home.path().join("mixed.ndjson.rejected")).unwrap();
    let ends =
        reasons.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["end_offset"].clone());
    let end = odd.len() + 1 + long.len() + 1;
    let all = [odd.len() + 1, end, lines.len()];
    assert!(ends.eq(all.map(serde_json::Value::from)), "a reason for each, in the same order");

    // The same from a pipe, which cannot be read twice, and where the reasons are thrown away.
    let pipe = home.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (rejects, file) in [("piped", Some("piped.raw")), ("/dev/null", None)] {
        std::thread::scope(|scope| {
            scope.spawn(|| fs::write(&pipe, &lines).unwrap());
            home.run(&["import", "pipe", "--rejects", rejects, "--data", "piped-data"]).expect(1);
        });
        assert!(file.is_none_or(|file| fs::read(home.path().join(file)).unwrap() == expected));
    }

    // Mended, it is imported like any file, but not into itself.
    home.write("mixed.ndjson.rejected.raw", wb_answered("mended"));
    let done = home.run(&["import", "mixed.ndjson.rejected.raw", "--rejects", "mixed.ndjson.rejected"]).expect(1);
    assert!(done.err.contains("is what is imported"), "{}", done.err);
    home.run(&["import", "mixed.ndjson.rejected.raw"]).expect(0);
    assert_eq!(home.run(&["export"]).expect(0).out.lines().count(), 2);
}

#[test]
fn an_interrupted_import_goes_on_where_it_stopped() {
    let home = Home::new();
    let count = 20_000;
    home.write("many.ndjson", wb_lines("m", count));
    // Killed when the fifth batch is stored and the import does not know it yet.
    let import = ["import", "many.ndjson", "--batch-rows-max", "1000"];
    let killed = home.run_with(&import, &[("ORDER_DIE_AT", "store-written:5")]);
    assert_eq!(killed.code, None, "{}", killed.err);
    let done = home.run(&import[..2]).expect(0);
    assert!(done.err.contains("going on"), "{}", done.err);
    let exported = home.run(&["export"]).expect(0).out;
    assert_eq!(exported.lines().count(), count);
    assert_eq!(exported.lines().next(), Some(wb_answered(&format!("m-{}", count - 1)).as_str()));
}

#[test]
fn the_schema_goes_forward_and_back() {
    let home = Home::new();
    let status = |word: &str| {
        let out = home.run(&["migrate", "status"]).expect(0).out;
        assert!(out.lines().count() >= 1 && out.lines().all(|line| line.ends_with(word)), "{out}");
    };
    // Looking makes nothing, not even the directory.
    for command in [&["migrate", "status"][..], &["migrate", "down"], &["migrate", "down", "--yes"]] {
        let done = home.run(command).expect(0);
        assert!(done.err.contains("there is no store in data yet"), "{}", done.err);
        assert!(!home.path().join("data").exists(), "{command:?}");
    }
    status("pending");
    home.run(&["migrate", "up"]).expect(0);
    status("applied");
    home.write("one.ndjson", wb_lines("x", 1));
    home.run(&["import", "one.ndjson"]).expect(0);
    // Orders are never deleted by a slip, and what would be lost is said.
    for lost in ["step 0003 (times) of data", "step 0002 (outbox) of data", "step 0001 (orders) of data"] {
        let done = home.run(&["migrate", "down"]).expect(1);
        let is_said = ["nothing was changed", "is lost for good: ", "--yes"].iter().all(|part| done.err.contains(part));
        assert!(done.err.contains(lost) && is_said, "{}", done.err);
        if lost.contains("orders") {
            assert!(done.err.contains("every order"), "{}", done.err);
        }
        assert_eq!(home.run(&["export"]).expect(0).out, wb_lines("x", 1));
        home.run(&["migrate", "down", "--yes"]).expect(0);
    }
    status("pending");
    home.run(&["migrate", "up"]).expect(0);
    home.run(&["migrate", "up"]).expect(0);
    status("applied");
    assert_eq!(home.run(&["export"]).expect(0).out, "");
}

#[test]
fn help_is_readable_and_completions_are_written() {
    let home = Home::new();
    for arguments in [
        &["-h"][..],
        &["--help"],
        &["serve", "-h"],
        &["serve", "--help"],
        &["import", "--help"],
        &["migrate", "--help"],
        &["config", "print", "--help"],
    ] {
        let help = home.run(arguments).expect(0).out;
        assert!(help.contains("Usage: order-service"), "{arguments:?}: {help}");
    }
    let short = home.run(&["-h"]).expect(0).out;
    assert!(short.lines().count() <= 50, "fits a screen: {} lines", short.lines().count());
    for word in ["serve", "import", "export", "migrate", "config", "--listen", "--data", "--sample", "--config"] {
        assert!(short.contains(word), "{word}");
    }
    assert!(home.run(&["--help"]).expect(0).out.contains("--http-idle-time"));
    assert!(home.run(&["--version"]).expect(0).out.starts_with("order-service "));
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(&["completions", shell]).expect(0).out;
        assert!(script.contains("order-service") && script.contains("import"), "{shell}");
    }
}

/// Commands that write to standard output, on a store with orders and a service that answers.
fn writers(home: &Home, server: &Server) -> Vec<Vec<String>> {
    home.write("some.ndjson", wb_lines("x", 2000));
    home.run(&["import", "some.ndjson"]).expect(0);
    let url = format!("http://{}", server.address());
    let load = ["load", "--url", &url, "--path", "/ping", "--count", "3"];
    let commands = [
        &["export"][..],
        &["config", "print"],
        &["config", "check"],
        &["completions", "bash"],
        &["--help"],
        &["load", "-h"],
        &["--version"],
        &["migrate", "status"],
        &["migrate", "up"],
        &load,
        &[&load[..], &["--json", "-"]].concat(),
        &[&load[..], &["--json", "report.json"]].concat(),
    ];
    commands.iter().map(|command| command.iter().map(|&argument| argument.to_owned()).collect()).collect()
}

fn ended(mut command: std::process::Command, arguments: &[String]) -> Done {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Done::wait(command.args(&arguments).spawn().unwrap(), &arguments)
}

/// `load` ended with a panic and 101, others said nothing.
#[test]
fn output_that_cannot_be_written_is_an_error_and_a_reader_who_has_seen_enough_is_none() {
    let (home, server) = (Home::new(), Server::start(&[]));
    for arguments in writers(&home, &server) {
        let full = || fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = binary(home.path());
        command.stdout(full());
        let done = ended(command, &arguments).expect(1);
        assert!(done.err.contains("cannot write to standard output: No space left"), "{arguments:?}: {}", done.err);

        let mut command = binary(home.path());
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer);
        drop(reader);
        let done = ended(command, &arguments).expect(0);
        assert!(!done.err.contains("order-service:"), "{arguments:?}: {}", done.err);

        let mut command = binary(home.path());
        command.stderr(full());
        ended(command, &arguments).expect(0);
    }
    // What it has to say of an error is lost, its exit code is not.
    for (arguments, code) in
        [(&["nonsense"][..], 2), (&["config", "check", "--sample", "x"], 78), (&["import", "x"], 1)]
    {
        let mut command = binary(home.path());
        command.stderr(fs::File::options().write(true).open("/dev/full").unwrap());
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        ended(command, &arguments).expect(code);
    }
}

/// The log's library said on standard error, with a panic, that it could not write there.
#[test]
fn a_service_whose_log_cannot_be_written_goes_on() {
    let home = Home::new();
    let mut command = binary(home.path());
    // Which port it has is told by nothing but the log.
    let address = format!("127.0.0.1:{}", crate::servers::free_port());
    command.args(["serve", "--listen", &address, "--log-level", "debug"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stderr(writer).spawn().unwrap();
    let health = ["healthcheck", "--url", &format!("http://{address}/readyz")];
    crate::server::until("ready without a log", crate::server::START_TIME, || {
        (home.run(&health).code == Some(0)).then_some(())
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A closed terminal, or a reload that is asked for, ended it.
#[test]
fn a_hangup_does_not_end_the_service() {
    let mut server = Server::start(&[]);
    for _ in 0..2 {
        server.signal(rustix::process::Signal::HUP);
    }
    crate::server::until("a line for each", crate::server::SIGNAL_TIME, || {
        let log = server.log();
        (log.iter().filter(|line| line.contains("nothing to reload") && line.contains("INFO")).count() >= 1)
            .then_some(())
    });
    server.get("/ping").expect(200);
    assert!(server.stop().success());
}

/// Passwords of servers that cannot be reached, in what the service and the tools say of them,
/// however much they log.
#[cfg(feature = "kafka")]
#[test]
fn no_log_line_and_no_error_has_a_password_in_it() {
    const MARK: &str = "s3cr3t";
    let (_kept, address) = crate::tools::refusing();
    let [postgres, redis, nats] = ["postgres", "redis", "nats"].map(|name| format!("{name}://me:{MARK}@{address}/"));
    let (postgres, kafka) = (postgres + "orders", address.to_string());
    let property = format!("sasl.password={MARK}");
    let (database, broker) = (["--postgres", &postgres], ["--kafka", &kafka, "--kafka-property", &property]);
    let more = ["--redis", redis.trim_end_matches('/'), "--nats", &nats, "--log-level", "trace"];
    let servers = [&[][..], &database].map(|store| Server::start_cold(&[store, &broker, &more].concat()));
    let home = Home::new();
    std::thread::scope(|scope| {
        let tools = [
            [&["export"][..], &database].concat(),
            [&["migrate", "status"][..], &database].concat(),
            [&["dlq", "list"][..], &broker].concat(),
            [&["publish"][..], &broker].concat(),
            vec!["publish", "--nats", &nats],
        ];
        for tool in tools {
            let home = &home;
            scope.spawn(move || {
                let done = home.run(&tool).expect(1);
                assert!(!done.err.is_empty() && !done.err.contains(MARK), "{tool:?}: {}", done.err);
            });
        }
        let print = [&["config", "print"][..], &database, &broker, &more].concat();
        let shown = home.run(&print).expect(0).out;
        assert!(shown.contains("********") && !shown.contains(MARK), "{shown}");
    });
    for (server, path) in servers
        .iter()
        .flat_map(|server| ["/readyz", "/metrics", "/api/stats", "/order/x", "/api/orders"].map(|path| (server, path)))
    {
        let reply = server.get(path);
        assert!(!reply.text().contains(MARK), "{path}: {}", reply.text());
    }
    let log = || servers.each_ref().map(Server::log).concat();
    for part in ["redis", "nats", "kafka"] {
        crate::server::until(&format!("{part} is tried"), crate::server::SIGNAL_TIME, || {
            log().iter().any(|line| line.to_lowercase().contains(part)).then_some(())
        });
    }
    let log = log();
    let told: Vec<_> = log.iter().filter(|line| line.contains(MARK)).collect();
    assert!(told.is_empty(), "{told:?}");
}

/// A service that was to write into a database and takes its own store instead would be found out
/// much later.
#[test]
fn an_embedded_store_beside_a_dot_env_that_names_a_database_is_an_error() {
    let home = Home::new();
    home.write(".env", "POSTGRES_USER=orders\nPOSTGRES_PASSWORD=hidden\nPOSTGRES_DB=orders\n");
    for command in [&["config", "check"][..], &["export"], &["serve"]] {
        let done = home.run(command).expect(78);
        let told = ".env: POSTGRES_DB: names a database, but nothing says where it is";
        assert!(done.err.contains(told) && !done.err.contains("hidden"), "{}", done.err);
    }
    assert!(!home.path().join("data").exists());
    // What is said on purpose is done; what needs no store is not asked.
    home.run(&["config", "check", "--data", "here"]).expect(0);
    home.run(&["config", "print"]).expect(0);
    for url in ["postgres://u:hidden@h/d", "postgresql://u:hidden@h/d"] {
        home.write(".env", format!("SHOP_STORE={url}\n"));
        let done = home.run(&["config", "check"]).expect(78);
        assert!(
            done.err.contains(".env: SHOP_STORE: names a database") && !done.err.contains("hidden"),
            "{}",
            done.err
        );
    }
    home.write(".env", "DB_CONN_STR=\n");
    let done = home.run(&["config", "check"]).expect(0);
    assert!(done.err.contains("DB_CONN_STR: is empty"), "{}", done.err);
}

#[test]
fn config_yaml_of_the_working_directory_is_read_when_no_other_is_named() {
    let home = Home::new();
    home.write("config.yaml", "sample: 7\n");
    home.write("other.toml", "sample = 8\n");
    let sample = |arguments: &[&str], environment: &[(&str, &str)]| {
        let out = home.run_with(&[&["config", "print"], arguments].concat(), environment).expect(0).out;
        out.lines().find(|line| line.starts_with("sample = ")).unwrap().to_owned()
    };
    assert_eq!(sample(&[], &[]), "sample = \"7\"  # config.yaml");
    assert_eq!(sample(&["--config", "other.toml"], &[]), "sample = \"8\"  # other.toml");
    assert_eq!(sample(&[], &[("CONFIG_PATH", "other.toml")]), "sample = \"8\"  # other.toml");
    assert_eq!(sample(&["--config", ""], &[]), "sample = \"0\"  # default");
    assert_eq!(sample(&[], &[("CONFIG_PATH", "")]), "sample = \"7\"  # config.yaml", "empty is not set");
    home.write("config.yaml", "http_server:\n  address: :8081\n");
    let done = home.run(&["config", "check"]).expect(78);
    assert!(
        done.err.contains("config.yaml: http_server.address: is of an older service; write listen"),
        "{}",
        done.err
    );
    assert!(done.err.contains("`order-service config convert config.yaml`"), "{}", done.err);
}

/// What a library says is told in the words of this program, or by itself, and once.
#[test]
fn no_error_says_the_same_twice() {
    let home = Home::new();
    home.write("older.yaml", "postgres:\n  host: db\n  port: x\nkafka:\n  property: nope\ngrpc:\n  port: zz\n");
    home.write("wrong.toml", "a = = 1\n");
    home.write("orders.ndjson", "{\n");
    for arguments in [
        &["import", "--from-postgres", "postgres://h:x/d"][..],
        &["import", "--from-postgres", "host=h connect_timeout=x"],
        &["import", "--from-postgres", "nonsense"],
        &["import", "--from-postgres", "postgres://127.0.0.1:1/d"],
        &["import", "missing.ndjson"],
        &["import", "."],
        &["import", "orders.ndjson", "--rejects", "missing/rejects"],
        &["config", "check", "--postgres", "host=h port=x"],
        &["config", "check", "--kafka", "b:1", "--kafka-property", "x"],
        &["config", "check", "--nats", "x://"],
        &["config", "convert", "older.yaml"],
        &["config", "convert", "wrong.toml"],
        &["config", "convert", "missing.yaml"],
        &["load", "--url", "http://[::"],
        &["load", "--url", "http://a b/"],
        &["healthcheck", "--url", "::"],
    ] {
        let done = home.run(arguments);
        let told = if arguments.contains(&"older.yaml") { done.out } else { done.err };
        assert!(!told.is_empty(), "{arguments:?}");
        for line in told.lines() {
            let parts: Vec<&str> = line.split(": ").collect();
            let is_twice = parts.iter().enumerate().any(|(at, part)| parts[..at].contains(part));
            let invalid = parts.iter().filter(|part| part.starts_with("invalid ")).count();
            assert!(!is_twice && invalid <= 1, "{arguments:?}: {line}");
        }
    }
    let done = home.run(&["import", "."]).expect(1);
    assert!(done.err.contains("cannot read .: it is a directory"), "{}", done.err);
    let done = home.run(&["import", "orders.ndjson", "--rejects", "missing/rejects"]).expect(1);
    assert!(done.err.contains("cannot write missing/rejects"), "{}", done.err);
}

#[test]
fn a_config_yaml_of_another_program_ends_only_what_needs_settings() {
    let home = Home::new();
    for text in ["site: mine\nplugins:\n  - a: 1\n    b: 2\n", "theme: dark\n", "{ no yaml"] {
        home.write("config.yaml", text);
        home.run(&["completions", "bash"]).expect(0);
        home.run(&["keys", "new", "ops", "--scope", "orders:read"]).expect(0);
        let shown = home.run(&["config", "print"]).expect(0);
        assert!(shown.out.contains("sample = \"0\"  # default"), "{}", shown.out);
        assert!(shown.err.contains("ends a start: config.yaml: "), "{}", shown.err);
        let done = home.run(&["serve"]).expect(78);
        assert!(done.err.contains("config.yaml: is read because it is in the working directory"), "{}", done.err);
        home.run(&["config", "check", "--config", ""]).expect(0);
        // One that was named is not passed by.
        home.run(&["config", "print", "--config", "config.yaml"]).expect(78);
        home.run(&["healthcheck", "--url", "http://127.0.0.1:9/", "--timeout", "1s"]).expect(1);
    }
}

#[test]
fn a_settings_file_of_an_older_service_is_converted() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    home.write("config.yaml", "http_server:\n  address: \"127.0.0.1:2004\"\nlogger:\n  level: warn\n");
    let done = home.run(&["config", "convert", "config.yaml"]).expect(0);
    assert_eq!(
        done.out,
        "listen = [\"127.0.0.1:2004\"]  # http_server.address\nlog.level = \"warn\"  # logger.level\n"
    );
    home.run(&["config", "convert", "config.yaml", "-o", "new.toml"]).expect(0);
    assert_eq!(fs::read_to_string(home.path().join("new.toml")).unwrap(), done.out);
    let mode = fs::metadata(home.path().join("new.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "there may be passwords in it");
    home.run(&["config", "convert", "config.yaml", "-o", "new.toml"]).expect(1);
    home.run(&["config", "check", "--config", "new.toml"]).expect(0);
    home.run(&["config", "convert", "missing.yaml"]).expect(78);
}

#[test]
fn each_stored_order_has_a_line_where_that_is_wished() {
    let mut server = Server::start(&["--log-orders"]);
    server.post("/orders", wb_posted("logged-1")).expect(201);
    server.post("/orders", wb_posted("logged-1")).expect(200);
    server.post("/orders", r#"{"order_uid":"logged-1","status":"deleted"}"#).expect(200);
    assert!(server.stop().success());
    let stored = |line: &String| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = event["message"] == "order stored" && event["order"] == "logged-1";
        is_it.then(|| (event["version"].clone(), event["change"].clone()))
    };
    let lines: Vec<_> = server.log().iter().filter_map(stored).collect();
    assert_eq!(lines, [(1.into(), "created".into()), (2.into(), "deleted".into())], "nothing for what changed nothing");
}

/// The entry goes into a file, the key to its user: neither stands where the other does.
#[test]
fn a_new_key_is_shown_once_and_its_entry_is_what_a_key_file_takes() {
    let home = Home::new();
    let made =
        home.run(&["keys", "new", "shop", "--scope", "orders:read:own", "--scope", "events:read", "--owner", "a\"b"]);
    let made = made.expect(0);
    let key = made.err.trim().rsplit_once(' ').expect("the key at the end").1.to_owned();
    assert!(key.starts_with("osk_") && key.len() == 47, "{}", made.err);
    assert!(made.out.starts_with("[[key]]\nname = \"shop\"\n") && !made.out.contains(&key), "{}", made.out);
    let file = home.write("keys.toml", &made.out);
    home.run(&["config", "check", "--auth-keys", file.to_str().unwrap()]).expect(0);
    let shown = home.run(&["config", "print", "--auth-keys", file.to_str().unwrap()]).expect(0);
    assert!(!shown.out.contains("sha256"), "{}", shown.out);
    for (arguments, fault) in [
        (&["keys", "new", "a b", "--scope", "admin"][..], "name: must be"),
        (&["keys", "new", "a", "--scope", "orders"], "there is no scope"),
        (&["keys", "new", "a", "--scope", "orders:read:own"], "owner: is missing"),
        (&["keys", "new", "a", "--scope", "admin", "--expires", "soon"], "expires: must be a time"),
    ] {
        let refused = home.run(arguments).expect(1);
        assert!(refused.err.contains(fault), "{}", refused.err);
    }
    home.run(&["keys", "new", "a"]).expect(2);
    home.write("bad.toml", "[[key]]\nname = 'x'\nsha256 = 'secret'\nscopes = []");
    for (flags, fault) in [
        (&["--auth-keys", "bad.toml"][..], "sha256: must be"),
        (&["--auth-keys", "none.toml"], "none.toml"),
        (&["--auth-issuer", "x"], "changes nothing without --auth-jwks"),
        (&["--auth-jwks", "http://localhost/keys"], "needs --auth-issuer (ORDER_AUTH_ISSUER) and --auth-audience"),
        (&["--auth-jwks", "ftp://localhost/keys"], "must be an https:// or http:// URL"),
        (&["--auth-jwks", "bad.toml"], "is no JSON"),
        (&["--rate-limit", "0/s"], "is no rate"),
        (&["--trusted-proxies", "10.0.0.0/8"], "changes nothing without"),
        (&["--trusted-proxies", "proxy", "--rate-limit", "1/s"], "is no network"),
        (&["--audit-reads", "yes"], "changes nothing without --audit"),
    ] {
        let refused = home.run(&[&["config", "check"], flags].concat()).expect(78);
        assert!(refused.err.contains(fault) && !refused.err.contains("secret"), "{flags:?}: {}", refused.err);
    }
}

#[test]
fn a_service_that_anyone_can_reach_says_so_once() {
    let warned = |server: &Server| {
        let lines = server.log();
        lines.iter().filter(|line| line.contains("WARN") && line.contains("--auth-keys")).count()
    };
    let open = Server::start(&["--listen", "0.0.0.0:0"]);
    assert_eq!(warned(&open), 1, "{:?}", open.log());
    assert_eq!(warned(&Server::start(&[])), 0);
    let keys = crate::http::access::Keys::new(&[("all", &["orders:read"], None)]);
    assert_eq!(warned(&keys.start(&["--listen", "0.0.0.0:0"])), 0);
}
