//! Topics and groups, as the brokers know them: which are missing, making them, how they are set up.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::Config;
use super::broker_watch::Watched;

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
        match make_topic(config, topic).await {
            Ok(true) => tracing::info!(topic = name, "topic made"),
            Ok(false) => {}
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Ok(())
}

/// The property of a topic that says how many bytes a message may have.
pub const ROOM: &str = "max.message.bytes";

/// Makes a topic with room for the largest order, or for the brokers' default where they do not allow that much. Returns
/// whether it was not there.
///
/// # Errors
/// Why it is not there now.
pub async fn make_topic(config: &Config, mut topic: NewTopic<'_>) -> Result<bool, KafkaError> {
    let admin: AdminClient<_> = config.admin().create_with_context(Watched::new("topics"))?;
    let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(10)));
    let room = config.message_bytes_max().to_string();
    topic.config.push((ROOM, &room));
    let mut is_asked_again = false;
    loop {
        let made = admin.create_topics([&topic], &options).await?;
        match made.into_iter().find_map(Result::err) {
            None => return Ok(true),
            // By another instance, at the same time, or by a broker that had no time left to say so.
            Some((_, RDKafkaErrorCode::TopicAlreadyExists)) => return Ok(is_asked_again),
            Some((_, RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::OperationTimedOut)) if !is_asked_again => {
                is_asked_again = true;
            }
            Some((_, RDKafkaErrorCode::InvalidConfig | RDKafkaErrorCode::PolicyViolation))
                if topic.config.iter().any(|(name, _)| *name == ROOM) =>
            {
                topic.config.retain(|(name, _)| *name != ROOM);
            }
            Some((_, error)) => return Err(KafkaError::AdminOp(error)),
        }
    }
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
