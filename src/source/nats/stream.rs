//! The stream that has the orders and the durable that reads it: found where they are, made where they are not.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{
    GetStreamByNameError, GetStreamByNameErrorKind, GetStreamErrorKind, RequestErrorKind,
};
use async_nats::jetstream::stream::{RawMessageErrorKind, StorageType, Stream};
use async_nats::jetstream::{Context, ErrorCode, message::StreamMessage, stream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use time::OffsetDateTime;

use crate::nats::Config;

/// Why a stream or durable cannot be used now, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Trouble(pub(super) String);

impl Trouble {
    fn new(what: &str, error: &dyn std::error::Error) -> Self {
        Self(format!("{what}: {error}"))
    }
}

/// Pulls that wait at the server at once.
const WAITING_MAX: i64 = 512;
/// Messages asked for at once where deliveries are missing.
const FETCH_MAX: u64 = 32;

/// Whether there is no one to answer: JetStream is off, or not for this account.
fn is_unanswered(error: &GetStreamByNameError) -> bool {
    // The kind itself is wrapped several times.
    error.to_string().contains(&RequestErrorKind::NoResponders.to_string())
}

/// The stream that takes `subject`; where there is none, one of this name is made if it `may_make` one.
pub(super) async fn take(
    context: &Context,
    subject: &str,
    name: &str,
    may_make: bool,
) -> Result<Option<Stream>, Trouble> {
    match context.stream_by_subject(subject).await {
        Ok(name) => {
            let found = context.get_stream(&name).await;
            return found
                .map(Some)
                .map_err(|error| Trouble::new(&format!("stream {name} cannot be looked at"), &error));
        }
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound && !may_make => return Ok(None),
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => {}
        Err(error) if is_unanswered(&error) => {
            return Err(Trouble("NATS has no JetStream for this user (nats-server -js)".into()));
        }
        Err(error) => return Err(Trouble::new("JetStream cannot be asked for its streams", &error)),
    }
    let config = stream::Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        storage: StorageType::File,
        ..stream::Config::default()
    };
    match context.create_stream(config).await {
        Ok(made) => {
            tracing::info!(stream = name, subject, "stream made");
            Ok(Some(made))
        }
        Err(error) => match context.get_stream(name).await {
            // Another instance may have made it at the same time.
            Ok(found) if found.cached_info().config.subjects.iter().any(|taken| taken == subject) => Ok(Some(found)),
            Ok(_) => Err(Trouble(format!("stream {name} is there and does not take subject {subject}"))),
            Err(missing) if !matches!(missing.kind(), GetStreamErrorKind::JetStream(_)) => {
                Err(Trouble::new(&format!("stream {name} cannot be looked at"), &missing))
            }
            Err(_) => Err(Trouble::new(&format!("stream {name} cannot be made"), &error)),
        },
    }
}

/// The durable of a stream, made where it is missing.
pub(super) async fn durable(stream: &Stream, config: &Config) -> Result<PullConsumer, Trouble> {
    let name = &config.durable;
    match stream.consumer_info(name).await {
        Ok(info) => {
            compatible(&info.config, &stream.cached_info().config.subjects, config)?;
        }
        Err(error) if is_missing(&error) => {
            let wanted = pull::Config {
                durable_name: Some(name.clone()),
                filter_subject: config.subject.clone(),
                deliver_policy: DeliverPolicy::All,
                ack_policy: AckPolicy::Explicit,
                ack_wait: config.ack_wait,
                max_deliver: -1,
                max_ack_pending: i64::try_from(config.in_flight_max).unwrap_or(i64::MAX),
                max_waiting: WAITING_MAX,
                ..pull::Config::default()
            };
            let made = stream.create_consumer(wanted).await;
            let made = made.map_err(|error| Trouble::new(&format!("durable {name} cannot be made"), &error))?;
            tracing::info!(durable = name, stream = stream.cached_info().config.name, "durable made");
            return Ok(made);
        }
        Err(error) => return Err(Trouble::new(&format!("durable {name} cannot be looked at"), &error)),
    }
    match stream.get_consumer::<pull::Config>(name).await {
        Ok(found) => Ok(found),
        Err(error) => Err(Trouble(format!("durable {name} cannot be used: {error}"))),
    }
}

fn is_missing(error: &async_nats::jetstream::context::ConsumerInfoError) -> bool {
    use async_nats::jetstream::context::ConsumerInfoErrorKind as Kind;
    match error.kind() {
        Kind::NotFound => true,
        Kind::JetStream(error) => error.error_code() == ErrorCode::CONSUMER_NOT_FOUND,
        _ => false,
    }
}

/// Whether a durable that someone made is one that can be read from. What it does not say about order and
/// repetition does not matter.
fn compatible(
    found: &async_nats::jetstream::consumer::Config,
    subjects: &[String],
    config: &Config,
) -> Result<(), Trouble> {
    let mut wrong = Vec::new();
    if found.deliver_subject.is_some() {
        wrong.push("it is pushed to a subject instead of pulled".to_owned());
    }
    if found.ack_policy != AckPolicy::Explicit {
        wrong.push(format!("its ack policy is {:?} instead of explicit", found.ack_policy).to_lowercase());
    }
    let reads_all = found.filter_subject.is_empty() && subjects == [config.subject.clone()];
    if found.filter_subject != config.subject && !reads_all {
        let filter = if found.filter_subject.is_empty() { "every subject" } else { &found.filter_subject };
        wrong.push(format!("it reads {filter} instead of {}", config.subject));
    }
    if found.headers_only {
        wrong.push("it delivers headers only".to_owned());
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Trouble(format!(
            "durable {} is not fit for use: {}; delete it or name another one",
            config.durable,
            wrong.join(", ")
        )))
    }
}

/// What the stream has on a subject at or after each of some numbers from `from` on; nothing beyond its end. Asks for
/// no number from `until` on.
pub(super) async fn fetch(
    stream: Stream,
    subject: String,
    from: u64,
    until: u64,
) -> Result<Vec<Option<StreamMessage>>, Trouble> {
    let asked = from..until.min(from.saturating_add(FETCH_MAX));
    let ask = |sequence: u64| {
        let asking = stream.raw_message_builder().sequence(sequence).next_by_subject(subject.clone());
        async move {
            match asking.send().await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(Trouble::new("the stream cannot be read", &error)),
            }
        }
    };
    let width = usize::try_from(FETCH_MAX).unwrap_or(1);
    futures_util::stream::iter(asked.map(ask)).buffered(width).try_collect().await
}

/// How the stream and its durable stand.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// When the stream was made.
    pub created: OffsetDateTime,
    /// The number of the stream's last message, whatever its subject.
    pub last: u64,
    /// The number of the stream's first message that is still there.
    pub first: u64,
    /// The number of the last message that was delivered to anybody.
    pub delivered: u64,
    /// Messages that were never delivered.
    pub undelivered: u64,
    /// Pulls that wait for messages.
    pub waiting: usize,
    /// How long the server waits for an acknowledgement.
    pub ack_wait: Duration,
    /// Whether there is one copy of the stream only, so that no other node can go on with older books.
    pub is_single: bool,
}

/// Looks once.
pub(super) async fn look(stream: Stream, consumer: PullConsumer) -> Result<Look, Trouble> {
    let info = stream.get_info().await.map_err(|error| Trouble::new("the stream cannot be looked at", &error))?;
    let durable = consumer.get_info().await;
    let durable = durable.map_err(|error| Trouble::new("the durable cannot be looked at", &error))?;
    Ok(Look {
        created: info.created,
        last: info.state.last_sequence,
        first: info.state.first_sequence,
        delivered: durable.delivered.stream_sequence,
        undelivered: durable.num_pending,
        waiting: durable.num_waiting,
        ack_wait: durable.config.ack_wait,
        is_single: info.config.num_replicas <= 1 && durable.config.num_replicas <= 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::consumer;

    #[test]
    fn a_durable_of_others_is_used_or_said_why_not() {
        let config = Config::new("nats://127.0.0.1").unwrap();
        let subjects = ["orders".to_owned()];
        let fit = consumer::Config {
            filter_subject: "orders".into(),
            ack_wait: Duration::from_secs(1),
            ..Default::default()
        };
        assert!(compatible(&fit, &[], &config).is_ok());
        let all = consumer::Config { filter_subject: String::new(), ..fit.clone() };
        assert!(compatible(&all, &subjects, &config).is_ok(), "there is nothing else to read");
        let unfit = consumer::Config {
            deliver_subject: Some("x".into()),
            ack_policy: AckPolicy::None,
            filter_subject: String::new(),
            headers_only: true,
            ..fit
        };
        let error = compatible(&unfit, &[subjects[0].clone(), "more".into()], &config).unwrap_err().to_string();
        for part in ["pushed", "ack policy is none", "every subject", "headers only", "order-service-durable"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
