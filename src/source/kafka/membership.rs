//! What the group and the topic do to the partitions of this member: they are assigned, offered, revoked and released.

use std::time::Instant;

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::consumer::{ASK_WAIT, Consumer, Event, RELEASE_WAIT, signed, unreadable};
use super::context::Rebalance;
use super::partitions::{Reading, Refused, Releasing};
use crate::kafka::topic_look::TopicLook;
use crate::sync::lock;

impl Consumer {
    pub(super) fn take_rebalances(&mut self) {
        loop {
            let said = lock(&self.rebalances).pop_front();
            match said {
                None => return,
                Some(Rebalance::Assigned(partitions)) => {
                    self.metrics.rebalances.inc();
                    tracing::info!(?partitions, topic = self.config.topic, "partitions assigned");
                    self.refused.group = None;
                    if partitions.is_empty() {
                        self.reading = Reading::Spare;
                        let _ = self.client.assign(&TopicPartitionList::new());
                    } else {
                        self.offer(partitions);
                    }
                }
                Some(Rebalance::Revoked(partitions)) => {
                    self.metrics.rebalances.inc();
                    tracing::info!(?partitions, topic = self.config.topic, "partitions revoked");
                    // An assignment that was not yet taken up is void.
                    self.queue.retain(|event| !matches!(event, Event::Assigned(..)));
                    self.reading = Reading::Unassigned;
                    self.stopped.clear();
                    self.postponed.clear();
                    self.starting.clear();
                    self.queue.push_back(Event::Revoked(self.active.keys().copied().collect()));
                    self.releasing = Some(Releasing { until: Instant::now() + RELEASE_WAIT, again: Vec::new() });
                }
            }
        }
    }

    pub(super) fn release_when_due(&mut self) {
        if self.releasing.as_ref().is_some_and(|releasing| Instant::now() >= releasing.until) {
            tracing::warn!("partitions go before what was received of them is durable; it will be read again");
            self.release();
        }
    }

    pub(super) fn release(&mut self) {
        let Some(Releasing { again, .. }) = self.releasing.take() else { return };
        // The library sends it before it gives the partitions back, and waits for the answer by
        // itself.
        self.commit(CommitMode::Async);
        for partition in std::mem::take(&mut self.active).into_keys() {
            let _ = self.metrics.lag.remove_label_values(&[&partition.to_string()]);
        }
        self.lag_look = None; // the same numbers may be another topic's partitions next time
        self.is_paused = false;
        if let Err(error) = self.client.unassign() {
            self.warn("cannot give partitions back", &error);
        }
        if !again.is_empty() {
            self.offer(again);
        }
    }

    /// Has what was received made durable, and looks again where the stored positions are in the topic.
    pub(super) fn begin_again(&mut self) {
        if self.releasing.is_none() && !self.active.is_empty() {
            let again: Vec<u32> = self.active.keys().copied().collect();
            self.queue.push_back(Event::Revoked(again.clone()));
            self.releasing = Some(Releasing { until: Instant::now() + RELEASE_WAIT, again });
        }
    }

    /// Stops handing over a partition until its position is known again.
    pub(super) fn fenced(&mut self, partition: u32) {
        if self.releasing.is_some() {
            return; // it is not this process's any more
        }
        let Some(active) = self.active.get_mut(&partition) else { return };
        active.is_held = true;
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.config.topic, signed(partition));
        if let Err(error) = self.client.pause(&list) {
            self.warn("cannot pause", &error);
        }
        self.queue.push_back(Event::Assigned(vec![partition], self.topic_id));
    }

    /// Has partitions started once it is known which topic they are of.
    pub(super) fn offer(&mut self, partitions: Vec<u32>) {
        self.reading = Reading::Assigned { pending: partitions, is_offer_due: true };
        // An answer that is under way may be from before they were assigned.
        self.look = None;
        self.look_at_topic();
    }

    pub(super) fn look_at_topic(&mut self) {
        if self.look.is_none() {
            self.look = Some(TopicLook::ask(self.client.client(), &self.config.topic, ASK_WAIT));
        }
    }

    /// What the brokers say of the topic: that it may be read, and which one it is. A topic that was deleted and made
    /// again is another one, and the positions of the former one say nothing about it.
    pub(super) fn take_look(&mut self) {
        use RDKafkaErrorCode as Code;
        let Some(answer) = self.look.as_ref().and_then(TopicLook::take) else { return };
        self.look = None;
        match answer {
            Ok(look) => {
                self.refused.connection = None;
                self.refused.topic = (!look.is_readable).then(|| unreadable(&self.config.topic));
                self.is_missing = false;
                if look.id != self.topic_id {
                    self.topic_id = look.id;
                    self.starting.clear(); // at positions in the former topic
                    self.postponed.clear();
                    self.begin_again();
                    // What is not started yet was offered as partitions of the former topic.
                    if let Reading::Assigned { pending, is_offer_due } = &mut self.reading {
                        *is_offer_due |= !pending.is_empty();
                    }
                    self.stopped.clear();
                }
                if self.releasing.is_none()
                    && let Reading::Assigned { pending, is_offer_due } = &mut self.reading
                    && std::mem::take(is_offer_due)
                {
                    self.queue.push_back(Event::Assigned(pending.clone(), self.topic_id));
                }
            }
            Err(Code::TopicAuthorizationFailed) => {
                self.refused.connection = None;
                self.refused.topic = Some(unreadable(&self.config.topic));
            }
            Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                self.refused = Refused { connection: None, topic: None, group: self.refused.group.take() };
                self.is_missing = self.active.is_empty();
            }
            // It is asked again in a moment.
            Err(code) => tracing::debug!(%code, topic = self.config.topic, "cannot look at the topic"),
        }
        self.tell_lag();
    }

    pub(super) fn tell_of_another(&self) {
        let (topic, id) = (&self.config.topic, self.topic_id.map(tracing::field::display));
        tracing::warn!(topic, id, "the topic was deleted and made again, reading it from its start");
        self.metrics.remade.inc();
    }
}
