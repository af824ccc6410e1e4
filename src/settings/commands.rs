//! The commands and their own flags, and what they come to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use hyper::header::{HeaderName, HeaderValue};

use super::Origin;
use super::{ConfigError, Outside, Settings, with_flags};
use crate::access::keys::Wanted;
#[cfg(feature = "kafka")]
use crate::kafka::settings::topic;
use crate::listen::Endpoint;
use crate::setting::duration;
use crate::store::any::Views;
use crate::store::settings::parse_postgres;
use crate::tools::client::Server;
#[cfg(feature = "kafka")]
use crate::tools::cluster::Cluster;
#[cfg(feature = "kafka")]
use crate::tools::dlq::{self, Place, Which};
use crate::tools::load::Json;
use crate::tools::migrate::Direction;
use crate::tools::older;
use crate::tools::{backup, export, import, load, publish};

/// What the process is to do.
pub enum Task {
    /// Answer requests.
    Serve,
    /// Process what was written over HTTP.
    #[cfg(feature = "kafka")]
    Work,
    /// Store the orders of a file.
    Import(import::Config),
    /// Store the orders of an older service's database.
    ImportOlder(Box<older::Config>),
    /// Write every live order.
    Export(export::Config),
    /// Copy the embedded store into one file.
    Backup(backup::Config),
    /// Send orders to a running service.
    Publish(publish::Config),
    /// Look at dead letters or send them back.
    #[cfg(feature = "kafka")]
    DeadLetters(dlq::Config),
    /// Read from a running service at a fixed rate.
    Load(load::Config, Option<Json>),
    /// Ask a running service whether it is well.
    Healthcheck {
        /// Where to ask.
        url: String,
        /// How long to wait.
        timeout: Duration,
    },
    /// Make a key of a caller.
    NewKey(Wanted),
    /// Change or show the store's schema.
    Migrate(Direction),
    /// Say that the settings are good.
    ConfigCheck,
    /// Show the settings.
    ConfigPrint,
    /// Write this settings file, which was one of an older service, to a file or to standard
    /// output.
    ConfigConvert(String, Option<PathBuf>),
    /// Write a completion script.
    Completions(clap_complete::Shell),
}

/// Reads the command line.
///
/// # Errors
/// [`ConfigError`] for settings that cannot be used. A command line that cannot be understood ends the process with 2, as
/// clap does it.
pub fn task(matches: &ArgMatches, outside: &Outside) -> Result<(Settings, Task), ConfigError> {
    if let Some(("config", arguments)) = matches.subcommand()
        && let Some(arguments) = arguments.subcommand_matches("convert")
    {
        // What is set otherwise has no bearing, and may be the very file.
        let text = super::convert(&one::<PathBuf>(arguments, "file"))?;
        return Ok((Settings::none(), Task::ConfigConvert(text, arguments.get_one("output").cloned())));
    }
    // What no setting has any bearing on is not ended by one.
    match matches.subcommand() {
        Some(("completions", arguments)) => return Ok((Settings::none(), Task::Completions(one(arguments, "shell")))),
        Some(("keys", arguments)) => return Ok((Settings::none(), Task::NewKey(key_of(arguments)))),
        Some(("load", arguments)) => {
            let json = arguments.get_one::<PathBuf>("json").cloned();
            let json = json.map(|path| if path.as_os_str() == "-" { Json::Stdout } else { Json::File(path) });
            let load = load_of(arguments).map_err(|error| wrong("load", &error))?;
            return Ok((Settings::none(), Task::Load(load, json)));
        }
        _ => {}
    }
    let is_print =
        matches.subcommand_matches("config").is_some_and(|config| config.subcommand_matches("print").is_some());
    let has_url = matches.subcommand_matches("healthcheck").is_some_and(|check| check.contains_id("url"));
    let settings = match Settings::load(matches, outside) {
        // The file of the working directory may be another program's.
        Err(wrong) if is_print || has_url => {
            let mut settings =
                Settings::load(matches, &Outside { file: None, ..outside.clone() }).map_err(|_| wrong.clone())?;
            settings.unused.extend(wrong.0.into_iter().map(|line| format!("ends a start: {line}")));
            settings
        }
        read => read?,
    };
    let task = match matches.subcommand() {
        None | Some(("serve", _)) => Task::Serve,
        #[cfg(feature = "kafka")]
        Some(("worker", _)) => {
            let config = &settings.config;
            let missing = [("--kafka", config.kafka.is_none()), ("--postgres", !config.store.is_shareable())];
            let missing: Vec<_> = missing.iter().filter(|(_, is_missing)| *is_missing).collect();
            if !missing.is_empty() {
                let line = |(flag, _): &&(&str, bool)| format!("worker: needs {flag}, shared with the service");
                return Err(ConfigError(missing.iter().map(line).collect()));
            }
            Task::Work
        }
        Some(("import", arguments)) if arguments.contains_id("from-postgres") => {
            Task::ImportOlder(Box::new(older_of(arguments, &settings, outside)?))
        }
        Some(("import", arguments)) => Task::Import(import_of(arguments, &settings)),
        Some(("export", arguments)) => {
            let output = arguments.get_one("output").cloned();
            Task::Export(export::Config {
                store: settings.config.store.clone(),
                output,
                is_full: arguments.get_flag("full"),
            })
        }
        Some(("backup", arguments)) => {
            let store = settings.config.store.clone();
            if store.is_shareable() {
                return Err(ConfigError::one(
                    "backup",
                    "copies the embedded store; pg_dump backs a PostgreSQL database up",
                ));
            }
            Task::Backup(backup::Config { store, path: one(arguments, "file") })
        }
        Some(("publish", arguments)) => {
            Task::Publish(publish_of(arguments, &settings).map_err(|error| wrong("publish", &error))?)
        }
        #[cfg(feature = "kafka")]
        Some(("dlq", arguments)) => Task::DeadLetters(dlq_of(arguments, &settings)?),
        Some(("healthcheck", arguments)) => {
            let own = || {
                // Without TLS where there is a choice: the question is whether the service is
                // ready.
                let listen = &settings.config.http.listen;
                let plain = listen.iter().find(|endpoint| !matches!(endpoint, Endpoint::Tls(_)));
                let endpoint = plain.unwrap_or(&listen[0]);
                let Some(mut address) = endpoint.address() else { return format!("{endpoint}:/readyz") };
                if address.ip().is_unspecified() {
                    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                let scheme = if plain.is_some() { "http" } else { "https" };
                format!("{scheme}://{address}/readyz")
            };
            let url = arguments.get_one::<String>("url").cloned().unwrap_or_else(own);
            Task::Healthcheck { url, timeout: one(arguments, "timeout") }
        }
        Some(("migrate", arguments)) => Task::Migrate(match arguments.subcommand() {
            Some(("up", arguments)) => Direction::Up {
                is_with_optional: arguments.get_flag("optional"),
                views: arguments.get_many("views").into_iter().flatten().copied().collect(),
            },
            Some(("down", arguments)) => Direction::Down { is_confirmed: arguments.get_flag("yes") },
            _ => Direction::Status,
        }),
        Some(("config", arguments)) if arguments.subcommand_matches("print").is_some() => Task::ConfigPrint,
        Some(("config", _)) => Task::ConfigCheck,
        Some((name, _)) => unreachable!("{name} is no subcommand"),
    };
    if matches!(
        task,
        Task::Serve | Task::Import(_) | Task::Export(_) | Task::Backup(_) | Task::Migrate(_) | Task::ConfigCheck
    ) {
        settings.check_store(outside)?;
    }
    Ok((settings, task))
}

fn key_of(arguments: &ArgMatches) -> Wanted {
    let (_, arguments) = arguments.subcommand().expect("clap asks for one");
    let text = |name: &str| arguments.get_one::<String>(name).cloned();
    Wanted {
        name: one(arguments, "name"),
        scopes: arguments.get_many("scope").into_iter().flatten().cloned().collect(),
        owner: text("owner"),
        rate: text("rate"),
        expires: text("expires"),
    }
}

/// The command line as clap knows it.
#[must_use]
pub fn command() -> Command {
    let command = service_command();
    #[cfg(feature = "kafka")]
    let command = command.subcommand(dlq_command()).subcommand(with_flags(
        Command::new("worker").about("Process what was written over HTTP, and acknowledge it through Kafka"),
    ));
    command
}

fn service_command() -> Command {
    let migrate = Command::new("migrate")
        .about("Bring the store's schema forward or back")
        .subcommand_required(true)
        .subcommand(
            with_flags(Command::new("up").about("Apply what is missing"))
                .arg(switch("optional", "The optional steps too, which make writes slower"))
                .arg(
                    Arg::new("views")
                        .long("views")
                        .value_name("LAYOUT")
                        .action(ArgAction::Append)
                        .value_parser(views)
                        .help(
                            "Read-only views for SQL of an older service: four-tables, one-table or event-driven; may repeat",
                        ),
                ),
        )
        .subcommand(
            with_flags(Command::new("down").about("Take the newest step back, with the data in it"))
                .arg(switch("yes", "Do it; without it is only said what would be lost")),
        )
        .subcommand(with_flags(Command::new("status").about("Say which steps are applied, and change nothing")));
    let config = Command::new("config")
        .about("Look at the settings")
        .subcommand_required(true)
        .subcommand(with_flags(Command::new("check").about("Say whether they are good")))
        .subcommand(with_flags(Command::new("print").about("Show them as they would be used, and where each is from")))
        .subcommand(
            Command::new("convert")
                .about("Write a settings file of an older service as one of this one, with its secrets")
                .arg(
                    Arg::new("file")
                        .value_name("FILE")
                        .value_parser(value_parser!(PathBuf))
                        .required(true)
                        .help("YAML, JSON or TOML"),
                )
                .arg(output_file(
                    "Instead of standard output; readable by its owner only, and never over another file",
                )),
        );
    with_flags(Command::new("order-service"))
        .about("Orders by id, from memory, kept true through a durable store")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .subcommand(with_flags(Command::new("serve").about("Answer requests (the default)")))
        .subcommand(import_command())
        .subcommand(
            with_flags(Command::new("export").about("Write every live order as a line, newest first"))
                .arg(
                    output_file("Instead of standard output"),
                )
                .arg(switch(
                    "full",
                    "Deleted orders too, oldest first, as {\"order\":{…},\"meta\":{…}}: `import` makes the same orders of it elsewhere",
                )),
        )
        .subcommand(
            with_flags(
                Command::new("backup").about("Copy the embedded store into one file, also while the service runs"),
            )
            .arg(
                Arg::new("file")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .required(true)
                    .help("Replaced once the copy is whole, sound and on the disk"),
            ),
        )
        .subcommand(publish_command())
        .subcommand(load_command())
        .subcommand(
            with_flags(Command::new("healthcheck").about("Ask a running service whether it is ready"))
                .arg(Arg::new("url").long("url").value_name("URL").help("Where to ask [default: /readyz of --listen]"))
                .arg(time("timeout", "3s", "How long to wait")),
        )
        .subcommand(keys_command())
        .subcommand(migrate)
        .subcommand(config)
        .subcommand(
            Command::new("completions").about("Write a completion script for a shell").arg(
                Arg::new("shell").required(true).value_parser(value_parser!(clap_complete::Shell)).help("The shell"),
            ),
        )
}

/// The layout of an older service that views are made for.
fn views(text: &str) -> Result<Views, String> {
    let found = Views::ALL.into_iter().find(|views| views.as_str() == text);
    found.ok_or_else(|| "is none of four-tables, one-table and event-driven".into())
}

fn keys_command() -> Command {
    let new = Command::new("new")
        .about("Make a key: the entry for the file of --auth-keys on standard output, the key itself once on standard error")
        .arg(Arg::new("name").value_name("NAME").required(true).help("What the caller is called"))
        .arg(
            text("scope", "SCOPE", "What it may do, such as orders:read or orders:read:own; may repeat")
                .action(ArgAction::Append)
                .required(true),
        )
        .arg(text("owner", "OWNER", "Whose orders are its own: user_id or customer_id"))
        .arg(text("rate", "N/s", "Requests a second, instead of --rate-limit"))
        .arg(text("expires", "TIME", "Until when it is good, such as 2027-01-01T00:00:00Z"));
    Command::new("keys").about("Make keys of callers").subcommand_required(true).subcommand(new)
}

fn import_command() -> Command {
    let command =
        Command::new("import").about("Store the orders of a file; an interrupted import goes on where it was");
    let command = with_flags(command)
        .arg(Arg::new("file").value_name("FILE").value_parser(value_parser!(PathBuf)).required(true).help(
            "One order a line; - is standard input. Lines of export --full, with meta in them, are checked as \
                     lenient, whatever --profile says",
        ))
        .arg(Arg::new("rejects").long("rejects").value_name("FILE").value_parser(value_parser!(PathBuf)).help(
            "Where lines that are no valid orders go, with the reasons; as they were, to FILE.raw beside it \
                     [default: FILE.rejected]",
        ));
    command
        .about(
            "Store the orders of a file, or those of an older service's database; an interrupted import goes on where it was",
        )
        .mut_arg("file", |file| file.required(false).required_unless_present("from-postgres"))
        .arg(
            text("from-postgres", "URL", "Database of an older service, which is only read [env: ORDER_FROM_POSTGRES]")
                .num_args(0..=1)
                .default_missing_value("")
                .conflicts_with("file"),
        )
        .arg(
            text("from-schema", "NAME", "Schema of its tables; where its search path finds orders when not given")
                .requires("from-postgres")
                .conflicts_with("file"),
        )
        .arg(
            text("timezone", "ZONE", "What its times without a zone are of, such as Europe/Moscow or +03:00 [default: UTC]")
                .requires("from-postgres")
                .conflicts_with("file"),
        )
        // What is required together with something is not asked for where that is excluded.
        .arg(
            switch("dry-run", "Only count, and say what would be rejected")
                .requires("from-postgres")
                .conflicts_with("file"),
        )
}

/// Where a command writes to.
fn output_file(help: &'static str) -> Arg {
    Arg::new("output").long("output").short('o').value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
}

fn publish_command() -> Command {
    let command = Command::new("publish").about("Send sample orders, or those of a file, to a running service");
    // Settings under names that suit this command; they are checked as settings are.
    #[cfg(feature = "kafka")]
    let command = command
        .about("Send sample orders, or those of a file, to a running service, to Kafka or to NATS")
        .arg(text("kafka.brokers", "BROKERS", "Kafka instead of the service").long("kafka").conflicts_with("http"))
        .arg(
            text("kafka.topic", "TOPIC", "The topic there [default: orders] [env: KAFKA_TOPIC]")
                .long("topic")
                .requires("kafka.brokers"),
        )
        .arg(
            text("kafka.property", "NAME=VALUE", "Property of librdkafka; may repeat")
                .long("kafka-property")
                .action(ArgAction::Append)
                .requires("kafka.brokers"),
        );
    let command = command
        .arg(text("nats.url", "URL", "NATS JetStream instead of the service").long("nats").conflicts_with("http"))
        .arg(
            text("nats.subject", "SUBJECT", "The subject there [default: orders] [env: NATS_SUBJECT]")
                .long("subject")
                .requires("nats.url"),
        );
    let command = command
        .arg(
            text("stan.url", "URL", "NATS Streaming instead of the service")
                .long("stan")
                .conflicts_with_all(["http", "nats.url"]),
        )
        .arg(
            text("stan.cluster", "NAME", "Its cluster [default: test-cluster] [env: STAN_CLUSTER_ID]")
                .long("stan-cluster")
                .requires("stan.url"),
        )
        .arg(
            text("stan.subject", "CHANNEL", "The channel there [default: orders] [env: STAN_SUBJECT]")
                .long("channel")
                .requires("stan.url"),
        );
    #[cfg(feature = "kafka")]
    let command = command
        .mut_arg("nats.url", |arg| arg.conflicts_with("kafka.brokers"))
        .mut_arg("stan.url", |arg| arg.conflicts_with("kafka.brokers"));
    command
        .arg(
            text("http", "URL", "The service; a path in it comes before /orders")
                .default_value("http://127.0.0.1:8080"),
        )
        .arg(number("count", "N", "How many sample orders").default_value("1000"))
        .arg(rate("rate", "Orders per second; as fast as they are taken when not given"))
        .arg(
            Arg::new("invalid")
                .long("invalid")
                .value_name("SHARE")
                .value_parser(share)
                .default_value("0")
                .conflicts_with("file")
                .help("The share of orders made invalid on purpose, from 0 to 1"),
        )
        .arg(
            Arg::new("file")
                .long("file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Orders of a file, one a line, instead of samples; - is standard input"),
        )
        .arg(
            Arg::new("kind")
                .long("kind")
                .value_name("KIND")
                .value_parser(["wb", "envelope"])
                .default_value("wb")
                .help("Which kind of sample orders"),
        )
        .arg(number("connections", "N", "Connections at once").default_value("32"))
        .arg(number("seed", "N", "Which samples").default_value("0"))
        .arg(switch("allow-remote", "Allow a service that is not on this machine"))
}

#[cfg(feature = "kafka")]
fn dlq_command() -> Command {
    let place = |name: &'static str, help: &'static str| {
        Arg::new(name).value_name("PARTITION:OFFSET").value_parser(|text: &str| text.parse::<Place>()).help(help)
    };
    Command::new("dlq")
        .about("Look at messages that were no valid orders, and send them back")
        .subcommand_required(true)
        .subcommand(
            with_flags(Command::new("list").about("Show a line for each, newest last"))
                .arg(number("limit", "N", "At most so many, the newest").default_value("100"))
                .arg(switch("json", "As JSON objects with everything in them, one a line")),
        )
        .subcommand(
            with_flags(Command::new("show").about("Show all of one")).arg(place("place", "Which one").required(true)),
        )
        .subcommand(
            with_flags(Command::new("replay").about("Send them back to the topic they came from"))
                .arg(
                    place("places", "Which ones")
                        .action(ArgAction::Append)
                        .num_args(1..)
                        .required_unless_present("all")
                        .conflicts_with("all"),
                )
                .arg(switch("all", "All that are there"))
                .arg(text("topic", "TOPIC", "To this topic instead").value_parser(topic))
                .arg(switch("yes", "Send; without it is only said what would be sent")),
        )
}

fn load_command() -> Command {
    Command::new("load")
        .about("Read from a running service at a fixed rate and report latencies")
        .arg(
            text("url", "URL", "The service; a path in it comes before every path asked for")
                .default_value("http://127.0.0.1:8080"),
        )
        .arg(text("path", "PATH", "Ask for this path instead of orders").action(ArgAction::Append))
        .arg(text("id", "ID", "Ask for this order; may repeat").action(ArgAction::Append))
        .arg(
            Arg::new("ids-file")
                .long("ids-file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Ask for orders of these ids, one a line, at random"),
        )
        .arg(number("sample", "N", "Ask for the first N sample orders at random").default_value("1"))
        .arg(rate("rate", "Requests per second; without it each connection asks again once it is answered"))
        .arg(time("duration", "10s", "How long is measured"))
        .arg(time("warm-up", "1s", "How long is not measured, before that"))
        .arg(number("count", "N", "Stop after this many requests, whatever the duration"))
        .arg(number("connections", "N", "Connections").default_value("64"))
        .arg(time("timeout", "5s", "How long an answer is waited for"))
        .arg(text("header", "NAME: VALUE", "Header field of every request; may repeat").action(ArgAction::Append))
        .arg(
            Arg::new("expect")
                .long("expect")
                .value_name("STATUS")
                .value_parser(value_parser!(u16))
                .default_value("200")
                .help("The status that counts as right"),
        )
        .arg(switch("strict", "Fail when any answer is wrong, not only when all are"))
        .arg(
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write the report as JSON; - is standard output"),
        )
        .arg(number("seed", "N", "Which orders at random").default_value("0"))
        .arg(switch("allow-remote", "Allow a service that is not on this machine"))
}

/// Where the URL of an older database is from, when it is not on the command line.
pub(super) const FROM_POSTGRES: &str = "ORDER_FROM_POSTGRES";

fn older_of(arguments: &ArgMatches, settings: &Settings, outside: &Outside) -> Result<older::Config, ConfigError> {
    let given = arguments.get_one::<String>("from-postgres").filter(|url| !url.is_empty());
    let (place, url) = match given {
        Some(url) => ("--from-postgres".to_owned(), url.clone()),
        None => super::secret(FROM_POSTGRES, outside)?.ok_or_else(|| {
            ConfigError::one(
                "--from-postgres",
                format!("needs a URL, here or in {FROM_POSTGRES} or {FROM_POSTGRES}_FILE"),
            )
        })?,
    };
    // Of the service's own settings it is no more than not asked.
    let is_asked = |found: &super::Resolved| found.key == "profile" && found.origin == super::Origin::Flag;
    if settings.found.iter().any(is_asked) {
        return Err(ConfigError::one(
            "--profile",
            "changes nothing with --from-postgres, whose orders are checked as lenient",
        ));
    }
    let server = parse_postgres(&url).map_err(|error| ConfigError::one(&place, error))?;
    let zone = arguments.get_one::<String>("timezone").map(|zone| older::Zone::parse(zone)).transpose();
    let zone = zone.map_err(|error| ConfigError::one("--timezone", error))?;
    let schema = arguments.get_one::<String>("from-schema").cloned();
    if schema.as_ref().is_some_and(|name| name.is_empty() || name.contains('\0')) {
        return Err(ConfigError::one("--from-schema", "must be the name of the schema that its table orders is in"));
    }
    let config = &settings.config;
    let name = server.database().unwrap_or("orders").replace(['/', '\0'], "_");
    let rejects = arguments.get_one("rejects").cloned().unwrap_or_else(|| PathBuf::from(format!("{name}.rejected")));
    Ok(older::Config {
        older: crate::tools::older::Source { server, schema, timezone: zone.unwrap_or_default() },
        rejects,
        is_dry_run: arguments.get_flag("dry-run"),
        store: config.store.clone(),
        ingest: config.ingest.clone(),
    })
}

fn import_of(arguments: &ArgMatches, settings: &Settings) -> import::Config {
    let path: PathBuf = one(arguments, "file");
    let rejects = arguments.get_one("rejects").cloned().unwrap_or_else(|| {
        // Beside a pipe there is no place for a file.
        let is_pipe = path.as_os_str() == "-" || std::fs::metadata(&path).is_ok_and(|found| !found.is_file());
        if is_pipe {
            return "stdin.rejected".into();
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".rejected");
        path.with_file_name(name)
    });
    let mut ingest = settings.config.ingest.clone();
    // No one waits for single orders of an import: full batches are what counts.
    ingest.batch.linger = Duration::from_millis(50);
    import::Config { path, rejects, store: settings.config.store.clone(), ingest }
}

fn publish_of(arguments: &ArgMatches, settings: &Settings) -> anyhow::Result<publish::Config> {
    Ok(publish::Config {
        target: publish_target(arguments, settings)?,
        count: one(arguments, "count"),
        rate: arguments.get_one("rate").copied(),
        invalid: one(arguments, "invalid"),
        file: arguments.get_one("file").cloned(),
        seed: one(arguments, "seed"),
        kind: if one::<String>(arguments, "kind") == "wb" { publish::Kind::Wb } else { publish::Kind::Envelope },
        // As long as a service may take to stop and start again.
        patience: Duration::from_secs(30),
    })
}

fn publish_target(arguments: &ArgMatches, settings: &Settings) -> anyhow::Result<publish::Target> {
    let allow_remote = arguments.get_flag("allow-remote");
    // Brokers of the environment are those of the service, which is what is meant as long as no flag says otherwise.
    #[cfg(feature = "kafka")]
    if let Some(kafka) = &settings.config.kafka
        && settings.found.iter().any(|found| found.key == "kafka.brokers" && found.origin == Origin::Flag)
    {
        return Ok(publish::Target::Kafka(Box::new(Cluster::parse(kafka.clone(), allow_remote)?)));
    }
    if let Some(nats) = &settings.config.nats
        && settings.found.iter().any(|found| found.key == "nats.url" && found.origin == Origin::Flag)
    {
        let servers = publish::nats::Servers::parse(nats.clone(), allow_remote)?;
        return Ok(publish::Target::Nats(Box::new(servers)));
    }
    if let Some(stan) = &settings.config.stan
        && settings.found.iter().any(|found| found.key == "stan.url" && found.origin == Origin::Flag)
    {
        let cluster = publish::stan::Cluster::parse(stan.clone(), allow_remote)?;
        return Ok(publish::Target::Stan(Box::new(cluster)));
    }
    let server = Server::parse(&one::<String>(arguments, "http"), allow_remote)?;
    let connections = usize::try_from(one::<u64>(arguments, "connections"))?.max(1);
    Ok(publish::Target::Http { server, connections })
}

#[cfg(feature = "kafka")]
fn dlq_of(arguments: &ArgMatches, settings: &Settings) -> Result<dlq::Config, ConfigError> {
    let Some(kafka) = settings.config.kafka.clone() else {
        return Err(ConfigError::one("--kafka", "dlq must know where Kafka is (also by KAFKA_BROKERS)"));
    };
    let command = match arguments.subcommand() {
        Some(("show", arguments)) => dlq::Command::Show(one(arguments, "place")),
        Some(("replay", arguments)) => dlq::Command::Replay {
            which: match arguments.get_many("places") {
                Some(places) => Which::At(places.copied().collect()),
                None => Which::All,
            },
            topic: arguments.get_one("topic").cloned(),
            is_confirmed: arguments.get_flag("yes"),
        },
        list => {
            let (_, arguments) = list.expect("a subcommand is required");
            let count_max = usize::try_from(one::<u64>(arguments, "limit")).unwrap_or(usize::MAX);
            dlq::Command::List { count_max, is_json: arguments.get_flag("json") }
        }
    };
    Ok(dlq::Config { kafka, command })
}

fn load_of(arguments: &ArgMatches) -> anyhow::Result<load::Config> {
    let many = |name: &str| arguments.get_many::<String>(name).into_iter().flatten().cloned().collect::<Vec<_>>();
    let mut paths = many("path");
    paths.extend(many("id").iter().map(|id| format!("/order/{id}")));
    if let Some(file) = arguments.get_one::<PathBuf>("ids-file") {
        let ids = std::fs::read_to_string(file)
            .map_err(|error| anyhow::anyhow!("--ids-file: {}: {error}", file.display()))?;
        paths.extend(ids.lines().filter(|id| !id.trim().is_empty()).map(|id| format!("/order/{}", id.trim())));
    }
    if paths.is_empty() {
        paths.extend(load::sample_paths(one(arguments, "sample")));
    }
    let mut headers = Vec::new();
    for header in many("header") {
        // It may be a secret, and is not repeated.
        let field = header.split_once(':').and_then(|(name, value)| {
            Some((HeaderName::try_from(name.trim()).ok()?, HeaderValue::try_from(value.trim()).ok()?))
        });
        let invalid = || anyhow::anyhow!("invalid --header: expected NAME: VALUE, e.g. Accept: text/plain");
        headers.push(field.ok_or_else(invalid)?);
    }
    Ok(load::Config {
        server: Server::parse(&one::<String>(arguments, "url"), arguments.get_flag("allow-remote"))?,
        paths: Arc::from(paths),
        rate: arguments.get_one("rate").copied(),
        duration: one(arguments, "duration"),
        warm_up: one(arguments, "warm-up"),
        connections: usize::try_from(one::<u64>(arguments, "connections"))?.max(1),
        timeout: one(arguments, "timeout"),
        headers,
        expect: one(arguments, "expect"),
        seed: one(arguments, "seed"),
        count: arguments.get_one("count").copied(),
        is_strict: arguments.get_flag("strict"),
    })
}

fn wrong(command: &str, error: &anyhow::Error) -> ConfigError {
    ConfigError(vec![format!("{command}: {error:#}")])
}

/// The value of an argument that is required or has a default.
fn one<T: Clone + Send + Sync + 'static>(arguments: &ArgMatches, name: &str) -> T {
    arguments.get_one::<T>(name).expect("required, or has a default").clone()
}

fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn number(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    text(name, value, help).value_parser(value_parser!(u64))
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn time(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    text(name, "TIME", help).value_parser(duration).default_value(default)
}

/// One request in a thousand seconds. The pause of a rate close to 0 would overflow a `Duration`.
const RATE_MIN: f64 = 0.001;

fn rate(name: &'static str, help: &'static str) -> Arg {
    text(name, "RATE", help).value_parser(|text: &str| match text.parse::<f64>() {
        Ok(rate) if rate >= RATE_MIN && rate.is_finite() => Ok(rate),
        _ => Err(format!("{text:?} is no rate of at least {RATE_MIN}")),
    })
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("{text:?} is no share from 0 to 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_usage_error(line: &[&str]) -> bool {
        command().try_get_matches_from(std::iter::once(&"order-service").chain(line)).is_err()
    }

    #[test]
    fn a_rate_too_low_to_wait_for_is_a_usage_error() {
        for tool in ["load", "publish"] {
            assert!(is_usage_error(&[tool, "--rate", "1e-300"]));
            assert!(is_usage_error(&[tool, "--rate", "0.0009"]));
            assert!(!is_usage_error(&[tool, "--rate", "0.001"]));
        }
    }

    #[test]
    fn what_is_for_a_database_is_refused_beside_a_file() {
        for flags in [&["--dry-run"][..], &["--timezone", "UTC"], &["--from-schema", "shop"]] {
            let line = [&["order-service", "import", "orders.ndjson"], flags].concat();
            let error = command().try_get_matches_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(flags[0]), "{error}");
            assert!(!is_usage_error(&[&["import", "--from-postgres", "postgres://h/d"], flags].concat()));
        }
    }

    #[test]
    fn orders_of_a_file_are_not_made_invalid() {
        assert!(is_usage_error(&["publish", "--file", "x", "--invalid", "0.5"]));
        assert!(!is_usage_error(&["publish", "--file", "x"]));
    }
}
