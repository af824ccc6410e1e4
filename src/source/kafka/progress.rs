//! How far behind the consumer is, whether it still delivers, and what the gate of readiness says of it.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use super::consumer::{Consumer, Event, RELEASE_WAIT};
use super::context::{close, subscribe};
use super::partitions::{Reading, Releasing};
use crate::kafka::offset_look::{OffsetLook, OffsetRange, OffsetRanges};
use crate::source::broker::lag::judge_lag;
use crate::sync::lock;

/// How often the ends of the partitions are asked for.
const LAG_EVERY: Duration = Duration::from_secs(1);

impl Consumer {
    /// Asks how far the partitions reach.
    pub(super) fn measure(&mut self) {
        if self.measured_at.elapsed() < LAG_EVERY {
            return;
        }
        self.measured_at = Instant::now();
        self.look_at_topic();
        if self.lag_look.is_none() && !self.active.is_empty() {
            let partitions: Vec<u32> = self.active.keys().copied().collect();
            self.lag_look = Some(self.look_at_offsets(&partitions));
        }
        // An answer that comes late, behind large ones of the same connection, does not leave the
        // lag as it was.
        let fetched = lock(&self.client.context().fetched);
        for (partition, active) in &mut self.active {
            let end = fetched.get(partition).and_then(|fetched| fetched.end);
            active.end = active.end.max(end.unwrap_or_default());
        }
        drop(fetched);
        self.tell_lag();
    }

    /// How far the partitions reach, and so whether the consumer still delivers. Asked apart from
    /// what is fetched: where fetches get no answer, the statistics say what was true before.
    pub(super) fn take_lag(&mut self) {
        let Some(OffsetRanges { known, error }) = self.lag_look.as_mut().and_then(OffsetLook::take) else { return };
        self.lag_look = None;
        if let Some(code) = error {
            tracing::debug!(%code, topic = self.config.topic, "cannot ask where partitions end");
        }
        let fetched = &self.client.context().fetched;
        let fetched = std::mem::take(&mut *lock(fetched));
        let mut is_waiting = false;
        for (partition, active) in &mut self.active {
            let Some(OffsetRange { end, .. }) = known.get(partition) else {
                // A partition that nothing can be learned of may have anything in it.
                is_waiting = true;
                continue;
            };
            active.end = *end;
            let reached = fetched.get(partition).and_then(|fetched| fetched.reached);
            active.reached = reached.unwrap_or(active.reached).min(*end);
            is_waiting |= active.end > active.next.max(active.reached);
        }
        self.tell_lag();
        let is_ours_to_wait = self.is_paused || !self.queue.is_empty() || self.releasing.is_some();
        let is_waiting = is_waiting && !is_ours_to_wait;
        // The time counts from the first answer that says so: before it the answers may have come
        // late, or none while the process was stopped.
        if !std::mem::replace(&mut self.is_waiting, is_waiting) {
            self.received_at = Instant::now().max(self.received_at);
        }
        if is_waiting && self.received_at.elapsed() >= self.config.stall_timeout {
            self.restart();
        }
    }

    /// The consumer is behind and delivers nothing: another one may do better.
    pub(super) fn restart(&mut self) {
        tracing::error!(after = ?self.config.stall_timeout, "the consumer is stalled, making it again");
        self.metrics.stalls.inc();
        self.is_waiting = false;
        match subscribe(&self.config, &self.rebalances) {
            Ok(consumer) => {
                close(&self.client);
                self.look = None;
                self.lag_look = None;
                self.starting.clear();
                let stalled = std::mem::replace(&mut self.client, consumer);
                // To leave the group waits for brokers that may not answer; the thread that polls must not.
                let leave = std::thread::Builder::new().name("kafka-leave".into()).spawn(move || drop(stalled));
                if let Err(error) = leave {
                    tracing::warn!(%error, "the stalled consumer was dropped on the thread that polls");
                }
                self.is_paused = false;
                self.postponed.clear();
                self.queue.push_back(Event::Revoked(self.active.keys().copied().collect()));
                self.releasing = Some(Releasing { until: Instant::now() + RELEASE_WAIT, again: Vec::new() });
            }
            Err(error) => self.warn("cannot make a consumer", &error),
        }
    }

    /// Tells how far behind it is, and whether that or anything else keeps the service from being ready.
    pub(super) fn tell_lag(&mut self) {
        let mut total = 0;
        for (partition, active) in &self.active {
            let lag = active.end.saturating_sub(active.done());
            total += lag;
            self.metrics.lag.with_label_values(&[&partition.to_string()]).set(i64::try_from(lag).unwrap_or(i64::MAX));
        }
        self.metrics.stopped.set(i64::from(!self.stopped.is_empty()));
        let stopped = self.stopped.first().map(|stopped| &*stopped.reason);
        if let Some(reason) = self.refused.reason().or(stopped).map(str::to_owned) {
            self.gate.close(&reason);
            if self.refused.reason().is_some() && self.may_warn() {
                tracing::warn!(topic = self.config.topic, group = self.config.group, "{reason}");
            }
            self.was_refused = true;
        } else if !self.active.is_empty() {
            self.was_refused = false;
            judge_lag(&self.gate, total, self.config.lag_max);
        } else if self.reading == Reading::Spare || self.is_missing {
            self.gate.open();
        } else if std::mem::take(&mut self.was_refused) {
            self.gate.close("no partition is assigned yet");
        }
    }
}
