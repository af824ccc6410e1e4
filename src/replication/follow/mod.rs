//! Keeps the view true where other instances write to the same store: they tell of what they change as they change it,
//! and the store is asked a few times a second, so that nothing depends on being told.

mod count;
mod metrics;
mod reload;
mod telling;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cache::feed::Event;
use crate::cache::{Paused, View};
use crate::id::OrderId;
use crate::process::lifecycle::{Gate, Shutdown, Switch};
use crate::redis::Redis;
use crate::snapshot::Snapshot;
use crate::store::{Changes, Peers, Presence, Store, StoreError};

pub use count::count;
pub use metrics::register;
pub use telling::{Reason, Telling};

/// How often the store is asked. An order changed elsewhere that no one told of is shown this much later, far within
/// the second that a copy may be kept.
const EVERY: Duration = Duration::from_millis(200);
/// As long as they are heard themselves.
const EVERY_BESIDE_NEWS: Duration = Duration::from_millis(600);
/// How long the store may take to say what others changed. After that the view counts as a part of what is stored, though
/// the answer is still waited for.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// How often live orders are counted that others may store, where not all are in memory.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// How long a count waits until nothing is being committed, and what is to be committed for a count to begin.
const COUNT_WAIT: Duration = Duration::from_millis(250);
/// How long a start waits to hear the others. Without that the store is asked.
const NEWS_WAIT: Duration = Duration::from_secs(5);

/// What the instances on one store tell each other of their changes, beside what the store says.
#[derive(Default)]
pub struct News {
    /// What others tell is shown as it comes.
    pub heard: Switch,
    /// When this instance tells; one that does also hears. `None` where neither is.
    pub telling: Option<Telling>,
}

/// Looks in a row at which all others must have said that they publish before what they tell is
/// relied upon: one of them may have been about to stop at the first.
const TOLD_LOOKS: u8 = 2;

/// Follows until `shutdown`. While others write and not all of them publish, or not all they say is
/// heard, the view counts as a part of what is stored, so that an unknown id is looked up in the
/// store.
///
/// `news` is what others tell of their changes; what it hears it shows by itself. `begun` is told once everything from here on will be seen, and once the others can be sure to know of this process:
/// only then may it scan the store and write to it. Until then the gate says what the store is waited for; a store that is
/// not for this program is not waited for. `needed` is closed for as long as the store does not answer later on.
pub async fn run<T: Store>(
    view: Arc<View>,
    store: T,
    redis: Option<Redis>,
    news: News,
    (begun, gate): (oneshot::Sender<Result<(), StoreError>>, Gate),
    needed: Option<Gate>,
    mut shutdown: Shutdown,
) {
    if store.is_shareable() {
        tokio::spawn(reload::run(Arc::clone(&view), store.clone(), redis.clone(), shutdown.clone()));
    }
    let follows = news.telling.is_some();
    store.appear_as(Presence { follows, publishes: false });
    let mut follower = Follower {
        view,
        store,
        redis,
        news,
        begun: Some(begun),
        gate,
        needed,
        follows,
        told_looks: 0,
        was_shared: false,
        is_failing: false,
        is_silent: false,
        counting: None,
        counted: None,
    };
    while let Some((looked, paused)) = follower.look(&mut shutdown).await {
        match looked {
            Ok(changes) => {
                follower.answered(&changes, paused);
                if let Some(begun) = follower.begun.take() {
                    follower.hear_others().await;
                    let _ = begun.send(Ok(()));
                    if !follower.store.is_shareable() {
                        return;
                    }
                }
                follower.view.set_shared(follower.was_shared && !follower.is_told());
            }
            Err(error @ StoreError::Unfit(_)) if follower.begun.is_some() => {
                let _ = follower.begun.take().map(|begun| begun.send(Err(error)));
                return;
            }
            Err(error) => follower.failed(&error),
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(if follower.is_told() { EVERY_BESIDE_NEWS } else { EVERY }) => {}
        }
    }
}

/// What is known of the store and of the other instances, from one look to the next.
struct Follower<T> {
    view: Arc<View>,
    store: T,
    redis: Option<Redis>,
    news: News,
    /// Who waits for the beginning; `None` once they are told.
    begun: Option<oneshot::Sender<Result<(), StoreError>>>,
    /// Closed while the store is waited for before the beginning.
    gate: Gate,
    /// The same afterwards.
    needed: Option<Gate>,
    /// Whether this instance hears what others publish.
    follows: bool,
    /// Looks in a row at which all others said that they publish, up to [`TOLD_LOOKS`].
    told_looks: u8,
    /// Whether others wrote to the store at the last look.
    was_shared: bool,
    /// The last look failed.
    is_failing: bool,
    /// The store has not answered a look within [`LOOK_TIME`].
    is_silent: bool,
    counting: Option<JoinHandle<()>>,
    counted: Option<tokio::time::Instant>,
}

impl<T: Store> Follower<T> {
    /// Asks the store what others changed, and shows it. `None` on shutdown. With the answer comes what has paused the
    /// commits where orders are to be counted after it.
    async fn look(&mut self, shutdown: &mut Shutdown) -> Option<(Result<Changes, StoreError>, Option<Paused>)> {
        // From here to the beginning of the count nothing is durable that is not visible: neither what is committed here,
        // nor, after the look, what was committed elsewhere.
        let mut paused = if self.is_count_due() {
            tokio::time::timeout(COUNT_WAIT, self.view.pause_commits()).await.ok()
        } else {
            None
        };
        let emit = {
            let (view, redis, asked) = (Arc::clone(&self.view), self.redis.clone(), Instant::now());
            move |orders: Vec<_>| show(&view, redis.as_ref(), asked, orders)
        };
        let is_news = {
            let view = Arc::clone(&self.view);
            move |id: &OrderId, version| view.is_untold(id, version)
        };
        // What is found was true when the store was asked.
        let held = self.view.hold();
        let mut look = std::pin::pin!(self.store.changes(is_news, emit));
        let looked = loop {
            tokio::select! {
                () = shutdown.wait() => return None,
                looked = &mut look => break looked,
                () = tokio::time::sleep(COUNT_WAIT), if paused.is_some() => paused = None, // another time
                () = tokio::time::sleep(LOOK_TIME), if !self.is_silent => {
                    self.is_silent = true;
                    self.view.set_shared(true); // it cannot be known
                    tracing::warn!("the store does not answer, so what others change is not seen");
                    if let Some(gate) = self.gate() {
                        gate.close("the store does not answer");
                    }
                }
            }
        };
        drop(held);
        // Nothing is counted after a look that failed.
        let paused = paused.filter(|_| looked.is_ok());
        Some((looked, paused))
    }

    fn is_count_due(&self) -> bool {
        self.begun.is_none()
            && self.view.is_bounded()
            && self.counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY)
            && self.counting.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Takes what the store said of the others, and counts its orders where commits are paused for that.
    fn answered(&mut self, changes: &Changes, paused: Option<Paused>) {
        if changes.is_shared != self.was_shared {
            tracing::info!(others = changes.is_shared, "instances on the same store");
        }
        self.was_shared = changes.is_shared;
        self.is_failing = false;
        if changes.is_restarted {
            self.view.doubt();
        }
        self.view.heard();
        if let Some(paused) = paused {
            self.counted = Some(tokio::time::Instant::now());
            let (view, store) = (Arc::clone(&self.view), self.store.clone());
            self.counting = Some(tokio::spawn(async move {
                if let Err(error) = count::recount(&view, &store, paused, Some(COUNT_WAIT)).await {
                    tracing::debug!(error = %crate::process::log::causes(&error), "cannot count orders");
                }
            }));
        }
        if let Some(needed) = &self.needed {
            needed.open();
        }
        if std::mem::take(&mut self.is_silent) {
            tracing::info!("the store answers again");
        }
        self.tell(Some(changes.peers));
        self.told_looks = if changes.peers.publish { TOLD_LOOKS.min(self.told_looks + 1) } else { 0 };
        self.news.heard.want(self.was_shared);
    }

    /// Before the beginning: waits until the others know of this instance, and it hears them.
    async fn hear_others(&self) {
        if !self.was_shared {
            return;
        }
        // They look this often, so by then they have seen that they are not alone.
        tokio::time::sleep(2 * EVERY).await;
        let heard = async {
            while self.follows && !self.news.heard.is_live() {
                tokio::time::sleep(EVERY / 10).await;
            }
        };
        let _ = tokio::time::timeout(NEWS_WAIT, heard).await;
    }

    fn failed(&mut self, error: &StoreError) {
        if let Some(gate) = self.gate() {
            let detail = format!("the store cannot be used: {}", crate::process::log::causes(error));
            match error.outline() {
                Some(outline) => gate.close_with(&format!("the store cannot be used: {outline}"), &detail),
                None => gate.close(&detail),
            }
        }
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(error = %crate::process::log::causes(error), "cannot ask the store what others changed");
        }
        self.view.set_shared(true); // it cannot be known
        self.told_looks = 0;
        // Nothing is committed before it has begun.
        if self.begun.is_none() {
            self.tell(None);
        }
    }

    /// Notes whether others follow, and says whether this instance publishes for them.
    fn tell(&mut self, peers: Option<Peers>) {
        if let Some(telling) = &mut self.news.telling {
            let publishes = telling.note(peers);
            self.store.appear_as(Presence { follows: self.follows, publishes });
        }
    }

    /// The gate that says that the store does not answer.
    fn gate(&self) -> Option<&Gate> {
        if self.begun.is_some() { Some(&self.gate) } else { self.needed.as_ref() }
    }

    /// Whether all changes by others are heard as they happen.
    fn is_told(&self) -> bool {
        self.news.heard.is_live() && self.told_looks == TOLD_LOOKS
    }
}

/// Shows orders that were changed elsewhere, unless the view has newer ones: what the store said when it was `asked`.
fn show(view: &View, redis: Option<&Redis>, asked: Instant, orders: Vec<(OrderId, Snapshot)>) {
    let news: Vec<_> = orders.into_iter().filter(|(id, snapshot)| view.is_untold(id, snapshot.version())).collect();
    // Before readers see it: what they have seen must not come back older from there.
    if let Some(redis) = redis {
        redis.hand_over(news.iter().map(|(id, snapshot)| (id, snapshot)), asked);
    }
    let news = news.into_iter().map(|(id, snapshot)| {
        let change = snapshot.apparent_change();
        Event::new(id, snapshot, change)
    });
    view.publish(news.collect());
}
