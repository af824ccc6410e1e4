//! Tests of the view as a whole.

use std::time::Instant;

use super::feed::{self, Event, Former};
use super::recent::Shortfall;
use super::{Config, View};
use crate::id::OrderId;
use crate::snapshot::{ChangeKind, Kind, OwnerTag, Snapshot, State};

fn id(text: &str) -> OrderId {
    OrderId::parse(text.as_bytes()).unwrap()
}

fn copy(version: u64, seq: u64, state: State) -> Snapshot {
    let body = format!("{{\"s\":{seq},\"v\":{version}}}");
    Snapshot::new(version, seq, Kind::Wb, state, body.as_bytes(), &mut Vec::new())
}

fn event(name: &str, version: u64, seq: u64, state: State) -> Event {
    Event::new(id(name), copy(version, seq, state), ChangeKind::Created)
}

fn view(list_max: usize) -> View {
    View::new(Config { list_max, ..Config::default() }, 0)
}

/// What comes into view before its event (warm-up, a read that misses) takes the place of the
/// copy that said whose the order was.
#[test]
fn an_event_says_whose_the_order_was_before_whatever_came_into_view_first() {
    fn owner_of(_: Kind, body: &[u8]) -> Option<OwnerTag> {
        std::str::from_utf8(body).ok().map(OwnerTag::of)
    }
    let of = |version, owner: &str| Snapshot::new(version, 1, Kind::Wb, State::Live, owner.as_bytes(), &mut Vec::new());
    let updated = |version, owner| Event::new(id("x"), of(version, owner), ChangeKind::Updated);
    let formers = |view: &View, from| {
        let feed::Read::Events(events) = view.feed().read(from, 9) else { panic!("kept") };
        events.into_iter().map(|event| event.former).collect::<Vec<_>>()
    };
    let known = |owners: &[&str]| Former::Known(owners.iter().map(|owner| OwnerTag::of(owner)).collect());
    let config = Config { owner_of: Some(owner_of), ..Config::default() };
    let view = View::new(config.clone(), 0);
    view.fill(id("x"), of(1, "a"));
    view.publish(vec![updated(2, "b"), updated(3, "c")]);
    view.fill(id("x"), of(5, "d"));
    view.publish(vec![updated(5, "d"), updated(6, "d")]);
    assert_eq!(formers(&view, 0), [known(&["a"]), known(&["b"]), known(&["c"]), known(&[])]);
    assert_eq!(view.owned_count(OwnerTag::of("a")).unwrap_or_default(), 0);
    // Where orders leave, what is not here may have been anyone's.
    let view = View::new(Config { bytes_max: Some(1 << 20), ..config }, 0);
    view.publish(vec![updated(2, "b")]);
    view.apply_remote(updated(3, "c"));
    assert_eq!(formers(&view, 0), [Former::Unknown, known(&["b"])]);
}

fn listed(view: &View) -> String {
    view.refresh_list();
    String::from_utf8(view.list().body.to_vec()).unwrap()
}

#[test]
fn nothing_newer_is_replaced() {
    let view = view(10);
    assert!(view.fill(id("a"), copy(2, 1, State::Live)));
    for version in [1, 2] {
        assert!(!view.fill(id("a"), copy(version, 1, State::Live)));
    }
    assert!(view.fill(id("a"), copy(3, 1, State::Tombstone)));
    assert!(!view.fill(id("a"), copy(2, 1, State::Live)), "a tombstone is a version like any other");
    assert_eq!(view.size().live, 0);
    assert_eq!(view.size().entries, 1);
}

#[test]
fn a_count_corrects_the_total_and_keeps_what_was_published_while_it_ran() {
    let view = View::new(Config { bytes_max: Some(1 << 20), ..Config::default() }, 0);
    view.publish(vec![event("a", 1, 1, State::Live)]);
    let before = view.counting();
    view.publish(vec![event("b", 1, 2, State::Live), event("c", 1, 3, State::Live)]);
    view.counted(before, 5);
    assert_eq!(view.size().live, 7, "five were stored when the count began, and two came after");
}

#[test]
fn an_order_that_came_while_the_store_was_asked_is_not_unknown() {
    let view = View::new(Config { bytes_max: Some(1 << 20), ..Config::default() }, 0);
    let asked = Instant::now();
    view.publish(vec![event("a", 1, 1, State::Live)]);
    view.note_absent(id("a"), asked);
    assert!(!view.is_absent(&id("a")));
    view.note_absent(id("b"), asked);
    assert!(view.is_absent(&id("b")));
    view.publish(vec![event("b", 1, 2, State::Live)]);
    assert!(!view.is_absent(&id("b")));
}

/// It was taken for an id that exists nowhere: the view was complete, and nothing had left it yet.
#[test]
fn a_view_with_a_budget_is_not_complete_once_it_heard_of_an_order_that_it_does_not_have() {
    let view = View::new(Config { bytes_max: Some(1 << 20), ..Config::default() }, 0);
    view.fill(id("a"), copy(1, 1, State::Live));
    view.set_complete();
    assert!(view.apply_remote(event("a", 2, 1, State::Live)));
    assert!(view.is_complete(), "it has that one");
    assert!(!view.apply_remote(event("b", 1, 2, State::Live)));
    assert!(!view.contains(&id("b")));
    assert!(!view.is_complete(), "an order that is only in the store would be answered 404");
}

#[test]
fn a_table_changed_in_steps_loses_nothing() {
    let view = View::new(Config { bytes_max: Some(1 << 30), ..Config::default() }, 0);
    for n in 0..5_000_u64 {
        assert!(view.fill(id(&format!("o{n}")), copy(1, n, State::Live)));
        if n % 97 == 0 {
            view.settle();
        }
        let earlier = n / 2;
        assert!(view.contains(&id(&format!("o{earlier}"))), "{earlier} after {n}");
    }
    view.settle();
    assert!((0..5_000).all(|n| view.get(&id(&format!("o{n}"))).is_some_and(|found| found.seq() == n)));
    assert_eq!(view.size().entries, 5_000);
}

#[test]
fn the_list_is_newest_first_and_follows_updates_and_deletions() {
    let view = view(2);
    view.admit_to_list(view.list_shortfall().unwrap(), Vec::new());
    assert_eq!(view.list_shortfall(), None, "an empty store has nothing more");
    view.publish(vec![event("a", 1, 1, State::Live), event("b", 1, 2, State::Live), event("c", 1, 3, State::Live)]);
    assert_eq!(listed(&view), r#"[{"s":3,"v":1},{"s":2,"v":1}]"#);
    assert!(view.list().has_more);
    view.publish(vec![event("b", 2, 2, State::Live), event("c", 2, 3, State::SoftDeleted)]);
    assert_eq!(listed(&view), r#"[{"s":2,"v":2},{"s":1,"v":1}]"#);
    assert!(!view.list().has_more);
}

#[test]
fn a_burst_before_the_store_was_asked_leaves_no_gap() {
    let view = view(2);
    let asked = view.list_shortfall().unwrap();
    // The store was asked when it was empty; its answer comes after a burst that the list could not
    // keep whole.
    view.publish((1..=9).map(|seq| event(&format!("o{seq}"), 1, seq, State::Live)).collect());
    view.admit_to_list(asked, Vec::new());
    view.publish((6..=9).map(|seq| event(&format!("o{seq}"), 2, seq, State::Tombstone)).collect());
    let asked = view.list_shortfall().expect("orders 1 to 5 are not kept");
    assert_eq!(asked, Shortfall { before: Some(6), limit: 4 });
    view.admit_to_list(asked, vec![(id("o5"), copy(1, 5, State::Live))]);
    assert_eq!(listed(&view), r#"[{"s":5,"v":1}]"#);
    assert_eq!(view.list_shortfall(), None, "the store has nothing more");
}

#[test]
fn deletions_below_the_list_are_made_good_from_the_store() {
    let view = view(2);
    view.admit_to_list(view.list_shortfall().unwrap(), Vec::new());
    view.publish((1..=9).map(|seq| event(&format!("o{seq}"), 1, seq, State::Live)).collect());
    view.publish((6..=9).map(|seq| event(&format!("o{seq}"), 2, seq, State::Tombstone)).collect());
    let asked = view.list_shortfall().expect("only the newest four were kept, and all are deleted");
    assert_eq!(asked, Shortfall { before: Some(6), limit: 4 });
    let page = |seq: u64| (id(&format!("o{seq}")), copy(1, seq, State::Live));
    // While the store was asked, o5 was deleted and o4 changed.
    view.publish(vec![event("o5", 2, 5, State::Tombstone), event("o4", 2, 4, State::Live)]);
    view.admit_to_list(asked, [5, 4, 3, 2].map(page).into());
    assert_eq!(listed(&view), r#"[{"s":4,"v":2},{"s":3,"v":1}]"#);
    assert!(view.list().has_more);
}

#[test]
fn a_list_of_large_orders_ends_at_its_bytes_and_asks_the_store_for_no_more_than_that() {
    let config = Config { list_max: 100, list_bytes_max: 40, ..Config::default() };
    let view = View::new(config, 0);
    let asked = view.list_shortfall().unwrap();
    let page = |seq: u64| (id(&format!("o{seq}")), copy(1, seq, State::Live)); // of 13 bytes, and a comma
    view.admit_to_list(asked, (1..=4).rev().map(page).collect());
    assert_eq!(listed(&view), r#"[{"s":4,"v":1},{"s":3,"v":1}]"#);
    assert!(view.list().has_more);
    assert_eq!(view.list_shortfall(), None, "there is nothing older, and the list is full");
    // Twice as many are kept as are listed.
    view.publish((5..=9).map(|seq| event(&format!("o{seq}"), 1, seq, State::Live)).collect());
    assert_eq!(listed(&view), r#"[{"s":9,"v":1},{"s":8,"v":1}]"#);
    view.publish((6..=9).map(|seq| event(&format!("o{seq}"), 2, seq, State::Tombstone)).collect());
    let asked = view.list_shortfall().expect("one order is left, and there is room for two");
    view.admit_to_list(asked, (1..=4).rev().map(page).collect());
    assert_eq!(listed(&view), r#"[{"s":5,"v":1},{"s":4,"v":1}]"#);
    // One is listed whatever it takes.
    let body = format!("{{\"large\":\"{}\"}}", "x".repeat(200));
    let snapshot = Snapshot::new(1, 10, Kind::Wb, State::Live, body.as_bytes(), &mut Vec::new());
    view.publish(vec![Event::new(id("o10"), snapshot, ChangeKind::Created)]);
    assert_eq!(listed(&view), format!("[{body}]"));
    assert!(view.list().has_more);
}
