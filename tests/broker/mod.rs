//! Orders from a real broker: the source, the dead letters and the ingest loop as one running service. What holds for
//! Kafka holds for NATS, so each test has one body, which runs for both: the table below instantiates it. Owns the seam
//! ([`Channel`]) that `kafka::topic` and `nats::subject` implement. What has a meaning with one of them only is tested
//! beside that one.

#[cfg(feature = "kafka")]
mod beside;
mod crash;
mod faults;
pub mod ledger;
pub mod letters;
pub mod messages;
mod start;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::server::Server;
use crate::servers::Private;
use ledger::Ledger;

/// The longest anything may take to come right after a fault. In the good case it costs nothing; a machine that does
/// much else needs minutes for what takes seconds otherwise.
pub const RECOVERY: Duration = Duration::from_mins(3);

/// The heavy tests of all brokers take turns, two at a time: they wait more than they work, and more of them at once
/// would have too many servers.
pub fn in_turn() -> InTurn {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    while *running == 2 {
        running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
    }
    *running += 1;
    InTurn(())
}

static RUNNING: Mutex<u32> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// As long as it is kept, it is this test's turn.
pub struct InTurn(());

impl Drop for InTurn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// Where a message is: the partition and the offset there; with NATS the number of the stream and the sequence.
pub type Place = (u32, u64);
/// Names and values, in order.
pub type Pairs = Vec<(String, Option<Vec<u8>>)>;

/// A message to be sent. NATS has neither keys nor times of the sender, and leaves them out.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp: Option<i64>,
    pub headers: Pairs,
}

impl Message {
    /// Just a value.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }
}

/// A message found at a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp: Option<i64>,
    pub headers: Pairs,
}

impl Letter {
    /// The last header of this name, as text.
    pub fn header(&self, name: &str) -> &str {
        let (_, value) = self.headers.iter().rev().find(|(known, _)| known == name).unwrap_or_else(|| {
            panic!("no header {name} in {:?}", self.headers);
        });
        std::str::from_utf8(value.as_deref().unwrap_or_default()).unwrap()
    }

    /// Whether there is a header of this name.
    pub fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known == name)
    }

    /// Its key, as text.
    pub fn key(&self) -> &str {
        std::str::from_utf8(self.key.as_deref().unwrap_or_default()).unwrap()
    }

    /// Its value, as bytes.
    pub fn bytes(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }

    /// Where the message was that this is about.
    pub fn origin(&self) -> Place {
        let number = |name| self.header(name).parse::<u64>().unwrap();
        (number("__connect.errors.partition") as u32, number("__connect.errors.offset"))
    }
}

/// Sends messages; each thread that sends has its own.
pub trait Sender: Send + 'static {
    /// Sends these in order and waits until all are there, however often the broker becomes unavailable meanwhile.
    fn send(&self, messages: &[Message]) -> Vec<Place>;
}

/// Where a test's orders come from and its dead letters go: a topic of Kafka and a group, or a subject of NATS and a
/// durable. All of a test's own.
pub trait Channel: Sized {
    /// The source, as the service's log and readiness name it.
    const SOURCE: &'static str;
    /// What readiness says as long as the broker was never reached.
    const NOT_CONNECTED: &'static str;
    /// The gate of readiness that is closed while dead letters cannot be kept.
    const LETTERS_GATE: &'static str;
    /// What the operator is advised when the store knows of more than the broker has.
    const ADVICE: &'static str;
    /// Whether messages have keys.
    const HAS_KEYS: bool;
    /// Whether a dead letter that is sent again after a crash is dropped by the broker.
    const LETTERS_COME_ONCE: bool;
    /// What a [`Sender`] adds to the headers of a message, in bytes.
    const ADDED_HEADER_BYTES: RangeInclusive<u64>;
    /// Flags for a broker that was never there.
    const NOWHERE: &'static [&'static str];
    /// Flags with which a service that died goes on at once, as the only one of its kind.
    const ALONE: &'static [&'static str];
    /// Flags with which the broker soon loses patience with a service that says nothing.
    const IMPATIENT: &'static [&'static str];

    type Sender: Sender;

    /// On the broker that all tests share, with everything made but what dead letters go to, which is left to the
    /// service. `None` where there is no broker. NATS has one partition, however many are asked for.
    fn create(partitions: u32) -> Option<Self> {
        Self::named().inspect(|channel| channel.make(partitions))
    }

    /// As [`Self::create`], on a broker of the test's own.
    fn create_on(url: &str, partitions: u32) -> Self {
        let channel = Self::named_on(url);
        channel.make(partitions);
        channel
    }

    /// Names only: nothing is made yet.
    fn named() -> Option<Self>;
    fn named_on(url: &str) -> Self;
    /// A broker that a test has to itself and may break.
    fn private() -> Option<Private>;

    /// Makes the topic or the stream, where the service has not done so already.
    fn make(&self, partitions: u32);
    /// Makes what dead letters go to, for messages of so many bytes at most.
    fn make_dlq(&self, bytes_max: Option<u32>);
    fn delete_dlq(&self);
    /// The same with another destination for dead letters, which takes them.
    fn with_other_dlq(self) -> Self;
    /// Deletes what partition 0 or the stream has before this place.
    fn delete_before(&self, place: Place);

    /// What a service needs to be told to take orders from here.
    fn flags(&self) -> Vec<&str>;

    /// As [`Self::flags`], with more.
    fn flags_with<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&self.flags()[..], more].concat()
    }

    /// For another thread.
    fn sender(&self) -> Self::Sender;

    /// Sends these in order and waits until all are there.
    fn send(&self, messages: &[Message]) -> Vec<Place> {
        self.sender().send(messages)
    }

    /// Sends one.
    fn send_one(&self, message: Message) -> Place {
        self.send(&[message])[0]
    }

    /// The topic or the subject.
    fn name(&self) -> &str;
    /// The name under which the store keeps positions.
    fn source(&self) -> String;
    /// The positions after the last message of each partition that has any.
    fn ends(&self) -> BTreeMap<u32, u64>;
    /// How far the service has told the broker that it is, which it does after all else.
    fn acknowledged(&self) -> BTreeMap<u32, u64>;
    /// Waits until the service has told the broker that everything is dealt with.
    fn wait_acknowledged(&self);
    /// Everything that dead letters went to has; nothing when it is not there.
    fn letters(&self) -> Vec<Letter>;

    /// Headers as various as the broker takes.
    fn various_headers() -> Pairs;
    /// A dead letter has everything that its message had, and nothing but what the service says of it.
    fn assert_kept(&self, message: &Message, letter: &Letter);

    /// Waits until service and test have found a broker again that was killed and started `times` times.
    fn wait_found_again(&self, server: &Server, times: u64);
    /// Waits until the service must have felt that its broker is held.
    fn wait_held_for_long(server: &Server);
    /// From now on asks whether a broker that had heard nothing of a message or a service would have lost patience more
    /// than once.
    fn patience(&self) -> impl FnMut() -> bool;
    /// Whether the broker never lost patience: no partition was taken away, nothing was delivered again.
    fn is_undisturbed(server: &Server) -> bool;
    /// How many messages the service says that it is behind.
    fn lag(server: &Server) -> u64;

    /// Stops a service in order and checks that its books balance.
    fn stop(&self, server: &mut Server) -> Ledger {
        ledger::stop(server, Self::SOURCE)
    }
}

/// Makes a test for each broker of each body. A body that is missing here is dead code, which does not pass the checks.
macro_rules! for_each_broker {
    ($($module:ident { $($test:ident,)+ })+) => {
        for_each_broker!(@ (cfg(feature = "kafka")) kafka (crate::kafka::topic::Topic) $($module { $($test,)+ })+);
        for_each_broker!(@ () nats (crate::nats::subject::Subject) $($module { $($test,)+ })+);
    };
    (@ ($($only_if:meta)?) $broker:ident $channel:tt $($module:ident { $($test:ident,)+ })+) => {
        $(#[$only_if])?
        mod $broker {
            $(for_each_broker!(@@ $channel $module $($test)+);)+
        }
    };
    (@@ ($channel:ty) $module:ident $($test:ident)+) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    crate::broker::$module::$test::<$channel>();
                }
            )+
        }
    };
}

for_each_broker! {
    crash {
        dying_before_a_batch_is_made_loses_nothing,
        dying_inside_the_transaction_loses_nothing,
        dying_after_the_commit_repeats_nothing,
        dying_with_two_batches_under_way_loses_and_repeats_nothing,
        ten_kills_at_any_moment_lose_and_repeat_nothing,
    }
    faults {
        a_store_that_is_killed_and_comes_back_gets_everything_once,
        connections_that_are_cut_all_the_time_lose_and_repeat_nothing,
        a_broker_that_is_killed_and_comes_back_changes_nothing,
        a_broker_that_is_held_is_waited_for,
        while_the_store_is_held_memory_is_bounded_and_the_broker_keeps_its_patience,
        a_store_that_knows_of_more_than_the_broker_has_stops_the_source_with_advice,
        messages_that_were_deleted_unread_are_named_and_the_rest_is_read,
    }
    letters {
        rubbish_in_every_second_message_is_kept_once_and_holds_up_nothing,
        a_dead_letter_too_large_for_its_destination_is_cut_and_says_so,
        a_dead_letter_whose_headers_leave_no_room_loses_them_and_says_so,
        while_a_dead_letter_cannot_be_kept_its_position_is_not_passed,
        a_destination_of_dead_letters_that_is_deleted_and_made_again_goes_on,
        readiness_says_that_dead_letters_cannot_be_kept,
    }
    messages {
        orders_are_stored_and_rubbish_is_parked_and_all_is_acknowledged,
        orders_come_in_every_form,
        what_is_no_order_is_kept_as_it_came_with_the_reason,
        an_array_whose_orders_are_refused_is_one_dead_letter,
        an_array_of_rubbish_costs_little_and_names_some_of_it,
        numbers_beyond_double_precision_are_kept_as_they_are_spelled,
        a_time_stamp_that_means_nothing_does_not_drown_the_others,
        an_order_that_the_database_refuses_is_a_dead_letter_and_the_others_are_stored,
        versions_of_one_order_that_meet_in_a_batch_are_one_change,
        a_stop_acknowledges_everything_and_the_next_start_goes_on_from_there,
    }
    start {
        a_destination_that_is_made_later_is_read_from_its_start,
        a_broker_that_is_unavailable_at_the_start_is_waited_for,
        a_broker_that_is_unavailable_at_the_start_and_has_nothing_yet_is_waited_for,
        a_store_that_is_unavailable_is_waited_for_and_what_is_known_is_answered,
        a_stop_does_not_wait_for_a_broker_that_was_never_reached,
        a_stop_while_the_broker_is_unavailable_loses_and_repeats_nothing,
    }
}

// NATS Streaming has neither headers nor limits for a channel that could be changed, and knows no
// patience: the bodies that need them are left out. What is deleted unread, and letters that are too
// large, are tested in `stan`.
for_each_broker! {
    @ () stan (crate::stan::channel::StanChannel)
    crash {
        dying_before_a_batch_is_made_loses_nothing,
        dying_inside_the_transaction_loses_nothing,
        dying_after_the_commit_repeats_nothing,
        dying_with_two_batches_under_way_loses_and_repeats_nothing,
        ten_kills_at_any_moment_lose_and_repeat_nothing,
    }
    faults {
        a_store_that_is_killed_and_comes_back_gets_everything_once,
        connections_that_are_cut_all_the_time_lose_and_repeat_nothing,
        a_broker_that_is_killed_and_comes_back_changes_nothing,
        a_broker_that_is_held_is_waited_for,
        a_store_that_knows_of_more_than_the_broker_has_stops_the_source_with_advice,
    }
    letters {
        rubbish_in_every_second_message_is_kept_once_and_holds_up_nothing,
    }
    messages {
        orders_are_stored_and_rubbish_is_parked_and_all_is_acknowledged,
        orders_come_in_every_form,
        what_is_no_order_is_kept_as_it_came_with_the_reason,
        an_array_whose_orders_are_refused_is_one_dead_letter,
        an_array_of_rubbish_costs_little_and_names_some_of_it,
        numbers_beyond_double_precision_are_kept_as_they_are_spelled,
        an_order_that_the_database_refuses_is_a_dead_letter_and_the_others_are_stored,
        versions_of_one_order_that_meet_in_a_batch_are_one_change,
        a_stop_acknowledges_everything_and_the_next_start_goes_on_from_there,
    }
    start {
        a_destination_that_is_made_later_is_read_from_its_start,
        a_broker_that_is_unavailable_at_the_start_is_waited_for,
        a_broker_that_is_unavailable_at_the_start_and_has_nothing_yet_is_waited_for,
        a_store_that_is_unavailable_is_waited_for_and_what_is_known_is_answered,
        a_stop_does_not_wait_for_a_broker_that_was_never_reached,
        a_stop_while_the_broker_is_unavailable_loses_and_repeats_nothing,
    }
}
