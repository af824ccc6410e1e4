//! order-service: one `match` on the command.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use order_service::settings::{Outside, Settings, Wrong, with_flags};
use order_service::tools::migrate::Direction;
use order_service::tools::{export, import, migrate};
use order_service::{app, lifecycle, log};

/// Reads are served from many threads and orders freed on others than they were made on: mimalloc is good at both.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Settings that cannot be used (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let settings = match Outside::of_process().and_then(|outside| Settings::load(&matches, &outside)) {
        Ok(settings) => settings,
        Err(wrong) => return refuse(&wrong),
    };
    let config = settings.config.clone();
    let result = match matches.subcommand() {
        None | Some(("serve", _)) => {
            log::start(config.log, &config.log_filter);
            app::serve(config)
        }
        Some(("import", arguments)) => run_import(config, arguments),
        Some(("export", arguments)) => {
            let output = arguments.get_one::<PathBuf>("output").cloned();
            export::run(&export::Config { store: config.store, output }).map(|_| ())
        }
        Some(("migrate", arguments)) => migrate::run(&config.store, direction(arguments)),
        Some(("config", arguments)) => {
            match arguments.subcommand() {
                Some(("print", _)) => tell(&settings.print()),
                _ => tell("settings are good\n"),
            }
            Ok(())
        }
        Some(("completions", arguments)) => {
            let shell = *arguments.get_one::<clap_complete::Shell>("shell").expect("required");
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "order-service", &mut script);
            tell(&String::from_utf8_lossy(&script));
            Ok(())
        }
        Some((name, _)) => unreachable!("{name} is no subcommand"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("order-service: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output, where nobody may be reading.
fn tell(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn refuse(wrong: &Wrong) -> ExitCode {
    for line in &wrong.0 {
        eprintln!("order-service: configuration: {line}");
    }
    ExitCode::from(EXIT_CONFIG)
}

fn command() -> Command {
    let serve = with_flags(Command::new("serve").about("Answer requests (the default)"));
    with_flags(Command::new("order-service"))
        .about("Orders by id, from memory, kept true through a durable store")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .subcommand(serve)
        .subcommand(
            with_flags(Command::new("import").about("Store the orders of a file"))
                .arg(path("file", "FILE").required(true).help("One order a line; - is standard input"))
                .arg(
                    path("rejects", "FILE")
                        .long("rejects")
                        .help("Where lines that are no valid orders go [default: FILE.rejected]"),
                ),
        )
        .subcommand(
            with_flags(Command::new("export").about("Write every live order as a line, newest first"))
                .arg(path("output", "FILE").long("output").short('o').help("Instead of standard output")),
        )
        .subcommand(
            Command::new("migrate")
                .about("Bring the store's schema forward or back")
                .subcommand_required(true)
                .subcommand(with_flags(Command::new("up").about("Apply what is missing")))
                .subcommand(
                    with_flags(Command::new("down").about("Take the newest step back, with the data in it"))
                        .arg(Arg::new("yes").long("yes").action(ArgAction::SetTrue).help("Delete the orders in it")),
                )
                .subcommand(with_flags(Command::new("status").about("Say which steps are applied"))),
        )
        .subcommand(
            Command::new("config")
                .about("Look at the settings")
                .subcommand_required(true)
                .subcommand(with_flags(Command::new("check").about("Say whether they are good")))
                .subcommand(with_flags(Command::new("print").about("Show them as they would be used"))),
        )
        .subcommand(
            Command::new("completions").about("Write a completion script for a shell").arg(
                Arg::new("shell").required(true).value_parser(value_parser!(clap_complete::Shell)).help("The shell"),
            ),
        )
}

fn path(name: &'static str, value: &'static str) -> Arg {
    Arg::new(name).value_name(value).value_parser(value_parser!(PathBuf))
}

fn direction(arguments: &ArgMatches) -> Direction {
    match arguments.subcommand() {
        Some(("up", _)) => Direction::Up,
        Some(("down", arguments)) => Direction::Down { is_confirmed: arguments.get_flag("yes") },
        _ => Direction::Status,
    }
}

fn run_import(config: app::Config, arguments: &ArgMatches) -> anyhow::Result<()> {
    log::start(config.log, &config.log_filter);
    let path = arguments.get_one::<PathBuf>("file").expect("required").clone();
    let rejects = arguments.get_one::<PathBuf>("rejects").cloned().unwrap_or_else(|| {
        let name = path.file_name().filter(|name| *name != "-").unwrap_or("stdin".as_ref());
        let mut name = name.to_owned();
        name.push(".rejected");
        path.with_file_name(name)
    });
    let mut ingest = config.ingest;
    // An import has nobody waiting for single orders: full batches are what counts.
    ingest.batch.linger = Duration::from_millis(50);
    let import = import::Config { path, rejects, store: config.store, ingest };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let (trigger, shutdown) = lifecycle::shutdown();
        let import = tokio::spawn(import::run(import, shutdown));
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                trigger.fire();
            }
            std::future::pending::<()>().await;
        });
        import.await?
    })
}
