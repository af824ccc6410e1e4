//! A view of a store that other instances may write to: what it says of itself while the store is asked, and cannot be.
//! The clock is the test's own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use order_service::cache::{self, View};
use order_service::process::lifecycle;
use order_service::replication::follow;

use crate::scripted::Scripted;

/// Waits for a minute of the test's clock.
async fn until(what: &str, check: impl Fn() -> bool) {
    for _ in 0..6000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited until {what}");
}

#[tokio::test(start_paused = true)]
async fn while_the_store_cannot_say_what_others_changed_the_view_is_not_all_there_is() {
    let (store, view) = (Scripted::default(), Arc::new(View::new(cache::Config::default(), 0)));
    let (_trigger, shutdown) = lifecycle::shutdown();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let news = follow::News::default();
    let gate = lifecycle::Readiness::default().gate("store", "not started");
    tokio::spawn(follow::run(Arc::clone(&view), store.clone(), None, news, (begun, gate), None, shutdown));
    has_begun.await.unwrap().unwrap();
    view.set_complete();
    // A store that says nothing is given up only later, and until then no error tells of it.
    for (what, fault) in [("fails", &store.0.is_cut_off), ("says nothing", &store.0.is_silent)] {
        for round in 0..3 {
            until("an unknown id exists nowhere", || view.is_complete()).await;
            // From here on another instance may store orders, and this one would not know.
            fault.store(true, Ordering::SeqCst);
            let asked = format!("an unknown id is asked for in a store that {what}, round {round}");
            until(&asked, || !view.is_complete()).await;
            fault.store(false, Ordering::SeqCst);
        }
    }
    until("an unknown id exists nowhere", || view.is_complete()).await;
}

#[tokio::test(start_paused = true)]
async fn live_orders_of_a_shared_store_are_counted_again_and_again() {
    let config = cache::Config { bytes_max: Some(1 << 20), ..cache::Config::default() };
    let (store, view) = (Scripted::default(), Arc::new(View::new(config, 0)));
    let (_trigger, shutdown) = lifecycle::shutdown();
    let (begun, _has_begun) = tokio::sync::oneshot::channel();
    let gate = lifecycle::Readiness::default().gate("store", "not started");
    let news = follow::News::default();
    tokio::spawn(follow::run(Arc::clone(&view), store.clone(), None, news, (begun, gate), None, shutdown));
    for live in [7, 12, 3] {
        // What others stored or deleted was never published here.
        store.0.live.store(live, Ordering::SeqCst);
        until(&format!("{live} orders are counted"), || view.size().live == live).await;
    }
}

/// What is committed waits for a count to begin: a quarter of a second, however long the store takes for it.
#[tokio::test(start_paused = true)]
async fn a_count_that_does_not_begin_holds_up_no_commit() {
    let config = cache::Config { bytes_max: Some(1 << 20), ..cache::Config::default() };
    let (store, view) = (Scripted::default(), Arc::new(View::new(config, 0)));
    store.0.is_count_held.store(true, Ordering::SeqCst);
    let (_trigger, shutdown) = lifecycle::shutdown();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let gate = lifecycle::Readiness::default().gate("store", "not started");
    let news = follow::News::default();
    tokio::spawn(follow::run(Arc::clone(&view), store.clone(), None, news, (begun, gate), None, shutdown));
    has_begun.await.unwrap().unwrap();
    let mut longest = Duration::ZERO;
    for _ in 0..3000 {
        let asked = tokio::time::Instant::now();
        let committing = tokio::time::timeout(Duration::from_secs(1), view.committing()).await;
        assert!(committing.expect("it goes on").is_some());
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(longest >= Duration::from_millis(100), "it never waited, so no count was tried");
}
