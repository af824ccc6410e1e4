//! What the process does: one `match` on the command. Here and not in the binary, which is then built in no time and
//! holds nothing twice.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::access::keys::Wanted;
use crate::process::{lifecycle, log};
use crate::settings::commands::{Task, command, task};
use crate::settings::{ConfigError, Outside, Settings};
use crate::store::any::OpenError;
#[cfg(feature = "kafka")]
use crate::tools::dlq;
use crate::tools::load::Json;
use crate::tools::older;
use crate::tools::{backup, export, healthcheck, import, load, migrate, output, publish};
use crate::{access, app};

/// A command line that cannot be understood.
const EXIT_USAGE: u8 = 2;
/// Settings that cannot be used (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;

/// Does what the command line asks for, and says how it ended.
pub fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(usage) if usage.use_stderr() => {
            let _ = usage.print();
            return ExitCode::from(EXIT_USAGE);
        }
        // Help and version.
        Err(help) => {
            let shown = help.print().and_then(|()| std::io::stdout().flush());
            return ended(shown.map_err(|error| output::mark(error).into()));
        }
    };
    let (settings, task) = match Outside::of_process().and_then(|outside| task(&matches, &outside)) {
        Ok(read) => read,
        Err(wrong) => return refuse(&wrong),
    };
    if let Err(error) = app::no_core_dump() {
        output::note(format_args!("warning: a crash may leave keys and orders in a core dump: {error}")); // there is no log yet
    }
    ended(run(task, settings))
}

/// Says how a command ended.
fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // As with `order-service export | head`.
        Err(error) if output::is_unread(&error) => ExitCode::SUCCESS,
        // A store that the settings lead to and that cannot be used is a fault of the settings.
        Err(error) if error.downcast_ref().is_some_and(OpenError::is_configuration) => {
            refuse(&ConfigError(vec![format!("{error:#}")]))
        }
        Err(error) => {
            output::note(format_args!("order-service: {error:#}"));
            let is_older = error.downcast_ref().is_some_and(older::OlderError::is_configuration);
            if is_older || app::is_unfit(&error) { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn run(task: Task, settings: Settings) -> anyhow::Result<()> {
    let config = &settings.config;
    match task {
        Task::Serve => {
            log::start(config.log, &config.log_filter);
            warn_of_unused(&settings);
            app::serve(settings.config).map_err(|error| Settings::named(&settings.found, error))
        }
        #[cfg(feature = "kafka")]
        Task::Work => {
            log::start(config.log, &config.log_filter);
            warn_of_unused(&settings);
            app::work(settings.config).map_err(|error| Settings::named(&settings.found, error))
        }
        Task::Import(import) => {
            log::start(config.log, &config.log_filter);
            warn_of_unused(&settings);
            run_import(|shutdown| import::run(import, shutdown))
        }
        Task::ImportOlder(older) => {
            log::start(config.log, &config.log_filter);
            warn_of_unused(&settings);
            run_import(|shutdown| older::run(*older, shutdown))
        }
        Task::Export(export) => runtime(1)?.block_on(export::run(&export)).map(|_| ()),
        Task::Backup(backup) => runtime(1)?.block_on(backup::run(&backup)),
        Task::Publish(publish) => runtime(2)?.block_on(publish::run(publish)).map(|_| ()),
        #[cfg(feature = "kafka")]
        Task::DeadLetters(dlq) => dlq::run(&dlq),
        Task::Load(load, json) => run_load(load, json),
        Task::Healthcheck { url, timeout } => runtime(1)?.block_on(healthcheck::run(&url, timeout)),
        Task::NewKey(wanted) => new_key(&wanted),
        Task::Migrate(direction) => runtime(1)?.block_on(migrate::run(&config.store, direction)),
        Task::ConfigCheck => {
            app::check_files(config).map_err(|error| Settings::named(&settings.found, error.into()))?;
            for line in &settings.unused {
                output::note(format_args!("order-service: configuration: {line}"));
            }
            Ok(output::print("settings are good\n")?)
        }
        Task::ConfigPrint => {
            for line in &settings.unused {
                output::note(format_args!("order-service: configuration: {line}"));
            }
            Ok(output::print(&settings.print())?)
        }
        Task::ConfigConvert(text, to) => run_convert(&text, to.as_deref()),
        Task::Completions(shell) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "order-service", &mut script);
            Ok(output::print(&String::from_utf8_lossy(&script))?)
        }
    }
}

fn new_key(wanted: &Wanted) -> anyhow::Result<()> {
    let made = access::keys::generate(wanted)?;
    output::print(&made.entry)?;
    // Not on standard output, which may be the end of the file that holds no key.
    output::note(format_args!("key, shown this once: {}", made.key));
    Ok(())
}

fn warn_of_unused(settings: &Settings) {
    for line in &settings.unused {
        tracing::warn!("{line}");
    }
}

fn refuse(wrong: &ConfigError) -> ExitCode {
    for line in &wrong.0 {
        output::note(format_args!("order-service: configuration: {line}"));
    }
    ExitCode::from(EXIT_CONFIG)
}

fn runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// How long an import that is told to stop may take for what is under way, as a service may by default.
const STOP_TIME: Duration = Duration::from_secs(30);

fn run_import<I>(import: impl FnOnce(lifecycle::Shutdown) -> I) -> anyhow::Result<()>
where
    I: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    runtime(1)?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let (trigger, shutdown) = lifecycle::shutdown();
        let import = tokio::spawn(import(shutdown));
        let abort = import.abort_handle();
        tokio::spawn(async move {
            // Without a signal the trigger must live as long as the import.
            tokio::select! {
                Ok(()) = tokio::signal::ctrl_c() => {}
                Some(()) = terminate.recv() => {}
                else => std::future::pending().await,
            }
            trigger.fire();
            tokio::time::sleep(STOP_TIME).await;
            abort.abort(); // what is stored is noted with its position, so nothing is lost
        });
        match import.await {
            Err(error) if error.is_cancelled() => {
                Err(anyhow::anyhow!("interrupted while the store took nothing; the same command goes on from here"))
            }
            ended => ended?,
        }
    })
}

fn run_convert(text: &str, to: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = to else { return Ok(output::print(text)?) };
    // There may be passwords in it.
    let mut file = std::fs::OpenOptions::new();
    let file = file.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn run_load(load: load::Config, json: Option<Json>) -> anyhow::Result<()> {
    app::small_pages(); // a wait for memory here would look like one of the service
    // One thread: the load is open-loop, and the other cores are for the service under load.
    let report = runtime(1)?.block_on(load::run(load))?;
    let shown = match json {
        None => output::print(&report.text()),
        Some(Json::Stdout) => {
            output::note(report.text().trim_end());
            output::print(&format!("{:#}\n", report.json()))
        }
        Some(Json::File(path)) => {
            std::fs::write(&path, format!("{:#}\n", report.json()))
                .with_context(|| format!("cannot write {}", path.display()))?;
            output::print(&report.text())
        }
    };
    // Also for a reader who has seen enough.
    report.check()?;
    Ok(shown?)
}
