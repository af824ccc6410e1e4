//! What settings come to, from flags to files, and what is said of those that cannot be.

use super::*;
use crate::listen::Endpoint;

fn load(flags: &[&str], environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let command = with_flags(Command::new("test")).subcommand(with_flags(Command::new("serve")));
    let matches = command.try_get_matches_from(std::iter::once(&"test").chain(flags)).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Settings::load(&matches, &Outside { environment, ..Outside::default() })
}

fn listen(flags: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    load(flags, environment).unwrap().config.http.listen.iter().map(ToString::to_string).collect()
}

/// With every optional part on: details of one that is off would be compared with nothing.
fn all_parts() -> app::Config {
    let mut flags = Vec::new();
    for (name, value) in [
        ("--kafka", cfg!(feature = "kafka").then_some("127.0.0.1:1")),
        ("--nats", Some("127.0.0.1:1")),
        ("--stan", Some("127.0.0.1:1")),
        ("--redis", Some("127.0.0.1:1")),
        ("--postgres", Some("host=a")),
        ("--grpc", Some("127.0.0.1:1")),
        ("--admin", Some("tls:127.0.0.1:2")),
        ("--tls-cert", Some("cert.pem")),
        ("--tls-key", Some("key.pem")),
    ] {
        flags.extend(value.map(|value| format!("{name}={value}")));
    }
    load(&flags.iter().map(String::as_str).collect::<Vec<_>>(), &[]).unwrap().config
}

/// One of these is a value of nearly every setting, and not its default.
const OTHERS: &[&str] = &[
    "77",
    "77s",
    "77ms",
    "77MiB",
    "127.0.0.1:77",
    "yes",
    "no",
    "strict",
    "json",
    "debug",
    "per-core",
    "on",
    "none",
    "optional",
    "other",
];

/// 25 of 65 were compared with nothing, as Kafka and the other parts were off.
#[test]
fn the_defaults_of_the_table_are_those_of_the_code() {
    let defaults = all_parts();
    let shown = format!("{defaults:?}");
    for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
        let values: Vec<String> = setting.default.split(' ').map(str::to_owned).collect();
        let mut applied = defaults.clone();
        (setting.apply)(&mut applied, &values).unwrap();
        assert_eq!(format!("{applied:?}"), shown, "{}", setting.key);
        // Whether it is there to be compared: another value is to be seen.
        let changes = |other: &&str| {
            let mut changed = defaults.clone();
            (setting.apply)(&mut changed, &[(*other).to_owned()]).is_ok() && format!("{changed:?}") != shown
        };
        assert!(OTHERS.iter().any(changes), "{}: its value is nowhere", setting.key);
    }
    // Defaults that a sentence of the help tells have none in the table.
    for setting in SETTINGS.iter().filter(|setting| setting.help.contains("[default: ")) {
        assert!(setting.default.is_empty(), "{}: two defaults", setting.key);
    }
}

#[test]
fn a_detail_says_what_it_is_a_detail_of() {
    for setting in SETTINGS.iter() {
        for key in setting.needs {
            assert!(SETTINGS.iter().any(|owner| owner.key == *key), "{}: {key}", setting.key);
        }
        for owner in ["kafka.brokers", "nats.url", "stan.url", "redis.url", "postgres.url", "grpc.listen"] {
            let is_of = setting.key != owner && setting.key.split('.').next() == owner.split('.').next();
            assert!(!is_of || setting.needs == [owner], "{}", setting.key);
        }
    }
}

/// What makes a part is applied before its details; apart from that no setting changes what another one has set.
#[test]
fn the_order_of_settings_means_nothing() {
    let given: Vec<(&Composed, String)> = SETTINGS
        .iter()
        .filter_map(|setting| {
            let works = |other: &&&str| (setting.apply)(&mut all_parts(), &[(**other).to_owned()]).is_ok();
            OTHERS
                .iter()
                .filter(|other| **other != setting.default)
                .find(works)
                .map(|other| (setting, (*other).to_owned()))
        })
        .collect();
    assert!(given.len() > SETTINGS.len() * 3 / 4, "{} of {}", given.len(), SETTINGS.len());
    let applied = |given: &mut dyn Iterator<Item = &(&Composed, String)>| {
        let (firsts, details): (Vec<_>, Vec<_>) = given.partition(|(setting, _)| setting.needs.is_empty());
        let mut config = app::Config::default();
        for (setting, value) in firsts.into_iter().chain(details) {
            (setting.apply)(&mut config, std::slice::from_ref(value)).unwrap();
        }
        format!("{config:?}")
    };
    assert_eq!(applied(&mut given.iter()), applied(&mut given.iter().rev()));
    #[cfg(feature = "kafka")]
    {
        use crate::kafka::Workers;
        let workers = |flags: &[&str]| {
            let flags = [&["--kafka", "h:1"], flags].concat();
            load(&flags, &[]).unwrap().config.kafka.unwrap().workers
        };
        assert_eq!(workers(&[]), Workers::Auto);
        assert_eq!(workers(&["--kafka-events-topic", "e"]), Workers::On);
        assert_eq!(workers(&["--kafka-workers", "off", "--kafka-ack-topic", "a"]), Workers::Off);
        assert_eq!(workers(&["--kafka-ack-topic", "a", "--kafka-workers", "auto"]), Workers::Auto);
        let kafka = load(&["--order-bytes-max", "77KiB", "--kafka", "h:1"], &[]).unwrap().config.kafka.unwrap();
        assert_eq!(kafka.order_bytes_max, 77 << 10);
    }
    let config = load(&["--order-bytes-max", "77KiB", "--http-answer-bytes-max", "77MiB"], &[]).unwrap().config;
    assert_eq!([config.ingest.order_bytes_max, config.http.order_bytes_max], [77 << 10; 2]);
    assert_eq!([config.http.answer_bytes_max, config.cache.list_bytes_max], [77 << 20; 2]);
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("order.toml");
    std::fs::write(&file, "listen = [\"127.0.0.1:3\"]\n[http]\nidle_time = \"5s\"\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(listen(&[], &[]), ["127.0.0.1:8080"]);
    assert_eq!(listen(&["--config", file], &[]), ["127.0.0.1:3"]);
    assert_eq!(listen(&["--config", file], &[("ORDER_LISTEN", "127.0.0.1:2")]), ["127.0.0.1:2"]);
    let flags = ["--config", file, "--listen", "127.0.0.1:1", "--listen", "[::1]:1"];
    assert_eq!(listen(&flags, &[("ORDER_LISTEN", "127.0.0.1:2")]), ["127.0.0.1:1", "[::1]:1"]);
    assert_eq!(listen(&["--listen", "127.0.0.1:5", "serve", "--listen", "127.0.0.1:6"], &[]), ["127.0.0.1:6"]);
    let idle = load(&[], &[("CONFIG_PATH", file)]).unwrap().config.http.limits.idle_time;
    assert_eq!(idle.as_secs(), 5);
}

#[test]
fn yaml_that_grows_without_end_is_refused() {
    assert!(file::yaml("a: &a [x, x]\nb: &b [*a, *a]\n").unwrap_err().contains("has an alias"));
    assert!(file::yaml(&"[".repeat(1000)).is_err());
    let deep = format!("a: {}{}", "[".repeat(65), "]".repeat(65));
    assert!(file::yaml(&deep).unwrap_err().contains("nested too deep"));
    assert!(file::yaml("a: &a 1\nb: [[2], {c: 3}]\n").is_ok());
}

#[test]
fn what_would_be_refused_is_left_out_of_a_converted_file() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("old.yaml");
    let text = "http_server:\n  address: '127.0.0.1:2004'\n  idle_timeout: soon\nredis:\n  addr: ''\nlogger:\n  level: ''\n\
                jobs:\n  - name: x\n    every: 1s\n";
    std::fs::write(&from, text).unwrap();
    let text = convert(&from).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "listen = [\"127.0.0.1:2004\"]  # http_server.address");
    assert!(lines[1].starts_with("# http_server.idle_timeout is left out: http.idle_time: "), "{text}");
    assert_eq!(lines[2..], ["# jobs is left out: it is no value and no list of values"]);
}

#[test]
fn yaml_is_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("order.yaml");
    std::fs::write(&file, "listen:\n  - 127.0.0.1:3\nhttp:\n  header_time: 3s\nlog:\n  format: json\n").unwrap();
    let settings = load(&["--config", file.to_str().unwrap()], &[]).unwrap();
    assert_eq!(settings.config.http.limits.header_time.as_secs(), 3);
    assert!(settings.print().contains("log.format = \"json\"  # "), "{}", settings.print());
}

#[test]
fn the_query_of_a_url_of_keys_is_masked() {
    let url = "https://issuer.test/keys?token=s3cr3t";
    let flags = ["--auth-jwks", url, "--auth-issuer", "i", "--auth-audience", "a"];
    let printed = load(&flags, &[]).unwrap().print();
    assert!(printed.contains("auth.jwks = \"https://issuer.test/keys?********\"  # "), "{printed}");
    assert!(!printed.contains("s3cr3t"), "{printed}");
}

#[test]
fn names_of_the_older_services_are_understood() {
    for (name, value) in [("API_PORT", "8090"), ("HTTP_SERVER_ADDR", ":8090")] {
        let listen = load(&[], &[(name, value)]).unwrap().config.http.listen;
        let [Endpoint::Tcp(address)] = listen[..] else { panic!("{listen:?}") };
        assert!(address.ip().is_unspecified() && address.port() == 8090, "{address}");
    }
    assert_eq!(listen(&[], &[("ORDER_LISTEN", "127.0.0.1:1,127.0.0.1:2")]), ["127.0.0.1:1", "127.0.0.1:2"]);
}

#[test]
fn every_wrong_setting_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("order.toml");
    std::fs::write(&file, "sample = \"many\"\nlissen = \":1\"\n").unwrap();
    let flags = ["--config", file.to_str().unwrap(), "--profile", "loose"];
    let wrong = load(&flags, &[("ORDER_GRACE", "soon")]).unwrap_err().to_string();
    for part in ["--profile: must be lenient", "ORDER_GRACE: \"soon\"", ": sample: \"many\"", ": lissen: there is no"] {
        assert!(wrong.contains(part), "{part}\n{wrong}");
    }
    assert_eq!(wrong.lines().count(), 4, "{wrong}");
    assert!(load(&["--config", "/nowhere.toml"], &[]).unwrap_err().to_string().contains("/nowhere.toml"));
}

#[test]
fn what_is_printed_brings_about_the_same_settings() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("printed.toml");
    let flags = ["--listen", ":7", "--http-idle-time", "90s", "--log", "json"];
    let settings = load(&flags, &[("ORDER_SAMPLE", "12")]).unwrap();
    std::fs::write(&file, settings.print()).unwrap();
    let again = load(&["--config", file.to_str().unwrap()], &[]);
    let again = again.unwrap_or_else(|wrong| panic!("{wrong}\n{}", settings.print()));
    assert_eq!(format!("{:?}", again.config), format!("{:?}", settings.config));
}

#[test]
fn no_value_of_any_setting_panics() {
    const ODD: &[&str] = &[
        "",
        " ",
        "-1",
        "0",
        "1",
        "yes",
        "\u{0}",
        "a\u{0}b",
        "é",
        "=",
        "=x",
        "x=",
        "x=y",
        "://",
        "[",
        "[::1",
        "@",
        ":",
        "%",
        "%zz",
        "18446744073709551615",
        "99999999999999999999",
        "1e308",
        "1e308h",
        "99999999999h",
        "0.0000001us",
        "16777216GiB",
        "1099511627776",
        "{",
        "\"",
        "nats://:@:0",
        "redis://[/",
        "postgres://[",
        "host='",
        "host=a port=x",
        "a:99999",
        "*",
    ];
    for setting in SETTINGS.iter() {
        for odd in ODD {
            let mut config = app::Config::default();
            // Most of these are refused; what is accepted must be so without a panic too.
            let _ = (setting.apply)(&mut config, &[(*odd).to_owned()]);
            let flag = format!("--{}={odd}", setting.flag);
            let all = [
                "--kafka=127.0.0.1:1",
                "--nats=127.0.0.1:1",
                "--stan=127.0.0.1:1",
                "--redis=127.0.0.1:1",
                "--postgres=host=a",
                &flag,
            ];
            let own = ["kafka", "nats", "stan", "redis", "postgres"].iter().position(|name| *name == setting.flag);
            let flags: Vec<&str> = (0..all.len()).filter(|n| Some(*n) != own).map(|n| all[n]).collect();
            if let Err(wrong) = load(&flags, &[]) {
                assert!(!wrong.0.is_empty() && wrong.0.iter().all(|line| !line.contains('\n')), "{flag}: {wrong}");
            }
        }
        let wrong = load(&[&format!("--{}=a\u{0}b", setting.flag)], &[]).unwrap_err();
        assert!(wrong.0[0].ends_with("contains a NUL byte"), "{wrong}");
    }
}

#[test]
fn addresses_are_told_from_other_pairs_of_numbers() {
    assert_eq!(listen(&["--listen", "127.0.0.1:1,[::1]:2"], &[]), ["127.0.0.1:1", "[::1]:2"]);
    for wrong in ["8080:8081", "127.0.0.1", "::1", "x:y", "127.0.0.1:1,", "127.0.0.1:99999", ""] {
        assert!(load(&["--listen", wrong], &[]).is_err(), "{wrong}");
    }
}

/// The library shows the line, with the password in it.
#[test]
fn a_file_that_cannot_be_read_is_told_by_line_and_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("order.toml");
    std::fs::write(&file, "listen = [\"127.0.0.1:3\"]\npostgres = \"postgres://u:secret@h/d\n").unwrap();
    let wrong = load(&["--config", file.to_str().unwrap()], &[]).unwrap_err();
    let [line] = &wrong.0[..] else { panic!("{wrong:?}") };
    assert!(line.contains("line 2: postgres: ") && !line.contains("secret"), "{line}");
}

#[test]
fn origins_are_what_browsers_call_pages_by() {
    let origins =
        |text: &str| load(&["--http-cors-origin", text], &[]).map(|settings| settings.config.http.cors_origins);
    assert_eq!(origins("https://shop.test,http://localhost:3000, https://[::1]:8443").unwrap().len(), 3);
    assert_eq!((origins("none").unwrap().len(), origins("*").unwrap().len()), (0, 1));
    for wrong in [
        "shop.test",
        "https://shop.test/",
        "https://shop.test/path",
        "https://Shop.test",
        "https://*.shop.test",
        "https://",
        "null",
        "*,https://shop.test",
        "https://a b",
        "https://shop.test:",
        "",
    ] {
        assert!(origins(wrong).is_err(), "{wrong}");
    }
}

/// Every place a setting can come from, every setting that can hold a secret, wrong in every way.
#[test]
fn no_error_repeats_a_value_that_may_be_a_secret() {
    const MARK: &str = "s3cr3t";
    // Written so that what a library takes apart is in pieces.
    const WRONG: &[&str] = &[
        "s3cr3t",
        "=s3cr3t",
        "s3cr3t=x",
        "sasl.password:s3cr3t",
        "sasl.password:s3cr3t=x",
        "no.such.property=s3cr3t",
        "acks=s3cr3t",
        "ssl.key.pem=s3cr3t",
        "sasl.password=s3cr3t\u{0}",
        "bootstrap.servers=me:s3cr3t@kafka:9092",
        "host=h password=x s3cr3t=1",
        "host=h password=x s3cr3t",
        "host=h port=s3cr3t",
        "host=h sslmode=s3cr3t",
        "host=h password='s3cr3t",
        "postgres://me:s3cr3t@h:port/d",
        "postgres://me:a@s3cr3t@h/d",
        "postgres://me:s3cr3t@h/d?sslmode=require",
        "postgres://me:s3cr3t@h/d?s3cr3t=1",
        "postgres://me:s3cr3t@h/d?port=s3cr3t",
        "postgres://me:%zz@s3cr3t@[/d",
        "mysql://me:s3cr3t@h/d",
        "redis://:s3cr3t@/x",
        "redis://:s3cr3t@h:0",
        "redis://:s3c/r3t/s3cr3t@h:6379",
        "redis://:s3cr3t@h:6379/s3cr3t",
        "rediss://:s3cr3t@h:6379",
        "h:6379@s3cr3t",
        "nats://me:s3cr3t@:4222",
        "nats://me:s3cr3t@h:0",
        "nats://me:s3cr3t@h:4222/s3cr3t?s3cr3t#s3cr3t",
        "nats://me:a@h,nats://me:s3cr3t@h",
        "http://me:s3cr3t@h:4222",
        "me:s3cr3t@kafka:9092",
        "\"s3cr3t",
        "s3cr3t\nmore\n=s3cr3t",
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let check = |what: &str, result: Result<Settings, ConfigError>| match result {
        Ok(settings) => assert!(!settings.print().contains(MARK), "{what}: {}", settings.print()),
        Err(wrong) => assert!(!wrong.to_string().contains(MARK), "{what}: {wrong}"),
    };
    for setting in SETTINGS.iter().filter(|setting| setting.is_secret) {
        let kafka = (setting.key == "kafka.property" && cfg!(feature = "kafka")).then_some("--kafka=127.0.0.1:1");
        let flags = |more: &[&str]| {
            let all: Vec<String> = kafka.iter().chain(more).map(|&flag| flag.to_owned()).collect();
            all
        };
        // The name of a property is told.
        let is_name = |wrong: &&&str| setting.key == "kafka.property" && wrong.contains("s3cr3t=");
        for wrong in WRONG.iter().filter(|wrong| !is_name(wrong)).copied() {
            let what = format!("{} {wrong:?}", setting.key);
            let run = |more: &[&str], environment: &[(&str, &str)]| {
                let flags = flags(more);
                check(&what, load(&flags.iter().map(String::as_str).collect::<Vec<_>>(), environment));
            };
            run(&[&format!("--{}={wrong}", setting.flag)], &[]);
            std::fs::write(path("secret"), wrong).unwrap();
            for &name in setting.env {
                run(&[], &[(name, wrong)]);
                let by_file = format!("{name}_FILE");
                run(&[], &[(&by_file, &path("secret"))]);
                // A path by its name, and no path at all.
                run(&[], &[(&by_file, wrong)]);
            }
            let (table, key) = setting.key.split_once('.').unwrap();
            let quoted = toml::Value::String(wrong.to_owned());
            for (name, text) in [
                ("a.toml", format!("[{table}]\n{key} = {quoted}\n")),
                ("b.toml", format!("[{table}]\n{key} = [[{quoted}]]\n")),
                ("c.toml", format!("[{table}]\n{key} = {wrong}\n")),
                ("d.toml", format!("[{table}]\n{key} = \"\"\"\n{wrong}\n")),
                ("e.toml", format!("[{table}]\n{key} = \"{wrong}\n")),
                ("a.yaml", format!("{table}:\n  {key}: {wrong}\n")),
                ("b.yaml", format!("{table}:\n  {key}: \"{wrong}\n")),
                ("c.yml", format!("{table}:\n  {key}: *{wrong}\n")),
            ] {
                std::fs::write(path(name), text).unwrap();
                run(&["--config", &path(name)], &[]);
            }
        }
    }
    check("brokers", load(&["--kafka", "me:s3cr3t@kafka:9092"], &[]));
    for part in ["POSTGRES_PORT", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "POSTGRES_SSLMODE"] {
        for wrong in WRONG {
            check(part, load(&[], &[("POSTGRES_HOST", "h"), (part, wrong)]));
            check(part, load(&[], &[("POSTGRES_HOST", "h"), (&format!("{part}_FILE"), wrong)]));
        }
    }
}

/// They were named by keys of a settings file, which an operator who writes none has never seen.
#[test]
fn settings_that_do_not_go_together_are_named_as_they_were_given() {
    type Case = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);
    let cases: [Case; 10] = [
        (&["--queue-bytes-max", "1"], &[], "--queue-bytes-max: must be at least --order-bytes-max"),
        (
            &["--queue-bytes-max", "1MiB"],
            &[("ORDER_BYTES_MAX", "2MiB")],
            "--queue-bytes-max: must be at least ORDER_BYTES_MAX",
        ),
        (&["--admin", ":1"], &[("API_PORT", "1")], "--admin: must be another address than API_PORT"),
        (&["--grpc", ":1"], &[("ORDER_ADMIN", ":1")], "--grpc: must be another address than --listen and ORDER_ADMIN"),
        (&["--grpc", "tls::1"], &[], "--grpc: a tls: listener needs --tls-cert (ORDER_TLS_CERT) and --tls-key"),
        (&[], &[("ORDER_TLS_CERT", "x"), ("ORDER_TLS_KEY", "x")], "ORDER_TLS_CERT: changes nothing without a tls:"),
        (
            &["--auth-jwks", "https://a/k"],
            &[],
            "--auth-jwks: needs --auth-issuer (ORDER_AUTH_ISSUER) and --auth-audience",
        ),
        (&["--redis", "rediss://h:1"], &[("ORDER_REDIS_CA", "/no/ca")], "ORDER_REDIS_CA: /no/ca: cannot be read"),
        (&["--redis", "rediss://h:1", "--redis-cert", "x"], &[], "--redis-cert: needs --redis-key (ORDER_REDIS_KEY)"),
        (&["--redis-ca", "x"], &[("REDIS_ADDR", "h:1")], "REDIS_ADDR: files of certificates change nothing"),
    ];
    for (flags, variables, told) in cases {
        let wrong = load(flags, variables).unwrap_err().to_string();
        assert!(wrong.starts_with(told), "{flags:?} {variables:?}: {wrong}");
    }
}

#[test]
fn a_server_that_takes_no_writes_is_refused_with_what_to_write_instead() {
    for attrs in ["standby", "read-only", "prefer-standby"] {
        let url = format!("postgres://u:s3cret@a,b/d?target_session_attrs={attrs}");
        let wrong = load(&[], &[("POSTGRES_DSN", &url)]).unwrap_err().to_string();
        assert!(wrong.starts_with("POSTGRES_DSN: target_session_attrs") && wrong.contains("read-write"), "{wrong}");
        assert!(!wrong.contains("s3cret"), "{wrong}");
    }
    for attrs in ["any", "read-write", "primary"] {
        load(&["--postgres", &format!("postgres://a,b/d?target_session_attrs={attrs}")], &[]).unwrap();
    }
}

/// A message that was rejected came back as one to be rejected, without end.
#[cfg(feature = "kafka")]
#[test]
fn topics_that_would_feed_each_other_are_refused() {
    for (flags, told) in [
        (
            ["--kafka-topic", "a", "--kafka-dlq-topic", "a"],
            "--kafka-dlq-topic: must be another topic than --kafka-topic",
        ),
        (
            ["--kafka-topic", "a", "--kafka-events-topic", "a"],
            "--kafka-events-topic: must be another topic than --kafka-topic",
        ),
        (
            ["--kafka-ack-topic", "a", "--kafka-events-topic", "a"],
            "--kafka-ack-topic: must be another topic than --kafka-events-topic",
        ),
        (
            ["--kafka-topic", "a", "--kafka-snapshots-topic", "a"],
            "--kafka-snapshots-topic: must be another topic than --kafka-topic",
        ),
    ] {
        let wrong = load(&[&["--kafka", "b:1"], &flags[..]].concat(), &[]).unwrap_err();
        assert!(wrong.to_string().contains(told), "{wrong}");
    }
    // What is off is written to no topic.
    let off = ["--kafka", "b:1", "--kafka-topic", "orders.events", "--kafka-workers", "off"];
    assert!(load(&off, &[]).is_ok());
}

/// It was taken for the name of a target, and nothing was logged.
#[test]
fn a_level_that_is_written_wrong_is_refused() {
    for level in ["wran", "loud", "7", "info,hyper"] {
        assert!(load(&["--log-level", level], &[]).unwrap_err().to_string().contains("is no level"), "{level}");
    }
    for level in ["warn", "DEBUG", "off", "info,hyper=off", "order_service::http=trace"] {
        assert!(load(&["--log-level", level], &[]).is_ok(), "{level}");
    }
}

#[cfg(feature = "kafka")]
#[test]
fn snapshots_that_are_always_published_need_a_topic() {
    let topicless = ["--kafka", "b:1", "--kafka-snapshots-topic", "off"];
    assert!(load(&topicless, &[]).is_ok());
    let wrong = load(&[&topicless[..], &["--kafka-snapshots", "on"]].concat(), &[]).unwrap_err();
    assert!(
        wrong.to_string().contains("--kafka-snapshots: on needs a topic, and --kafka-snapshots-topic is off"),
        "{wrong}"
    );
    load(&["--kafka", "b:1", "--kafka-snapshots", "sometimes"], &[]).unwrap_err();
}

/// Everything but the number that each instance draws for itself.
fn shown(config: &app::Config) -> String {
    let text = format!("{config:?}");
    let Some((before, after)) = text.split_once("instance: ") else { return text };
    format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// One line each, and none for what is as it is anyway.
#[test]
fn variables_of_the_older_services_that_change_nothing_are_told() {
    let unused = |environment: &[(&str, &str)]| load(&[], environment).unwrap().unused;
    assert!(unused(&[]).is_empty());
    for (environment, expected) in [
        (&[("DB_CONN_STR", "")][..], "DB_CONN_STR: is empty, so --postgres is not set by it"),
        (&[("CACHE_SIZE", "1000")], "CACHE_SIZE: changes nothing: memory for orders is bounded by bytes"),
        (&[("MIGRATIONS_PATH", "x")], "MIGRATIONS_PATH: changes nothing: migrations are built in"),
        (&[("REDIS_DB", "2")], "REDIS_DB: changes nothing without REDIS_ADDR as host:port"),
        (&[("REDIS_TTL", "7m")], "REDIS_TTL: changes nothing without --redis (REDIS_ADDR)"),
        (&[("POSTGRES_DB", "orders"), ("POSTGRES_USER", "u")], "POSTGRES_USER, POSTGRES_DB: changes nothing without"),
        (&[("DATABASE_URL", "postgres://u:p@h/d")], "DATABASE_URL: changes nothing: POSTGRES_DSN, or POSTGRES_HOST"),
        (&[("DB_PORT", "5432"), ("DB_HOST", "db")], "DB_HOST, DB_PORT: changes nothing: POSTGRES_DSN, or"),
        (&[("REDIS_ADDR", "")], "REDIS_ADDR: is empty, so --redis is not set by it"),
        (&[("NATS_URL", ""), ("API_PORT", "")], "API_PORT, NATS_URL: are empty, so --listen, --nats are not set"),
    ] {
        let lines = unused(environment);
        let [line] = &lines[..] else { panic!("{environment:?}: {lines:?}") };
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn of_two_variables_for_one_setting_the_weaker_is_told() {
    let told = |environment: &[(&str, &str)]| load(&[], environment).unwrap().unused;
    let (a, b) = ("postgres://u:secret@a/d", "postgres://u:secret@b/d");
    assert_eq!(
        told(&[("POSTGRES_DSN", a), ("API_POSTGRES_DSN", b)]),
        ["API_POSTGRES_DSN: changes nothing beside POSTGRES_DSN"]
    );
    assert!(told(&[("POSTGRES_DSN", a), ("API_POSTGRES_DSN", a)]).is_empty(), "they say the same");
    assert_eq!(
        told(&[("DB_CONN_STR", a), ("POSTGRES_HOST", "b")]),
        ["POSTGRES_HOST: changes nothing beside DB_CONN_STR"]
    );
    assert_eq!(
        told(&[("POSTGRES_DSN", a), ("DATABASE_URL", b), ("DB_NAME", "d")]),
        ["DATABASE_URL, DB_NAME: changes nothing beside POSTGRES_DSN"]
    );
    assert!(told(&[("POSTGRES_DSN", a), ("DATABASE_URL", a)]).is_empty(), "they say the same");
    let [line] = &told(&[("ORDER_LOG_LEVEL", "warn"), ("LOG_LEVEL", "debug")])[..] else { panic!("one line") };
    assert_eq!(line, "LOG_LEVEL: changes nothing beside ORDER_LOG_LEVEL");
    assert!(told(&[("API_PORT", ""), ("HTTP_PORT", "8080")]).is_empty(), "another one sets it");
    assert!(told(&[("POSTGRES_HOST", "a"), ("POSTGRES_DB", "d")]).is_empty(), "each is a part of one address");
}

/// The host was blamed for all of them.
#[test]
fn the_part_of_a_server_that_is_wrong_is_named() {
    for (parts, expected) in [
        (&[("POSTGRES_PORT", "abc")][..], "POSTGRES_PORT: "),
        (&[("POSTGRES_PORT", "1,2"), ("POSTGRES_USER", "u")], "POSTGRES_PORT: names 2 ports for 1 hosts"),
        (&[("POSTGRES_USER", "u"), ("POSTGRES_SSLMODE", "perhaps")], "POSTGRES_SSLMODE: "),
        (&[("POSTGRES_SSLMODE", "verify-full")], "POSTGRES_SSLMODE: "),
        (&[("POSTGRES_SSLMODE", "verify-full"), ("POSTGRES_SSLROOTCERT", "/no/such")], "POSTGRES_SSLROOTCERT: "),
        (&[("POSTGRES_HOST", "me@h"), ("POSTGRES_PORT", "5432")], "POSTGRES_HOST: "),
    ] {
        let wrong = load(&[], &[&[("POSTGRES_HOST", "h")][..], parts].concat()).unwrap_err();
        assert!(wrong.0.len() == 1 && wrong.0[0].starts_with(expected), "{expected}{wrong}");
    }
    // A value may have the characters of a URL.
    assert!(load(&[], &[("POSTGRES_HOST", "h"), ("POSTGRES_PASSWORD", "a://b%zz")]).is_ok());
    let dir = tempfile::tempdir().unwrap();
    let [host, port] = [("host", "h\n"), ("port", "abc\n")].map(|(name, text)| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let by_file = load(&[], &[("POSTGRES_HOST_FILE", &host)]).unwrap();
    assert_eq!(by_file.config.store.place(), load(&[], &[("POSTGRES_HOST", "h")]).unwrap().config.store.place());
    let wrong = load(&[], &[("POSTGRES_HOST_FILE", &host), ("POSTGRES_PORT_FILE", &port)]).unwrap_err();
    assert!(wrong.0[0].starts_with("POSTGRES_PORT_FILE: "), "{wrong}");
}

#[test]
fn a_file_that_is_named_and_not_read_is_told() {
    let told = |environment: &[(&str, &str)]| load(&[], environment).unwrap().unused;
    for (environment, expected) in [
        (
            &[("POSTGRES_DSN", "host=h"), ("POSTGRES_DSN_FILE", "/x")][..],
            "POSTGRES_DSN_FILE: changes nothing beside POSTGRES_DSN",
        ),
        (
            &[("DB_CONN_STR_FILE", "/x"), ("POSTGRES_DSN", "host=h")],
            "DB_CONN_STR_FILE: changes nothing beside POSTGRES_DSN",
        ),
        (
            &[("POSTGRES_HOST", "h"), ("POSTGRES_PASSWORD", "p"), ("POSTGRES_PASSWORD_FILE", "/x")],
            "POSTGRES_PASSWORD_FILE: changes nothing beside POSTGRES_PASSWORD",
        ),
        (
            &[("REDIS_ADDR", "h:1"), ("REDIS_PASSWORD", "p"), ("REDIS_PASSWORD_FILE", "/x")],
            "REDIS_PASSWORD_FILE: changes nothing beside REDIS_PASSWORD",
        ),
        (&[("REDIS_PASSWORD_FILE", "/x")], "REDIS_PASSWORD_FILE: changes nothing without REDIS_ADDR"),
        (&[("POSTGRES_PASSWORD_FILE", "/x")], "POSTGRES_PASSWORD_FILE: changes nothing without POSTGRES_HOST"),
        (&[("ORDER_LISTEN_FILE", "/x")], "ORDER_LISTEN_FILE: changes nothing: only secrets are read from files"),
        (
            &[("ORDER_FROM_POSTGRES", "host=h"), ("ORDER_FROM_POSTGRES_FILE", "/x")],
            "ORDER_FROM_POSTGRES_FILE: changes nothing beside ORDER_FROM_POSTGRES",
        ),
    ] {
        let lines = told(environment);
        let [line] = &lines[..] else { panic!("{environment:?}: {lines:?}") };
        assert!(line.starts_with(expected), "{line}");
    }
    // The password of an address may be in a file.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "p@ss\n").unwrap();
    let by_file = load(&[], &[("REDIS_ADDR", "h:1"), ("REDIS_PASSWORD_FILE", file.to_str().unwrap())]).unwrap();
    let same = load(&[], &[("REDIS_ADDR", "redis://:p%40ss@h:1")]).unwrap();
    assert_eq!(shown(&by_file.config), shown(&same.config));
    assert!(by_file.unused.is_empty(), "{:?}", by_file.unused);
}

/// What a library makes of them is most often another password, which only a server would find out.
#[test]
fn broken_escapes_of_urls_are_refused() {
    for (flag, name, place) in [
        ("--nats", "NATS_URL", "h:4222"),
        ("--stan", "STAN_URL", "h:4222"),
        ("--redis", "REDIS_ADDR", "h:6379"),
        ("--postgres", "POSTGRES_DSN", "h/d"),
    ] {
        let scheme = flag.trim_start_matches("--").replace("stan", "nats");
        for broken in ["s3cr3t%zz", "s3cr3t%4", "s3cr3t%", "s3cr3t%ff"] {
            let url = format!("{scheme}://me:{broken}@{place}");
            for (settings, told) in [
                (load(&[flag, &url], &[]), format!("{flag}: has a % that begins no escape")),
                (load(&[], &[(name, &url)]), format!("{name}: has a % that begins no escape")),
            ] {
                let wrong = settings.unwrap_err();
                assert!(wrong.0[0].starts_with(&told) && !wrong.to_string().contains("s3cr3t"), "{url}: {wrong}");
            }
        }
        load(&[flag, &format!("{scheme}://me:a%25%C3%9F@{place}")], &[]).unwrap();
    }
    load(&["--postgres", "host=h password=50%off"], &[]).unwrap();
    assert!(load(&[], &[("POSTGRES_HOST", "h"), ("POSTGRES_PASSWORD", "a%ZZ")]).is_ok(), "nothing is decoded there");
    assert!(load(&[], &[("REDIS_ADDR", "h:1"), ("REDIS_PASSWORD", "a%ZZ")]).is_ok(), "it is encoded here");
    let keys = |url| load(&["--auth-jwks", url, "--auth-issuer", "i", "--auth-audience", "a"], &[]);
    assert!(keys("https://issuer.test/keys?t=%zz").unwrap_err().0[0].starts_with("--auth-jwks: has a %"));
    keys("https://issuer.test/keys?t=%7a").unwrap();
}

#[test]
fn variables_of_the_older_services_with_a_counterpart_are_aliases() {
    let same = |one: &[(&str, &str)], other: &[(&str, &str)]| {
        let [one, other] = [one, other].map(|environment| load(&[], environment).unwrap());
        assert_eq!(shown(&one.config), shown(&other.config));
        assert!(one.unused.is_empty(), "{:?}", one.unused);
    };
    let dsn = "postgres://u:p@h:5433/d";
    for name in ["DB_CONN_STR", "API_POSTGRES_DSN", "WORKER_POSTGRES_DSN"] {
        same(&[(name, dsn)], &[("POSTGRES_DSN", dsn)]);
    }
    let redis = |url| [("REDIS_ADDR", url)];
    same(&[("REDIS_ADDR", "h:1"), ("REDIS_DB", "3")], &redis("redis://h:1/3"));
    let wrong = load(&[], &[("REDIS_ADDR", "h:1"), ("REDIS_DB", "x")]).unwrap_err().0;
    assert_eq!(wrong, ["REDIS_DB: \"x\" is no number of a database"]);
    same(&[("REDIS_ADDR", "h:1"), ("REDIS_DB", "0")], &redis("redis://h:1/0"));
    same(
        &[("REDIS_ADDR", "h:1"), ("REDIS_PASSWORD", "p@/:ß"), ("REDIS_DB", "3")],
        &redis("redis://:p%40%2F%3A%C3%9F@h:1/3"),
    );
    same(&[("REDIS_ADDR", "h:1"), ("REDIS_TTL", "1h0m5s")], &[("REDIS_ADDR", "h:1"), ("ORDER_REDIS_TTL", "3605s")]);
    same(&[("GRPC_PORT", "50051")], &[("ORDER_GRPC", ":50051")]);
    let stan = ("STAN_URL", "nats://h:4222");
    same(
        &[stan, ("NATS_CLUSTER_ID", "c"), ("NATS_CLIENT_ID", "i")],
        &[stan, ("STAN_CLUSTER_ID", "c"), ("STAN_CLIENT_ID", "i")],
    );
    let told = load(&[], &[("REDIS_ADDR", "redis://h:1/2"), ("REDIS_DB", "3")]).unwrap().unused;
    assert!(told.len() == 1 && told[0].starts_with("REDIS_DB: changes nothing"), "{told:?}");
}

/// Settings files as the older services had them.
#[cfg(feature = "kafka")]
const OLDER_FILES: [(&str, &str); 3] = [
    (
        "streaming.yaml",
        "env: local\nhttp_server:\n  address: \":8081\"\n  timeout: 4s\n  idle_timeout: 1m30s\npostgres:\n  host: db\n  \
         port: 5433\n  user: orders\n  password: \"it's s3cr3t\"\n  dbname: orders\n  sslmode: disable\nnats:\n  url: \
         nats://nats:4222\n  cluster_id: test-cluster\n  client_id: order-service\n  subject: orders\n  durable_name: d\n",
    ),
    (
        "map.yml",
        "server:\n  host: 0.0.0.0\n  port: 8081\nkafka:\n  brokers:\n    - kafka-1:9092\n    - kafka-2:9092\n  topic: \
         orders\n  groupID: order-service\ndatabase:\n  dsn: postgres://u:p@h/d\n  max_open_conns: 10\ncache:\n  capacity: \
         1000\nlogger:\n  level: debug\n",
    ),
    (
        "redis.json",
        "{\"http\": {\"port\": 8090}, \"redis\": {\"addr\": \"redis:6379\", \"password\": \"p\", \"db\": 2, \"expiration\": \"5m\"}, \
         \"log_level\": \"warn\", \"strange\": 1}",
    ),
];

#[cfg(feature = "kafka")]
#[test]
fn each_key_of_an_older_file_is_answered_with_what_to_write_instead() {
    let dir = tempfile::tempdir().unwrap();
    let told = |name: &str| {
        let (_, text) = OLDER_FILES.iter().find(|(file, _)| *file == name).unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        load(&[], &[("CONFIG_PATH", path.to_str().unwrap())]).unwrap_err()
    };
    for (file, expected) in [
        ("streaming.yaml", "env: is of an older service and has no counterpart: there are no environments"),
        ("streaming.yaml", "http_server.address: is of an older service; write listen instead"),
        (
            "streaming.yaml",
            "http_server.timeout: is of an older service and has no counterpart: there are http.header_time",
        ),
        ("streaming.yaml", "http_server.idle_timeout: is of an older service; write http.idle_time instead"),
        ("streaming.yaml", "postgres.password: is of an older service; it is password in postgres.url"),
        ("streaming.yaml", "nats.cluster_id: is of an older service; write stan.cluster instead"),
        ("streaming.yaml", "nats.durable_name: is of an older service; write stan.durable instead"),
        ("map.yml", "server.port: is of an older service; it is the port in listen"),
        ("map.yml", "kafka.groupID: is of an older service; write kafka.group instead"),
        ("map.yml", "database.max_open_conns: is of an older service and has no counterpart: postgres.readers_max"),
        ("map.yml", "cache.capacity: is of an older service and has no counterpart: memory for orders"),
        ("redis.json", "redis.db: is of an older service; it is the db in redis.url"),
        ("redis.json", "redis.expiration: is of an older service; write redis.ttl instead"),
        ("redis.json", "strange: there is no such setting"),
        ("redis.json", "`order-service config convert "),
    ] {
        let wrong = told(file);
        assert!(wrong.0.iter().any(|line| line.contains(expected)), "{expected}\n{wrong}");
        assert!(!wrong.to_string().contains("s3cr3t"), "{wrong}");
    }
    let plain = dir.path().join("plain.toml");
    std::fs::write(&plain, "lissen = 1\n").unwrap();
    let wrong = load(&["--config", plain.to_str().unwrap()], &[]).unwrap_err();
    assert_eq!(wrong.0.len(), 1, "nothing older, nothing to convert: {wrong}");
}

#[cfg(feature = "kafka")]
#[test]
fn a_converted_file_is_read_and_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let converted = |name: &str| {
        let (_, text) = OLDER_FILES.iter().find(|(file, _)| *file == name).unwrap();
        let (from, to) = (dir.path().join(name), dir.path().join("new.toml"));
        std::fs::write(&from, text).unwrap();
        let text = convert(&from).unwrap();
        std::fs::write(&to, &text).unwrap();
        (load(&["--config", to.to_str().unwrap()], &[]).unwrap_or_else(|wrong| panic!("{wrong}\n{text}")).config, text)
    };
    let same = |config: &app::Config, flags: &[&str]| {
        assert_eq!(shown(config), shown(&load(flags, &[]).unwrap().config));
    };
    let (config, text) = converted("streaming.yaml");
    let postgres =
        r"--postgres=dbname='orders' host='db' password='it\'s s3cr3t' port='5433' sslmode='disable' user='orders'";
    let stan = ["--stan", "nats://nats:4222", "--stan-durable", "d"];
    same(&config, &[&["--listen", ":8081", "--http-idle-time", "90s", postgres][..], &stan].concat());
    assert!(config.nats.is_none(), "it is not JetStream");
    assert!(text.contains("# http_server.timeout is left out: ") && text.contains("# env is left out: "), "{text}");
    let (config, _) = converted("map.yml");
    let kafka = ["--kafka", "kafka-1:9092,kafka-2:9092", "--kafka-topic", "orders", "--kafka-group", "order-service"];
    let rest = ["--listen", "0.0.0.0:8081", "--postgres", "postgres://u:p@h/d", "--log-level", "debug"];
    same(&config, &[&rest[..], &kafka].concat());
    let (config, text) = converted("redis.json");
    same(
        &config,
        &["--listen", ":8090", "--redis", "redis://:p@redis:6379/2", "--redis-ttl", "5m", "--log-level", "warn"],
    );
    assert!(text.contains("# strange is left out: there is no such setting"), "{text}");
    // What is a file of this service already stays one.
    let own = dir.path().join("own.toml");
    std::fs::write(&own, "listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n[http]\nidle_time = \"5s\"\n").unwrap();
    assert_eq!(
        convert(&own).unwrap(),
        "http.idle_time = \"5s\"  # http.idle_time\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]  # listen\n"
    );
}

#[test]
fn a_flag_that_is_a_switch_needs_no_value() {
    let logs = |flags: &[&str]| load(flags, &[]).map(|settings| settings.config.ingest.log_orders);
    assert_eq!(logs(&[]), Ok(false));
    assert_eq!(logs(&["--log-orders"]), Ok(true));
    assert_eq!(logs(&["--log-orders", "serve"]), Ok(true));
    assert_eq!(logs(&["--log-orders=no"]), Ok(false));
    assert!(logs(&["--log-orders=perhaps"]).is_err());
}
