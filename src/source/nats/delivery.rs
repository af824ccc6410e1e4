//! Messages as they arrive: handed over in the order of the stream, kept until they are durable, and acknowledged then.

use std::sync::atomic::Ordering;
use std::time::Instant;

use async_nats::connection::State;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{AckKind, Message};
use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use time::OffsetDateTime as DateTime;

use super::consumer::Consumer;
use super::sequence::{Delivery, SequenceOrder};
use super::states::{Gap, Held};
use crate::record::{Headers, Position, Record};
use crate::source::broker::handover::Event;
use crate::source::broker::tries::acknowledge;

impl Consumer {
    /// Everything below `next` is durable and visible: acknowledged in order, or ended if it is a dead letter.
    pub(super) fn committed(&mut self, next: u64) {
        self.durable = self.durable.max(next);
        while let Some(held) = self.held.pop_front_if(|held| held.sequence < next) {
            if let Some(reply) = held.reply {
                self.replies.push((reply, if held.is_parked { AckKind::Term } else { AckKind::Ack }));
            }
        }
    }

    /// Sends acknowledgements. Those that cannot be sent now are sent when their messages are delivered again.
    pub(super) async fn send_replies(&mut self, client: &Client) {
        if self.replies.is_empty() {
            return;
        }
        let replies = std::mem::take(&mut self.replies);
        if client.connection_state() != State::Connected {
            return;
        }
        let sending = async {
            for (reply, kind) in replies {
                client.publish(reply, kind.into()).await?;
            }
            Ok::<_, async_nats::PublishError>(())
        };
        acknowledge(sending).await;
    }

    /// Has the server wait longer for what is not durable yet.
    pub(super) fn extend_ack_deadline(&mut self) {
        let now = Instant::now();
        for held in &mut self.held {
            if now.duration_since(held.touched) < self.ack_wait / 6 {
                continue;
            }
            if let Some(reply) = &held.reply {
                held.touched = now;
                self.replies.push((reply.clone(), AckKind::Progress));
            }
        }
    }

    pub(super) fn hand_over(&mut self, records: Vec<Record>) {
        if !records.is_empty() {
            self.handover.push(Event::Records(records));
            self.handover.flush(self.is_stopping);
        }
    }

    /// Takes a delivered message, or finds that something is missing before it.
    pub(super) fn arrive(&mut self, message: Message, records: &mut Vec<Record>) {
        let Ok(info) = message.info() else {
            tracing::debug!("a message without its place in a stream");
            return;
        };
        self.has_arrived = true;
        self.received_at = Instant::now();
        let delivery =
            Delivery { sequence: info.stream_sequence, number: info.consumer_sequence, is_first: info.delivered == 1 };
        if !delivery.is_first {
            self.metrics.redelivered.inc();
        }
        let connections = self.connections.load(Ordering::Acquire);
        if self.numbered != connections || !self.is_single {
            self.numbered = connections;
            self.sequence.forget_numbers();
        }
        match self.sequence.place(delivery) {
            SequenceOrder::InOrder => {
                let published = info.published;
                self.pass(delivery.sequence, message, published, records);
            }
            SequenceOrder::Gap => {
                self.gap = Some(Gap { until: delivery.sequence, arrived: Some(message), deadline: None });
            }
            SequenceOrder::Duplicate => self.repeated(delivery.sequence, message),
        }
    }

    /// A message that was handed over before.
    pub(super) fn repeated(&mut self, sequence: u64, message: Message) {
        let Some(reply) = message.message.reply else { return };
        match self.held.binary_search_by_key(&sequence, |held| held.sequence) {
            Ok(index) => {
                self.held[index].reply = Some(reply);
                self.held[index].touched = Instant::now();
            }
            Err(_) if sequence < self.durable => self.replies.push((reply, AckKind::Ack)),
            // What is neither held nor durable belongs to a former life of this partition, and comes again.
            Err(_) => {}
        }
    }

    pub(super) fn pass(&mut self, sequence: u64, message: Message, published: DateTime, records: &mut Vec<Record>) {
        let message = message.message;
        self.sequence.pass(sequence);
        self.hold(sequence, message.reply);
        records.push(self.record(sequence, message.payload, message.headers.as_ref(), published));
    }

    pub(super) fn hold(&mut self, sequence: u64, reply: Option<Subject>) {
        self.held.push_back(Held { sequence, reply, touched: Instant::now(), is_parked: false });
    }

    pub(super) fn record(
        &self,
        sequence: u64,
        payload: Bytes,
        headers: Option<&HeaderMap>,
        published: DateTime,
    ) -> Record {
        Record {
            position: Position { partition: self.partition.unwrap_or_default(), offset: sequence },
            payload: Some(payload),
            key: None,
            idempotency: None,
            condition: None,
            owner: None,
            timestamp_ms: i64::try_from(published.unix_timestamp_nanos() / 1_000_000).ok(),
            arrived: Instant::now(),
            headers: headers.filter(|headers| !headers.is_empty()).map(|headers| Box::new(copied(headers))),
        }
    }

    /// What the stream has where deliveries are missing.
    pub(super) fn found(&mut self, found: Vec<Option<StreamMessage>>) {
        let Some(gap) = &mut self.gap else { return };
        let numbers: Vec<_> = found.iter().map(|found| found.as_ref().map(|message| message.sequence)).collect();
        let (missing, is_whole) = self.sequence.fill(gap.until, &numbers);
        let is_over = is_whole || gap.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let arrived = if is_whole { gap.arrived.take() } else { None };
        if is_over {
            self.gap = None;
        }
        self.metrics.filled.inc_by(missing.len() as u64);
        let mut found = found;
        let mut records = Vec::with_capacity(missing.len() + 1);
        for index in missing {
            let Some(message) = found[index].take() else { continue };
            self.hold(message.sequence, None);
            records.push(self.record(message.sequence, message.payload, Some(&message.headers), message.time));
        }
        if let Some(message) = arrived
            && let Ok((sequence, published)) = message.info().map(|info| (info.stream_sequence, info.published))
        {
            self.pass(sequence, message, published, &mut records);
        }
        self.hand_over(records);
    }
}

pub(super) fn copied(headers: &HeaderMap) -> Headers {
    let each = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    each.map(|(name, value)| (name.to_string(), Some(Bytes::copy_from_slice(value.as_str().as_bytes())))).collect()
}
