//! A question of librdkafka's admin API, asked without waiting for its answer. Knows nothing of what
//! is asked.

use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};

/// A question under way: the queue that its answer comes to.
///
/// Neither asking nor [`AdminQuestion::take`] blocks. It has to be dropped before the client that
/// was asked: the queue is a part of it. Dropped without an answer, what is still under way is
/// thrown away by the library. One question has one answer, which [`AdminQuestion::take`] gives
/// once.
#[derive(Debug)]
pub struct AdminQuestion {
    queue: *mut c::rd_kafka_queue_t,
}

// SAFETY: the library's queues may be used by any thread, and this one is used by one at a time.
#[expect(unsafe_code, reason = "a pointer of the library says nothing of threads")]
unsafe impl Send for AdminQuestion {}

impl AdminQuestion {
    /// Has `ask` ask the brokers of this client, with options for this operation by which there is
    /// an answer within this time.
    ///
    /// # Safety
    /// `ask` must hand the options and the queue to the library for a call that copies the options,
    /// and must give back neither.
    #[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
    pub unsafe fn ask<C: ClientContext>(
        client: &Client<C>,
        operation: c::rd_kafka_admin_op_t,
        within: Duration,
        ask: impl FnOnce(*mut c::rd_kafka_t, *mut c::rd_kafka_AdminOptions_t, *mut c::rd_kafka_queue_t),
    ) -> Self {
        let milliseconds = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        let mut why = [0; 128];
        // SAFETY: the client outlives the calls, and the options are given back once.
        unsafe {
            let rk = client.native_ptr();
            let queue = c::rd_kafka_queue_new(rk);
            let options = c::rd_kafka_AdminOptions_new(rk, operation);
            // Does not fail for a positive time.
            c::rd_kafka_AdminOptions_set_request_timeout(options, milliseconds, why.as_mut_ptr(), why.len());
            ask(rk, options, queue);
            c::rd_kafka_AdminOptions_destroy(options);
            Self { queue }
        }
    }

    /// What `read` makes of the answer, once it is there. The event that it is given lives until it
    /// returns.
    #[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
    pub fn take<A>(&self, read: impl FnOnce(*mut c::rd_kafka_event_t) -> A) -> Option<A> {
        // SAFETY: the queue lives as long as this, and the event is given back once, after it was
        // read.
        unsafe {
            let event = c::rd_kafka_queue_poll(self.queue, 0);
            if event.is_null() {
                return None;
            }
            let answer = read(event);
            c::rd_kafka_event_destroy(event);
            Some(answer)
        }
    }
}

impl Drop for AdminQuestion {
    #[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
    fn drop(&mut self) {
        // SAFETY: it was made with this and is given back once.
        unsafe { c::rd_kafka_queue_destroy(self.queue) }
    }
}
