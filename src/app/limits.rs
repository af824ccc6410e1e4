//! What the system allows this process: open files, and so connections; huge pages; core dumps.

use super::config::Config;

/// Each connection is a file: take as many as the system gives. Returns how many that is, if there is a limit.
pub(super) fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current
}

/// Files that are left for all but clients: the store's, what is connected to brokers and caches, listeners.
const FILES_KEPT: u64 = 256;

/// Takes no more connections than there can be beside [`FILES_KEPT`] other files. Without that, clients would take the
/// last file from the store, and each other.
pub(super) fn fit_connections(config: &mut Config, files_max: Option<u64>) {
    let Some(files_max) = files_max else { return };
    let http = config.http.connections_max as u64;
    let grpc = config.grpc.listen.as_ref().map_or(0, |_| u64::from(config.grpc.connections_max));
    let [http_fit, grpc_fit] = fitting([http, grpc], files_max);
    if (http_fit, grpc_fit) == (http, grpc) {
        return;
    }
    config.http.connections_max = usize::try_from(http_fit).unwrap_or(usize::MAX);
    if config.grpc.listen.is_some() {
        config.grpc.connections_max = u32::try_from(grpc_fit).unwrap_or(u32::MAX);
    }
    tracing::warn!(
        files_max,
        http_connections_max = http_fit,
        grpc_connections_max = (grpc > 0).then_some(grpc_fit),
        "the limit of open files allows fewer connections than are set"
    );
}

/// What of the wanted connections there can be, each in proportion. Where files are few, half of them are kept.
fn fitting(wanted: [u64; 2], files_max: u64) -> [u64; 2] {
    let sum = wanted.map(u128::from).iter().sum::<u128>();
    let room = u128::from(files_max - FILES_KEPT.min(files_max / 2));
    if sum <= room {
        return wanted;
    }
    let share = |wanted: u64| u128::from(wanted) * room / sum;
    wanted.map(|wanted| u64::try_from(share(wanted)).unwrap_or(u64::MAX).max(wanted.min(1)))
}

/// Memory of this process comes in small pages from here on (Linux; elsewhere nothing changes). Anyone who touches a huge
/// page first waits until all of it is cleared, and everyone beside them for the memory that takes.
pub fn small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "cannot do without huge pages");
    }
}

/// The kernel writes no core dump of this process: keys and people's data would be in it. The hard limit stays, so `prlimit --core` can
/// allow one where a fault is looked for.
///
/// # Errors
/// When the system does not let the limit be lowered.
pub fn no_core_dump() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let none = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
    Ok(setrlimit(Resource::Core, none)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_all_else() {
        assert_eq!(fitting([20_000, 0], 1_048_576), [20_000, 0]);
        assert_eq!(fitting([20_000, 0], 20_256), [20_000, 0]);
        assert_eq!(fitting([20_000, 0], 1024), [768, 0]);
        assert_eq!(fitting([20_000, 1000], 1306), [1000, 50]);
        assert_eq!(fitting([20_000, 0], 100), [50, 0]);
        assert_eq!(fitting([20_000, 1], 3), [1, 1]);
        assert_eq!(fitting([u64::MAX, u64::MAX], 1306), [525, 525]);
    }
}
