//! A client's session with a cluster. The server asks the client at its heartbeat inbox whether it
//! lives, and the client asks the server by pings whether it is still let in; both go on by
//! themselves until the session is dropped or lost.
//!
//! The server lets a client name in once. One that comes while it is taken is refused if the former
//! client answers at its inbox, and takes its place otherwise: so a client that has crashed does
//! not keep its next life out.

use std::time::Duration;

use async_nats::{Client, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::protocol::{
    Ack, Answer, CloseRequest, ConnectRequest, ConnectResponse, MsgProto, Ping, PubAck, PubMsg, Start,
    SubscriptionRequest, SubscriptionResponse, UnsubscribeRequest,
};

/// How long the cluster may take for an answer. Whether a former client lives takes it half a
/// second.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How often the client asks whether it is still let in, and how many answers may be missing.
const PING_SECONDS: i32 = 2;
const PING_MAX_OUT: i32 = 4;
/// The protocol that has pings.
const PROTOCOL: i32 = 1;
/// What the server says to a client whose name is taken.
const TAKEN: &str = "clientID already registered";

/// Why there is no session, or no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Another client has the name, and lives.
    #[error("another client is connected under this name")]
    Taken,
    /// Nothing listens for this cluster.
    #[error("there is no cluster of this name behind these servers")]
    NoCluster,
    /// A message is larger than the servers take.
    #[error("the message is larger than the servers take")]
    TooLarge,
    /// The cluster says no.
    #[error("{0}")]
    Refused(String),
    /// No answer, or none that can be read.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

/// A client that was let in.
pub struct Session {
    client: Client,
    name: String,
    connection: Bytes,
    subjects: ConnectResponse,
    lost: watch::Receiver<Option<String>>,
    _tasks: [Task; 2],
}

/// Ends with its handle: a client that answered on at its heartbeat inbox would keep the next one
/// out.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Messages of a channel, from [`Session::subscribe`].
pub struct Subscription {
    messages: Subscriber,
    subject: String,
    durable: String,
    ack_inbox: String,
}

/// What a subscription is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The channel.
    pub subject: String,
    /// The name under which the server notes what was acknowledged; empty for none.
    pub durable: String,
    /// Where one begins that is not noted yet.
    pub start: Start,
    /// The place for [`Start::Sequence`].
    pub sequence: u64,
    /// Messages delivered and not acknowledged, at most.
    pub in_flight_max: usize,
    /// How long one that is not acknowledged is waited for; whole seconds count, at least one.
    pub ack_wait: Duration,
}

impl Session {
    /// Comes in as `name`.
    ///
    /// # Errors
    /// [`SessionError::Taken`], [`SessionError::NoCluster`] and others.
    pub async fn open(client: Client, cluster: &str, name: &str) -> Result<Self, SessionError> {
        let inbox = client.new_inbox();
        let heartbeats = client.subscribe(inbox.clone()).await.map_err(no_answer)?;
        let answering = Task(tokio::spawn(answer_heartbeats(client.clone(), heartbeats)));
        let connection = Bytes::from(format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)));
        let request = ConnectRequest {
            client_id: name.into(),
            heartbeat_inbox: inbox,
            protocol: PROTOCOL,
            connection: connection.clone(),
            ping_interval: PING_SECONDS,
            ping_max_out: PING_MAX_OUT,
        };
        let answer = ask::<ConnectResponse>(&client, format!("_STAN.discover.{cluster}"), &request).await;
        let subjects = answer.and_then(|subjects| match subjects.error.as_str() {
            "" => Ok(subjects),
            error if error.contains(TAKEN) => Err(SessionError::Taken),
            error => Err(SessionError::Refused(error.into())),
        })?;
        let (loses, lost) = watch::channel(None);
        let pinging = Task(tokio::spawn(ping(client.clone(), subjects.clone(), connection.clone(), loses)));
        Ok(Self { client, name: name.into(), connection, subjects, lost, _tasks: [answering, pinging] })
    }

    /// Waits until the cluster does not know this client any more or does not answer, and says why.
    /// Cancel-safe.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.clone();
        let lost = lost.wait_for(Option::is_some).await;
        lost.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "the session has ended".into())
    }

    /// Begins to receive.
    ///
    /// # Errors
    /// When the cluster refuses or does not answer.
    pub async fn subscribe(&self, wanted: &Wanted) -> Result<Subscription, SessionError> {
        let inbox = self.client.new_inbox();
        let messages = self.client.subscribe(inbox.clone()).await.map_err(no_answer)?;
        let request = SubscriptionRequest {
            client_id: self.name.clone(),
            subject: wanted.subject.clone(),
            inbox,
            in_flight_max: i32::try_from(wanted.in_flight_max).unwrap_or(i32::MAX),
            ack_wait_seconds: i32::try_from(wanted.ack_wait.as_secs().max(1)).unwrap_or(i32::MAX),
            durable: wanted.durable.clone(),
            start: wanted.start.into(),
            start_sequence: wanted.sequence,
        };
        let answer: SubscriptionResponse = ask(&self.client, self.subjects.subscribe.clone(), &request).await?;
        if !answer.error.is_empty() {
            return Err(SessionError::Refused(answer.error));
        }
        let (subject, durable) = (wanted.subject.clone(), wanted.durable.clone());
        Ok(Subscription { messages, subject, durable, ack_inbox: answer.ack_inbox })
    }

    /// Says that a message of a subscription is dealt with. Sent, not waited for: what gets lost is
    /// delivered again.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn acknowledge(&self, subscription: &Subscription, sequence: u64) -> Result<(), SessionError> {
        let ack = Ack { subject: subscription.subject.clone(), sequence };
        let sent = self.client.publish(subscription.ack_inbox.clone(), ack.encode_to_vec().into()).await;
        sent.map_err(no_answer)
    }

    /// Ends a subscription. What the server notes of a durable stays.
    ///
    /// # Errors
    /// When the cluster refuses or does not answer.
    pub async fn close_subscription(&self, subscription: Subscription) -> Result<(), SessionError> {
        let Subscription { subject, durable, ack_inbox, .. } = subscription;
        let request = UnsubscribeRequest { client_id: self.name.clone(), subject, inbox: ack_inbox, durable };
        let answer: SubscriptionResponse =
            ask(&self.client, self.subjects.close_subscription.clone(), &request).await?;
        if answer.error.is_empty() { Ok(()) } else { Err(SessionError::Refused(answer.error)) }
    }

    /// Writes to a channel and waits until it has the message.
    ///
    /// # Errors
    /// [`SessionError::TooLarge`] and others; without an answer the channel may have it or not.
    pub async fn publish(&self, subject: &str, data: Bytes) -> Result<(), SessionError> {
        let message = PubMsg {
            client_id: self.name.clone(),
            guid: format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
            subject: subject.into(),
            data,
            connection: self.connection.clone(),
        };
        if message.encoded_len() > self.client.server_info().max_payload {
            return Err(SessionError::TooLarge);
        }
        let answer: PubAck = ask(&self.client, format!("{}.{subject}", self.subjects.publish_prefix), &message).await?;
        if answer.error.is_empty() { Ok(()) } else { Err(SessionError::Refused(answer.error)) }
    }

    /// Goes: the name is free, and durables stay. Not for a session that was lost: the server
    /// closes whichever client has the name. Where the cluster does not answer it finds out by
    /// itself.
    ///
    /// # Errors
    /// When the cluster refuses or does not answer.
    pub async fn close(&self) -> Result<(), SessionError> {
        let request = CloseRequest { client_id: self.name.clone() };
        let answer: Answer = ask(&self.client, self.subjects.close.clone(), &request).await?;
        if answer.error.is_empty() { Ok(()) } else { Err(SessionError::Refused(answer.error)) }
    }
}

impl Subscription {
    /// The next message. `None` when the connection has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<MsgProto> {
        loop {
            let message = self.messages.next().await?;
            match MsgProto::decode(message.payload) {
                Ok(message) => return Some(message),
                Err(error) => tracing::debug!(%error, "what was delivered is no message of NATS Streaming"),
            }
        }
    }
}

async fn answer_heartbeats(client: Client, mut heartbeats: Subscriber) {
    while let Some(heartbeat) = heartbeats.next().await {
        if let Some(reply) = heartbeat.reply {
            let _ = client.publish(reply, Bytes::new()).await; // the next one comes
        }
    }
}

async fn ping(client: Client, subjects: ConnectResponse, connection: Bytes, loses: watch::Sender<Option<String>>) {
    if subjects.ping.is_empty() {
        return std::future::pending().await; // a server from before there were pings
    }
    let every = Duration::from_secs(u64::try_from(subjects.ping_interval).unwrap_or_default().max(1));
    let (mut out, ping) = (0, Ping { connection });
    loop {
        tokio::time::sleep(every).await;
        let asked = ask::<Answer>(&client, subjects.ping.clone(), &ping);
        let reason = match tokio::time::timeout(every, asked).await {
            Ok(Ok(answer)) if answer.error.is_empty() => {
                out = 0;
                continue;
            }
            Ok(Ok(answer)) => answer.error,
            Ok(Err(_)) | Err(_) => {
                out += 1;
                if out < subjects.ping_max_out.max(1) {
                    continue;
                }
                "it does not answer".into()
            }
        };
        loses.send_replace(Some(reason));
        return;
    }
}

async fn ask<A: Message + Default>(
    client: &Client,
    subject: String,
    request: &impl Message,
) -> Result<A, SessionError> {
    let asked = client.request(subject, request.encode_to_vec().into());
    let answer = tokio::time::timeout(ANSWER_TIME, asked).await.map_err(no_answer)?;
    let answer = answer.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => SessionError::NoCluster,
        _ => no_answer(error),
    })?;
    A::decode(answer.payload).map_err(no_answer)
}

fn no_answer(error: impl std::fmt::Display) -> SessionError {
    SessionError::NoAnswer(error.to_string())
}
