use super::*;
use crate::listen::Endpoint;

fn load(flags: &[&str], environment: &[(&str, &str)]) -> Result<Settings, Wrong> {
    let command = with_flags(Command::new("test")).subcommand(with_flags(Command::new("serve")));
    let matches = command.try_get_matches_from(std::iter::once(&"test").chain(flags)).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Settings::load(&matches, &Outside { environment })
}

fn listen(flags: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    load(flags, environment).unwrap().config.http.listen.iter().map(ToString::to_string).collect()
}

/// With every optional part on: details of one that is off would be compared with nothing.
fn all_parts() -> app::Config {
    let mut flags = Vec::new();
    for (name, value) in [
        ("--kafka", cfg!(feature = "kafka").then_some("127.0.0.1:1")),
        ("--nats", cfg!(feature = "nats").then_some("127.0.0.1:1")),
        ("--redis", cfg!(feature = "redis").then_some("127.0.0.1:1")),
        ("--postgres", cfg!(feature = "postgres").then_some("host=a")),
        ("--grpc", cfg!(feature = "grpc").then_some("127.0.0.1:1")),
        ("--admin", Some("tls:127.0.0.1:2")),
        ("--tls-cert", Some("cert.pem")),
        ("--tls-key", Some("key.pem")),
    ] {
        flags.extend(value.map(|value| format!("{name}={value}")));
    }
    load(&flags.iter().map(String::as_str).collect::<Vec<_>>(), &[]).unwrap().config
}

/// 25 of 65 were compared with nothing, as Kafka and the other parts were off.
#[test]
fn the_defaults_of_the_table_are_those_of_the_code() {
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
    let defaults = all_parts();
    let shown = format!("{defaults:?}");
    // To name the topics of workers says that there are some, unless this says otherwise.
    let workers = SETTINGS.iter().find(|setting| setting.key == "kafka.workers");
    for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
        let values: Vec<String> = setting.default.split(' ').map(str::to_owned).collect();
        let mut applied = defaults.clone();
        (setting.apply)(&mut applied, &values).unwrap();
        workers.map(|workers| (workers.apply)(&mut applied, &[workers.default.to_owned()]));
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
    for (index, setting) in SETTINGS.iter().enumerate() {
        for key in setting.needs {
            // The owner comes first: its details change what it has made.
            assert!(SETTINGS[..index].iter().any(|owner| owner.key == *key), "{}: {key}", setting.key);
        }
        for owner in ["kafka.brokers", "nats.url", "redis.url", "postgres.url", "grpc.listen"] {
            let is_of = setting.key != owner && setting.key.split('.').next() == owner.split('.').next();
            assert!(!is_of || setting.needs == [owner], "{}", setting.key);
        }
    }
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
fn yaml_is_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("order.yaml");
    std::fs::write(&file, "listen:\n  - 127.0.0.1:3\nhttp:\n  header_time: 3s\nlog:\n  format: json\n").unwrap();
    let settings = load(&["--config", file.to_str().unwrap()], &[]).unwrap();
    assert_eq!(settings.config.http.limits.header_time.as_secs(), 3);
    assert!(settings.print().contains("log.format = \"json\"  # "), "{}", settings.print());
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
    for setting in SETTINGS {
        for odd in ODD {
            let mut config = app::Config::default();
            // Most of these are refused; what is accepted must be so without a panic too.
            let _ = (setting.apply)(&mut config, &[(*odd).to_owned()]);
            let flag = format!("--{}={odd}", setting.flag);
            let all = ["--kafka=127.0.0.1:1", "--nats=127.0.0.1:1", "--redis=127.0.0.1:1", "--postgres=host=a", &flag];
            let own = ["kafka", "nats", "redis", "postgres"].iter().position(|name| *name == setting.flag);
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
    let check = |what: &str, result: Result<Settings, Wrong>| match result {
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

#[cfg(feature = "kafka")]
#[test]
fn snapshots_that_are_always_published_need_a_topic() {
    let topicless = ["--kafka", "b:1", "--kafka-snapshots-topic", "off"];
    assert!(load(&topicless, &[]).is_ok());
    let wrong = load(&[&topicless[..], &["--kafka-snapshots", "on"]].concat(), &[]).unwrap_err();
    assert!(wrong.to_string().contains("kafka.snapshots: on needs a topic"), "{wrong}");
    load(&["--kafka", "b:1", "--kafka-snapshots", "sometimes"], &[]).unwrap_err();
}
