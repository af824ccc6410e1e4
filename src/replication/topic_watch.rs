//! Looks after the topics that are published to, and says where they are not set up as orders need it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::kafka::{Config, topics};
use crate::record::Contents;

/// How often is looked how the topics are set up.
const TOPICS_EVERY: Duration = Duration::from_secs(30);

/// Finds out how large messages may be and what becomes of old ones, and says where that is not what orders need. Where
/// the brokers do not tell, messages show it.
pub(super) async fn watch_topics(config: Config, contents: Contents, event_bytes_max: Arc<AtomicUsize>) -> Infallible {
    let snapshots = config.snapshots_topic.as_deref().filter(|_| contents.snapshots);
    let events = Some(config.events_topic.as_str()).filter(|_| contents.events);
    let wanted: Vec<&str> = snapshots.into_iter().chain(events).collect();
    let mut last = HashMap::new();
    loop {
        match topics::describe(&config, &wanted).await {
            Ok(described) => {
                if let Some(events) = described.get(&config.events_topic) {
                    event_bytes_max.store(events.room, Ordering::Relaxed);
                }
                let needed = config.message_bytes_max();
                for (topic, now) in described.iter().filter(|(topic, now)| last.get(*topic) != Some(*now)) {
                    if now.room < needed {
                        tracing::warn!(
                            topic,
                            room = now.room,
                            needed,
                            "the topic has no room for the largest orders, which are not published there; set its \
                             max.message.bytes to what is needed, or a smaller order_bytes_max"
                        );
                    }
                    if Some(topic.as_str()) == snapshots && !now.is_compacted {
                        tracing::warn!(
                            topic,
                            "the topic is not compacted: old snapshots go with their time, and what reads it from its \
                             start does not find every order; set its cleanup.policy to compact"
                        );
                    }
                }
                last = described;
            }
            Err(error) => tracing::debug!(error, "the brokers do not say how the topics are set up"),
        }
        tokio::time::sleep(TOPICS_EVERY).await;
    }
}
