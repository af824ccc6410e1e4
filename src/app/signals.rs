//! Signals of the system: SIGTERM and SIGINT stop the process, SIGHUP has it read files again.

use crate::process::lifecycle::Reload;

/// SIGTERM and SIGINT. A second one ends the process at once. SIGHUP asks to read again what may
/// have changed, and ends nothing.
pub(super) struct StopSignal(tokio::sync::mpsc::Receiver<&'static str>);

pub(super) fn stop_signal(reload: Reload) -> anyhow::Result<StopSignal> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    let message = if reload.ask() { "reading files again" } else { "nothing to reload" };
                    tracing::info!(signal = "SIGHUP", "{message}");
                    continue;
                }
            };
            if sender.send(name).await.is_err() {
                tracing::warn!(signal = name, "stopped at once; nothing acknowledged is lost");
                #[expect(clippy::exit, clippy::disallowed_methods, reason = "asked for twice")]
                std::process::exit(1);
            }
        }
    });
    Ok(StopSignal(receiver))
}

impl StopSignal {
    pub(super) async fn wait(mut self) -> &'static str {
        self.0.recv().await.unwrap_or("none")
    }
}
