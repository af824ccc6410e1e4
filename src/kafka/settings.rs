//! Settings of Kafka.

use super::{BROKERS, Config, Snapshots, Workers, properties};
use crate::setting::{Setting, count, duration, on, one};

const OF_KAFKA: Setting<Option<Config>> = Setting { needs: &["kafka.brokers"], ..Setting::DETAIL };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Option<Config>>] = &[
    Setting {
        key: "kafka.brokers",
        flag: "kafka",
        env: &["KAFKA_BROKERS"],
        value: "BROKERS",
        help: "Kafka to take orders from: host:port, several separated by commas",
        apply: |config, values| {
            *config = Some(Config::new(brokers(&values.join(","))?));
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "kafka.topic",
        flag: "kafka-topic",
        env: &["KAFKA_TOPIC"],
        value: "TOPIC",
        help: "Topic to take orders from",
        default: "orders",
        apply: |config, values| {
            let value = topic(one(values)?)?;
            on(config, |kafka| kafka.topic = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.group",
        flag: "kafka-group",
        env: &["KAFKA_GROUP_ID"],
        value: "GROUP",
        help: "Consumer group that shares the partitions",
        default: "order-service",
        apply: |config, values| {
            let value = one(values)?.to_owned();
            on(config, |kafka| kafka.group = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.dlq_topic",
        flag: "kafka-dlq-topic",
        env: &["KAFKA_DLQ_TOPIC", "ORDER_KAFKA_DLQ_TOPIC"],
        value: "TOPIC",
        help: "Topic for messages that are no valid order",
        default: "orders.dlq",
        apply: |config, values| {
            let value = topic(one(values)?)?;
            on(config, |kafka| kafka.dlq_topic = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.events_topic",
        flag: "kafka-events-topic",
        env: &["ORDERS_EVENTS_TOPIC"],
        value: "TOPIC",
        help: "Topic for writes that a worker is to process; to name it says that there is one",
        default: "orders.events",
        apply: |config, values| {
            let value = topic(one(values)?)?;
            on(config, |kafka| kafka.events_topic = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.ack_topic",
        flag: "kafka-ack-topic",
        env: &["ORDERS_ACK_TOPIC"],
        value: "TOPIC",
        help: "Topic where workers say what they have processed; to name it says that there is one",
        default: "orders.ack",
        apply: |config, values| {
            let value = topic(one(values)?)?;
            on(config, |kafka| kafka.ack_topic = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.worker_group",
        flag: "kafka-worker-group",
        env: &["WORKER_GROUP"],
        value: "GROUP",
        help: "Consumer group of the workers",
        default: "order-workers",
        apply: |config, values| {
            let value = one(values)?.to_owned();
            on(config, |kafka| kafka.worker_group = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.workers",
        flag: "kafka-workers",
        env: &["ORDER_KAFKA_WORKERS"],
        value: "auto|on|off",
        help: "Whether writes wait for a worker; auto does once its group is known to the brokers",
        default: "auto",
        apply: |config, values| {
            let value = match one(values)? {
                "auto" => Workers::Auto,
                "on" => Workers::On,
                "off" => Workers::Off,
                other => return Err(format!("{other:?} is neither auto, on nor off")),
            };
            on(config, |kafka| kafka.workers = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.snapshots_topic",
        flag: "kafka-snapshots-topic",
        env: &["ORDERS_SNAPSHOTS_TOPIC"],
        value: "TOPIC",
        help: "Compacted topic for committed changes, which other instances follow; off is --kafka-snapshots off",
        default: "orders.snapshots",
        apply: |config, values| {
            let value = one(values)?;
            let value = if value == "off" { None } else { Some(topic(value)?) };
            on(config, |kafka| kafka.snapshots_topic = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.snapshots",
        flag: "kafka-snapshots",
        env: &["KAFKA_SNAPSHOTS", "ORDER_KAFKA_SNAPSHOTS"],
        value: "auto|on|off",
        help: "Whether committed changes are published; auto does while another instance follows them",
        default: "auto",
        apply: |config, values| {
            let value = match one(values)? {
                "auto" => Snapshots::Auto,
                "on" => Snapshots::On,
                "off" => Snapshots::Off,
                other => return Err(format!("{other:?} is neither auto, on nor off")),
            };
            on(config, |kafka| kafka.snapshots = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.instance_id",
        flag: "kafka-instance-id",
        env: &["KAFKA_INSTANCE_ID", "ORDER_KAFKA_INSTANCE_ID"],
        value: "NAME",
        help: "Name in the group; with one, a quick restart moves no partition",
        apply: |config, values| {
            let value = Some(one(values)?.to_owned());
            on(config, |kafka| kafka.instance_id = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.session_timeout",
        flag: "kafka-session-timeout",
        env: &["ORDER_KAFKA_SESSION_TIMEOUT"],
        value: "TIME",
        help: "How long the group waits for a silent member",
        default: "10s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            on(config, |kafka| kafka.session_timeout = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.stall_timeout",
        flag: "kafka-stall-timeout",
        env: &["ORDER_KAFKA_STALL_TIMEOUT"],
        value: "TIME",
        help: "A consumer that is behind and receives nothing for this long is made again",
        default: "60s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            on(config, |kafka| kafka.stall_timeout = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.lag_max",
        flag: "kafka-lag-max",
        env: &["ORDER_KAFKA_LAG_MAX"],
        value: "N",
        help: "Messages behind at which the service still counts as ready",
        default: "10000",
        apply: |config, values| {
            let value = count(one(values)?, 0)? as u64;
            on(config, |kafka| kafka.lag_max = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "kafka.property",
        flag: "kafka-property",
        env: &["KAFKA_PROPERTIES", "ORDER_KAFKA_PROPERTIES"],
        value: "NAME=VALUE",
        help: "Property of librdkafka, for security and tuning; may repeat",
        is_repeated: true,
        is_secret: true,
        apply: |config, values| {
            for text in values {
                let (name, value) = properties::pair(text)?;
                let value = if BROKERS.contains(&name) { brokers(value)? } else { value.to_owned() };
                on(config, |kafka| _ = kafka.properties.insert(name.to_owned(), value));
            }
            Ok(())
        },
        ..OF_KAFKA
    },
];

/// Kafka's bootstrap servers: `host:port`, several separated by commas.
fn brokers(text: &str) -> Result<String, String> {
    let brokers: Vec<&str> = text.split([',', ' ', '\n']).filter(|broker| !broker.is_empty()).collect();
    if text.contains('@') {
        return Err("has a user or a password: those are properties, such as sasl.username and sasl.password".into());
    }
    for broker in &brokers {
        let port = broker.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
        if !port.is_some_and(|port| matches!(port.parse::<u16>(), Ok(1..))) {
            return Err(format!("{broker:?} is no broker such as kafka-1:9092"));
        }
    }
    if brokers.is_empty() { Err("names no broker".into()) } else { Ok(brokers.join(",")) }
}

/// A legal name of a topic.
pub fn topic(text: &str) -> Result<String, String> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=249).contains(&text.len()) && text.bytes().all(is_legal) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no topic name: 1 to 249 of letters, digits, dot, underscore and hyphen"))
    }
}
