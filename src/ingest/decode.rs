//! Decodes received records to orders for a batch, and rejects records that are no orders.

use super::*;

/// A record being decoded: an array of orders takes several turns.
pub(super) struct Parts {
    pub(super) record: Record,
    /// The elements of an array that are not decoded yet; empty for a record that is no array.
    pub(super) elements: Flatten<option::IntoIter<Cut>>,
    /// How many elements were decoded, where it is an array.
    pub(super) index: Option<usize>,
    pub(super) orders: Vec<Order>,
    /// Why elements were rejected, and how many.
    pub(super) rejected: Option<(Rejection, u64)>,
}

impl Parts {
    pub(super) fn new(record: Record, elements: Option<Cut>) -> Self {
        let index = elements.is_some().then_some(0);
        Self { record, elements: elements.into_iter().flatten(), index, orders: Vec::new(), rejected: None }
    }

    pub(super) fn add(&mut self, decoded: Result<Order, Rejection>) {
        let index = self.index;
        self.index = index.map(|index| index + 1);
        let mut rejection = match decoded {
            Ok(order) => return self.orders.push(order),
            Err(rejection) => rejection,
        };
        if let Some(index) = index {
            rejection.within(index);
        }
        match &mut self.rejected {
            Some((all, count)) => {
                all.join(rejection);
                *count += 1;
            }
            None => self.rejected = Some((rejection, 1)),
        }
    }
}

impl<S: Source, T: Store> Ingest<S, T> {
    /// Decodes up to a burst of received records, or of the elements of one that is an array, into
    /// the batch.
    pub(super) fn decode_some(&mut self) -> Result<(), SourceError> {
        for _ in 0..DECODE_BURST {
            if self.batcher.is_full() {
                return Ok(());
            }
            let mut parts = match self.parts.take() {
                Some(parts) => parts,
                None => match self.received.pop() {
                    Some(record) => self.take_apart(record),
                    None => return Ok(()),
                },
            };
            match parts.elements.next() {
                Some(element) => {
                    let decoded = self.decoder.decode(&element);
                    parts.add(decoded);
                    self.parts = Some(parts);
                }
                None => self.decoded(parts)?,
            }
        }
        Ok(())
    }

    /// A record whose every element has been decoded.
    pub(super) fn decoded(&mut self, Parts { record, mut orders, mut rejected, .. }: Parts) -> Result<(), SourceError> {
        if let Some(too_large) = self.too_large_to_work_on(&orders) {
            rejected = Some((too_large, std::mem::take(&mut orders).len() as u64));
        }
        let must_exist = self.source.must_exist();
        if let Some((rejection, count)) = rejected {
            self.ledger.read += count;
            self.reject(&record, &rejection, rejection.kind.code(), count)?;
        }
        if orders.is_empty() {
            return Ok(());
        }
        self.ledger.read += orders.len() as u64;
        let mut expected_version = None;
        for order in &mut orders {
            match self.source.prepare(&record, order) {
                Ok(known) => expected_version = known,
                Err(rejection) => {
                    let count = orders.len() as u64;
                    return self.reject(&record, &rejection, rejection.kind.code(), count);
                }
            }
        }
        let (mut idempotency, mut condition) = (record.idempotency.clone(), record.condition.clone());
        let owner = record.owner.clone();
        let entries = orders.into_iter().map(|order| Entry {
            order,
            must_exist,
            idempotency: idempotency.take(),
            condition: condition.take(),
            owner: owner.clone(),
            expected_version,
            is_new: false,
        });
        let coalesced = self.batcher.push(record, entries, self.received_at);
        self.ledger.coalesced += coalesced;
        self.metrics.coalesced.inc_by(coalesced);
        Ok(())
    }

    /// The elements of a record that is an array of orders; of any other the order that it is, or
    /// why it is none.
    pub(super) fn take_apart(&mut self, record: Record) -> Parts {
        let whole = match &record.payload {
            None => {
                let id = OrderId::parse(record.key.as_deref().unwrap_or_default());
                let order = id.map(|id| Order::new(id, Command::Delete));
                order.map_err(|error| {
                    let message = format!("null value whose key is no id: {error}");
                    Rejection::whole(RejectionKind::Invalid, message)
                })
            }
            Some(payload) => {
                let elements = if self.source.is_broker() { self.elements.split(payload) } else { Ok(None) };
                match elements {
                    Ok(Some(elements)) => return Parts::new(record, Some(elements)),
                    Ok(None) => match self.source.profile(&record) {
                        None => self.decoder.decode(payload),
                        Some(profile) => self.decoder.decode_as(profile, payload),
                    },
                    Err(rejection) => Err(rejection),
                }
            }
        };
        let mut parts = Parts::new(record, None);
        parts.add(whole);
        parts
    }

    /// Why none of these orders is stored, where a worker is to see them and could not.
    pub(super) fn too_large_to_work_on(&self, orders: &[Order]) -> Option<Rejection> {
        let bytes_max = self.outbox.as_ref()?.payload_bytes_max();
        let payload = |order: &Order| match &order.command {
            Command::Envelope(envelope) => envelope.payload.as_ref().map_or(0, |payload| payload.len()),
            _ => 0,
        };
        let order = orders.iter().find(|order| payload(order) > bytes_max)?;
        let message = format!("larger than the {bytes_max} bytes that get to a worker");
        Some(Rejection::whole(RejectionKind::TooLarge, message).of(Some(order.id.clone())))
    }

    /// Gives a record, or `count` orders of it, back to the source. Its position passes with the
    /// batch.
    pub(super) fn reject(
        &mut self,
        record: &Record,
        rejection: &Rejection,
        reason: &str,
        count: u64,
    ) -> Result<(), SourceError> {
        let parked = match self.source.reject(record, rejection) {
            Parked::Done(result) => Parked::Done(Ok(result?)),
            soon @ Parked::Pending(_) => soon,
        };
        self.count_rejected(reason, count);
        self.batcher.reject(record, parked);
        step("rejected");
        Ok(())
    }

    pub(super) fn count_rejected(&mut self, reason: &str, count: u64) {
        self.ledger.rejected += count;
        self.metrics.processed.with_label_values(&["rejected"]).inc_by(count);
        if self.source.is_broker() {
            self.metrics.dead_lettered.with_label_values(&[reason]).inc();
        }
    }
}
