//! Where reading starts and why it does not: the stored position held against what the stream has, and who else reads it.

use std::time::{Duration, Instant};

use super::consumer::{Consumer, STANDBY_SHORT};
use super::sequence::Sequence;
use super::states::{Gap, Reading, partition};
use super::stream::{Look, Trouble};
use crate::nats::Config;
use crate::source::broker::handover::Event;
use crate::source::broker::lag::judge_lag;
use crate::source::broker::tries::about;

/// How long is read from the stream at a stretch when nothing is delivered.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Between two looks at a position that another process moves, while that one waits for messages and while it does not.
const STANDBY_LONG: Duration = Duration::from_secs(5);

/// Between two looks at a position that the stream does not reach.
const STOPPED_PAUSE: Duration = Duration::from_secs(5);

impl Consumer {
    /// Takes in how the stream stands. `next` is where reading had come to when the look began.
    pub(super) fn looked(&mut self, look: &Look, next: u64) -> Result<(), Trouble> {
        if self.partition != Some(partition(look.created)) {
            return Err(Trouble("the stream was made again".into()));
        }
        self.is_single = look.is_single;
        if !look.ack_wait.is_zero() {
            self.ack_wait = look.ack_wait;
        }
        if let Some(stored) = self.starting.take() {
            self.start(stored, look);
        } else if self.reading == Reading::Active && next > look.last + 1 {
            self.stop_reading(next, look);
        }
        let lag = look.undelivered + self.held.len() as u64;
        self.metrics.lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
        let is_standby = matches!(self.reading, Reading::Standby { .. }) && self.stopped.is_none();
        self.metrics.standby.set(i64::from(is_standby));
        self.metrics.stopped.set(i64::from(self.stopped.is_some()));
        if self.reading == Reading::Offered {
            return Ok(()); // not before its position is known
        }
        if let Some(reason) = &self.stopped {
            self.gate.close(reason);
            return Ok(());
        }
        judge_lag(&self.gate, lag, self.config.lag_max);
        self.watch(look)
    }

    /// Sees to it that what is there is read, delivered or not: after a crash the server first waits for
    /// acknowledgements that will never come.
    pub(super) fn watch(&mut self, look: &Look) -> Result<(), Trouble> {
        let is_unread = look.delivered >= self.sequence.next() || look.undelivered > 0;
        let is_idle = self.reading == Reading::Active && is_unread && !self.has_arrived && self.handover.is_empty();
        self.has_arrived = false;
        if !is_idle || self.gap.is_some() || self.held.len() >= self.config.in_flight_max || self.is_stopping {
            self.idle_looks = 0;
            if !is_unread {
                self.received_at = Instant::now();
            }
            return Ok(());
        }
        self.idle_looks += 1;
        if self.received_at.elapsed() >= self.config.stall_timeout {
            self.metrics.stalls.inc();
            return Err(Trouble(format!("nothing was delivered for {:?}", self.config.stall_timeout)));
        }
        // One look may fall between a message and its delivery.
        if self.idle_looks >= 2 {
            let deadline = Some(Instant::now() + CATCH_UP);
            self.gap = Some(Gap { until: look.last + 1, arrived: None, deadline });
        }
        Ok(())
    }

    /// The stored position is known: hands over from there on, unless another process does.
    pub(super) fn start(&mut self, stored: Option<u64>, look: &Look) {
        let next = stored.unwrap_or_default();
        let is_read = look.delivered < next && look.undelivered == 0;
        let is_taken = match self.reading {
            Reading::Offered => look.waiting > 0,
            Reading::Standby { seen, .. } => seen != Some(next) || (look.waiting > 0 && is_read),
            _ => return,
        };
        if next > look.last + 1 {
            self.stop_reading(next, look);
            return;
        }
        self.stopped = None;
        if is_taken {
            if self.reading == Reading::Offered {
                tracing::info!(durable = self.config.durable, "another process reads already, standing by");
            }
            self.stand_by(Some(next), if look.waiting > 0 { STANDBY_LONG } else { STANDBY_SHORT });
            return;
        }
        if stored.is_some() && look.first > next {
            let lost = look.first - next;
            tracing::error!(
                partition = self.partition,
                lost,
                "messages were deleted from the stream before they were read; going on after them"
            );
            self.metrics.lost.inc_by(lost);
        }
        let Config { stream, durable, .. } = &self.config;
        tracing::info!(stream, durable, next, end = look.last, "reading the stream");
        self.reading = Reading::Active;
        self.sequence = Sequence::new(next);
        self.durable = next;
        self.received_at = Instant::now();
        if look.delivered >= next && look.last >= next {
            // What was delivered to a former life is not delivered again for a while.
            self.gap = Some(Gap { until: look.delivered + 1, arrived: None, deadline: None });
        }
    }

    /// The stream ends before the stored position. Looks again later: one of them may have been put right.
    pub(super) fn stop_reading(&mut self, next: u64, look: &Look) {
        let Config { stream, .. } = &self.config;
        let reason = format!(
            "stream {stream} ends at {}, and orders up to {} are stored: it lost messages, or the store is of another \
             server; restore the stream, or name another durable to read it from its start",
            look.last,
            next - 1
        );
        tracing::error!(stream, "{reason}");
        self.stopped = Some(reason);
        self.stand_by(Some(next), STOPPED_PAUSE);
    }

    /// Leaves the stream to another process, and looks after it.
    pub(super) fn stand_by(&mut self, seen: Option<u64>, pause: Duration) {
        self.drop_received();
        self.handover.drop_assigned();
        let due = Instant::now() + about(pause);
        self.reading = Reading::Standby { seen, due: Some(due) };
    }

    /// Asks for the stored position again when it is time.
    pub(super) fn ask_again(&mut self) {
        if let (Reading::Standby { seen, due: Some(due) }, Some(partition)) = (self.reading, self.partition)
            && Instant::now() >= due
            && !self.is_stopping
        {
            self.reading = Reading::Standby { seen, due: None };
            self.handover.push(Event::Assigned(partition));
            self.handover.flush(self.is_stopping);
        }
    }

    /// Forgets what was received and is not durable. It is delivered again, to anyone who reads then.
    pub(super) fn drop_received(&mut self) {
        self.held.clear();
        self.gap = None;
        self.starting = None;
        self.handover.drop_records();
    }

    pub(super) fn release(&mut self) {
        self.drop_received();
        self.partition = None;
        self.stopped = None;
        self.reading = Reading::Nothing;
    }
}
