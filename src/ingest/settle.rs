//! What follows once a batch is durable, in the one order that keeps what readers see true.

use super::*;

impl<S: Source, T: Store> Ingest<S, T> {
    /// A change of an order is newer than what was shown before it, and what it leaves as it is no
    /// older. Where it is not, the store has lost what was shown.
    pub(super) fn put_back(&self, shown: &[Version], outcomes: &[Outcome]) {
        let Some(view) = &self.view else { return };
        let mut count = 0;
        for (outcome, shown) in outcomes.iter().zip(shown) {
            let Some((id, snapshot, change)) = outcome.visible() else { continue };
            let least = shown + Version::from(change.is_some());
            if snapshot.version() < least {
                count += 1;
                if let Some(seen) = view.peek(id).filter(|seen| seen.version() == *shown) {
                    view.put_back(id, &seen, Some(snapshot));
                }
            }
        }
        if count > 0 {
            tracing::warn!(
                orders = count,
                "the store went back: what was shown of orders was newer than what it has now"
            );
            view.doubt();
        }
    }

    /// A batch is durable. The order of what follows is the correctness argument: readers never see
    /// what is not durable, and no one is told of what readers do not see.
    pub(super) fn settle(&mut self, ready: ReadyBatch, pinned: Option<Pinned>, stored: Stored) {
        let Stored { to_publish, outcomes, asked, committing } = stored;
        if let Some(redis) = &self.redis {
            // Before readers see it: what they have seen must not come back older from there.
            let is_news = |id: &OrderId, snapshot: &_| self.view.as_ref().is_none_or(|view| view.is_news(id, snapshot));
            let changed = outcomes.iter().filter_map(Outcome::visible);
            let news = changed.filter(|(id, snapshot, change)| change.is_some() || is_news(id, snapshot));
            redis.hand_over(news.map(|(id, snapshot, _)| (id, snapshot)), asked);
        }
        if let Some(view) = &self.view {
            let seen = outcomes.iter().filter_map(|outcome| Some((outcome, outcome.visible()?)));
            let events = seen.filter_map(|(outcome, (id, snapshot, change))| {
                // What an earlier try changed, whose answer was lost, is news only if readers do
                // not see it yet. Where orders leave, that they are not seen says nothing.
                let event = |change| Event::new(id.clone(), snapshot.clone(), change);
                if change.is_none() && view.is_bounded() {
                    // A repeated request is about the order that the first one made, which nothing
                    // keeps in its place.
                    view.apply_remote(event(snapshot.apparent_change()));
                    return None;
                }
                let is_news = change.is_some() || view.fill(id.clone(), snapshot.clone());
                is_news.then(|| {
                    let event = event(change.unwrap_or_else(|| snapshot.apparent_change()));
                    match outcome {
                        // Where orders leave, the store was asked.
                        Outcome::Stored { former, .. } if view.is_bounded() => {
                            Event { former: Former::Known(former.iter().copied().collect()), ..event }
                        }
                        _ => event,
                    }
                })
            });
            view.publish(events.collect());
        }
        let parcel = to_publish.and_then(|to_publish| to_publish.parcel);
        drop((pinned, committing));
        step("visible");
        let now = Instant::now();
        let now_ms = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
        for (outcome, owner) in outcomes.iter().zip(&ready.owners) {
            self.count(outcome);
            let record = &ready.records[*owner];
            let since_arrival = now.saturating_duration_since(record.arrived);
            self.metrics.visible.observe(since_arrival.as_secs_f64());
            let sent_ms = record.timestamp_ms.and_then(|sent_ms| u128::try_from(sent_ms).ok());
            if let Some(sent_ms) = sent_ms.filter(|sent_ms| *sent_ms >= CLOCKS_SINCE_MS) {
                // Clocks of producers may be ahead of ours.
                let took_ms = |until_ms: u128| seconds(until_ms.saturating_sub(sent_ms).min(END_TO_END_MAX_MS));
                self.metrics.arrival.observe(took_ms(now_ms.saturating_sub(since_arrival.as_millis())));
                self.metrics.end_to_end.observe(took_ms(now_ms));
            }
        }
        for (partition, next) in ready.upto.0 {
            if let Some(committed) = self.committed.0.get_mut(&partition) {
                *committed = next;
            } else if !self.source.is_broker() {
                self.committed.0.insert(partition, next);
            }
        }
        let positions = ready.owners.iter().map(|&owner| ready.records[owner].position);
        let changes = parcel.map(|_| outcomes.iter().filter_map(changed).collect());
        self.source.commit(&self.committed, positions.zip(outcomes).collect());
        // Last, so that anyone who waits for what comes of it does so already. It is recorded, so
        // nothing depends on it.
        if let (Some(outbox), Some(parcel), Some(changes)) = (&self.outbox, parcel, changes) {
            outbox.hand_over(parcel, changes);
        }
        step("acknowledged");
    }

    pub(super) fn count(&mut self, outcome: &Outcome) {
        let (column, status) = match outcome {
            Outcome::Stored { id, snapshot, change, .. } => {
                if *change == ChangeKind::Created {
                    self.metrics.created.inc();
                }
                if self.log_orders {
                    tracing::info!(order = %id, version = snapshot.version(), change = change.as_str(), "order stored");
                }
                (&mut self.ledger.stored, "success")
            }
            Outcome::Unchanged { .. } => (&mut self.ledger.unchanged, "unchanged"),
            Outcome::Repeated { .. } => (&mut self.ledger.unchanged, "repeated"),
            // No one waits to be told that nothing is left to change.
            Outcome::WasDeleted { .. } | Outcome::Refused { .. } if self.source.is_broker() => {
                (&mut self.ledger.unchanged, "unchanged")
            }
            Outcome::WasDeleted { .. } | Outcome::Refused { .. } => (&mut self.ledger.refused, "refused"),
        };
        *column += 1;
        self.metrics.processed.with_label_values(&[status]).inc();
    }
}

/// What is to be published of an outcome.
pub(super) fn changed(outcome: &Outcome) -> Option<Changed> {
    match outcome {
        Outcome::Stored { id, snapshot, change, .. } => {
            Some(Changed { id: id.clone(), snapshot: snapshot.clone(), change: *change })
        }
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a histogram")]
pub(super) fn seconds(millis: u128) -> f64 {
    millis as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "batches are small")]
pub(super) fn rows(count: usize) -> f64 {
    count as f64
}
