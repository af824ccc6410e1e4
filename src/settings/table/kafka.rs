//! Details of Kafka.

use super::*;

/// In the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "kafka.topic",
        flag: "kafka-topic",
        env: &["KAFKA_TOPIC"],
        value: "TOPIC",
        help: "Topic to take orders from",
        default: "orders",
        apply: |config, values| {
            let value = topic(one(values)?)?;
            on_kafka(config, |kafka| kafka.topic = value);
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
            on_kafka(config, |kafka| kafka.group = value);
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
            on_kafka(config, |kafka| kafka.dlq_topic = value);
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
            on_kafka(config, |kafka| (kafka.events_topic, kafka.workers) = (value, Workers::On));
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
            on_kafka(config, |kafka| (kafka.ack_topic, kafka.workers) = (value, Workers::On));
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
            on_kafka(config, |kafka| kafka.worker_group = value);
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
            on_kafka(config, |kafka| kafka.workers = value);
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
            on_kafka(config, |kafka| kafka.snapshots_topic = value);
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
            on_kafka(config, |kafka| kafka.snapshots = value);
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
            on_kafka(config, |kafka| kafka.instance_id = value);
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
            on_kafka(config, |kafka| kafka.session_timeout = value);
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
            on_kafka(config, |kafka| kafka.stall_timeout = value);
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
            on_kafka(config, |kafka| kafka.lag_max = value);
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
                let value = if crate::kafka::BROKERS.contains(&name) { brokers(value)? } else { value.to_owned() };
                on_kafka(config, |kafka| _ = kafka.properties.insert(name.to_owned(), value));
            }
            Ok(())
        },
        ..OF_KAFKA
    },
];
