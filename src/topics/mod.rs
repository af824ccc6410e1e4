//! The topics that instances speak to each other by: what is written to them, and reading them without a group, from
//! now on, all of it.

pub mod publisher;
pub mod tail;

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;

use crate::kafka::broker_watch::Watched;
use crate::kafka::{self, Config, ROOM};

/// Consumer groups, as the brokers know them.
pub struct Groups {
    config: Config,
    client: BaseConsumer<Watched>,
}

impl Groups {
    /// Nothing is connected to yet.
    ///
    /// # Errors
    /// When the settings are not what the library takes.
    pub fn new(config: &Config) -> Result<Self, KafkaError> {
        Ok(Self { config: config.clone(), client: config.reader().create_with_context(Watched::new("groups"))? })
    }

    /// Whether a group has members, or had some lately. Blocks.
    ///
    /// # Errors
    /// When no broker can be asked.
    pub fn has(&mut self, group: &str) -> Result<bool, KafkaError> {
        let asked = self.client.fetch_group_list(Some(group), Duration::from_secs(5));
        if asked.is_err() {
            // It may have lost every broker, and has nothing that is worth keeping.
            self.client = self.config.reader().create_with_context(Watched::new("groups"))?;
        }
        let groups = asked?;
        Ok(groups.groups().iter().any(|known| known.name() == group && !matches!(known.state(), "" | "Dead")))
    }
}

/// Names of the headers of these topics.
pub mod header {
    /// The order's version that a message is about.
    pub const VERSION: &str = "version";
    /// Which face the order has: `wb` or `envelope`.
    pub const KIND: &str = "kind";
    /// What happened to it: `created`, `updated` or `deleted`.
    pub const CHANGE: &str = "change";
    /// Whether it is shown: `live`, `hidden` (readable by its id alone) or `gone`.
    pub const STATE: &str = "state";
    /// Its place in lists.
    pub const SEQ: &str = "seq";
    /// The store it is in.
    pub const STORE: &str = "store";
    /// The instance that published it.
    pub const ORIGIN: &str = "origin";
    /// The version that came of the work, in acknowledgements.
    pub const NOW: &str = "now";
}

/// Makes topics that are missing, with the brokers' defaults but for `compacted` ones and for room for the largest order.
/// Where the brokers do not allow it, their owner has to make them.
///
/// # Errors
/// The first topic that is not there afterwards, and why.
pub async fn make(config: &Config, topics: &[(&str, bool)]) -> Result<(), String> {
    let missing = missing(config, topics).await?;
    if missing.is_empty() {
        return Ok(());
    }
    for (name, is_compacted) in &missing {
        let mut topic = NewTopic::new(name, -1, TopicReplication::Fixed(-1));
        if *is_compacted {
            topic = topic.set(POLICY, COMPACTED);
        }
        match kafka::make_topic(config, topic).await {
            Ok(true) => tracing::info!(topic = name, "topic made"),
            Ok(false) => {}
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Ok(())
}

/// What the brokers say of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// How many bytes a message may have.
    pub room: usize,
    /// Whether the last message of each key stays.
    pub is_compacted: bool,
}

/// What the brokers say of each of these topics, as far as they do.
///
/// # Errors
/// When they cannot be asked, or one of the topics may not be.
pub async fn describe(config: &Config, topics: &[&str]) -> Result<HashMap<String, Described>, String> {
    let admin: AdminClient<_> =
        config.admin().create_with_context(Watched::new("topics")).map_err(|error: KafkaError| error.to_string())?;
    let options = AdminOptions::new().request_timeout(Some(ASK_WAIT));
    let asked: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let resources = admin.describe_configs(&asked, &options).await.map_err(|error| error.to_string())?;
    let mut described = HashMap::new();
    for resource in resources {
        let resource = resource.map_err(|error| error.to_string())?;
        let value = |name: &str| resource.get(name).and_then(|entry| entry.value.clone());
        let (room, policy) = (value(ROOM).and_then(|room| room.parse().ok()), value(POLICY));
        if let (OwnedResourceSpecifier::Topic(topic), Some(room), Some(policy)) = (&resource.specifier, room, policy) {
            described.insert(topic.clone(), Described { room, is_compacted: policy.contains(COMPACTED) });
        }
    }
    Ok(described)
}

/// Topics that the brokers do not know, asked of a client that makes none by asking.
async fn missing(config: &Config, topics: &[(&str, bool)]) -> Result<Vec<(String, bool)>, String> {
    let client: BaseConsumer<_> =
        config.reader().create_with_context(Watched::new("topics")).map_err(|error: KafkaError| error.to_string())?;
    let topics: Vec<(String, bool)> = topics.iter().map(|&(name, is)| (name.to_owned(), is)).collect();
    let look = move || {
        let mut missing = Vec::new();
        for (name, is_compacted) in topics {
            let metadata = client.fetch_metadata(Some(&name), ASK_WAIT)?;
            if metadata.topics().iter().all(|topic| topic.partitions().is_empty()) {
                missing.push((name, is_compacted));
            }
        }
        Ok(missing)
    };
    let looked = tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?;
    looked.map_err(|error: KafkaError| error.to_string())
}

/// The property of a topic that says what becomes of old messages, and the value for the last of each key to stay.
const POLICY: &str = "cleanup.policy";
const COMPACTED: &str = "compact";

/// How long the brokers may take for an answer.
const ASK_WAIT: Duration = Duration::from_secs(10);
