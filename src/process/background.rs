//! Threads for work that keeps a core busy and that no one waits for to the millisecond: they give way to all others.

use std::io;

use tokio::sync::oneshot;

/// How far such threads stand back: next to one that answers they get a tenth of a core, beside an idle core all of it.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// How far threads stand back that publish what is committed: beside one that takes orders in they
/// get a quarter of a core, and what they have not come to is recorded.
#[cfg(target_os = "linux")]
const PUBLISHING_NICE: i32 = 5;

/// Has this thread, and those that it starts, give way to those that take orders in and answer.
pub fn publish_behind() {
    #[cfg(target_os = "linux")]
    stand_back(PUBLISHING_NICE);
}

/// On Linux it holds for this thread and those that it starts alone.
#[cfg(target_os = "linux")]
fn stand_back(by: i32) {
    if let Err(error) = rustix::process::nice(by) {
        tracing::debug!(%error, "a thread in the background has the rank of all others");
    }
}

/// Does the work on a thread of its own. A thread that answers gets a core as soon as it wakes up; from one of its own
/// rank, which never waits, it would get it only when that one's slice of time is over, which is milliseconds.
///
/// The work begins at once, and goes on if no one waits for its result any more.
///
/// # Errors
/// The system gives no thread, or the work panics.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = io::Result<T>> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        #[cfg(target_os = "linux")]
        stand_back(NICE);
        let _ = done.send(work());
    });
    async move {
        thread?;
        result.await.map_err(|_| io::Error::other(format!("the thread \"{name}\" panicked")))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::getpriority_process;

    #[tokio::test]
    async fn gives_way_alone() {
        let before = getpriority_process(None).unwrap();
        let there = super::spawn("test", || getpriority_process(None).unwrap()).await.unwrap();
        assert_eq!(there, (before + super::NICE).min(19));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }

    #[tokio::test]
    async fn tells_of_a_panic() {
        let error = super::spawn("test", || panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.to_string(), "the thread \"test\" panicked");
    }
}
