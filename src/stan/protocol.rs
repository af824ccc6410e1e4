//! The messages of NATS Streaming, as `protocol.proto` of `stan.go` has them. Only their fields are
//! here; who sends what to whom is in `session`.

/// A client comes. Answered by [`ConnectResponse`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConnectRequest {
    /// The client's name.
    #[prost(string, tag = "1")]
    pub client_id: String,
    /// Where the server asks whether the client lives.
    #[prost(string, tag = "2")]
    pub heartbeat_inbox: String,
    /// The protocol of the client: 1 knows pings.
    #[prost(int32, tag = "3")]
    pub protocol: i32,
    /// What tells this connection from earlier ones of the client.
    #[prost(bytes = "bytes", tag = "4")]
    pub connection: bytes::Bytes,
    /// Seconds between two pings of the client.
    #[prost(int32, tag = "5")]
    pub ping_interval: i32,
    /// Pings without an answer after which the connection counts as lost.
    #[prost(int32, tag = "6")]
    pub ping_max_out: i32,
}

/// Where a client that was let in sends what.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConnectResponse {
    /// What stands before the name of a channel to publish to it.
    #[prost(string, tag = "1")]
    pub publish_prefix: String,
    /// For [`SubscriptionRequest`].
    #[prost(string, tag = "2")]
    pub subscribe: String,
    /// For [`UnsubscribeRequest`]; the durable is forgotten.
    #[prost(string, tag = "3")]
    pub unsubscribe: String,
    /// For [`CloseRequest`].
    #[prost(string, tag = "4")]
    pub close: String,
    /// Why it was not let in; empty when it was.
    #[prost(string, tag = "5")]
    pub error: String,
    /// For [`UnsubscribeRequest`]; the durable is kept.
    #[prost(string, tag = "6")]
    pub close_subscription: String,
    /// For [`Ping`]; empty where the server knows none.
    #[prost(string, tag = "7")]
    pub ping: String,
    /// Seconds between two pings.
    #[prost(int32, tag = "8")]
    pub ping_interval: i32,
    /// Pings without an answer after which the connection counts as lost.
    #[prost(int32, tag = "9")]
    pub ping_max_out: i32,
    /// The protocol of the server.
    #[prost(int32, tag = "10")]
    pub protocol: i32,
}

/// Is the client still let in?
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ping {
    /// The connection.
    #[prost(bytes = "bytes", tag = "1")]
    pub connection: bytes::Bytes,
}

/// An answer that says no more than what went wrong: to [`Ping`], [`CloseRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    /// What went wrong; empty when nothing did.
    #[prost(string, tag = "1")]
    pub error: String,
}

/// A message to a channel.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PubMsg {
    /// The client.
    #[prost(string, tag = "1")]
    pub client_id: String,
    /// Tells this message from others.
    #[prost(string, tag = "2")]
    pub guid: String,
    /// The channel.
    #[prost(string, tag = "3")]
    pub subject: String,
    /// The payload.
    #[prost(bytes = "bytes", tag = "5")]
    pub data: bytes::Bytes,
    /// The connection.
    #[prost(bytes = "bytes", tag = "6")]
    pub connection: bytes::Bytes,
}

/// The channel has a message, or not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PubAck {
    /// Which message.
    #[prost(string, tag = "1")]
    pub guid: String,
    /// Why it has not; empty when it has.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// A message of a channel.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MsgProto {
    /// Its place there; the first is 1, and none is left out.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// The channel.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// The payload.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: bytes::Bytes,
    /// When the server took it, in nanoseconds since 1970.
    #[prost(int64, tag = "5")]
    pub timestamp: i64,
    /// Whether it was delivered before.
    #[prost(bool, tag = "6")]
    pub redelivered: bool,
}

/// A message was dealt with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ack {
    /// The channel.
    #[prost(string, tag = "1")]
    pub subject: String,
    /// Which message.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
}

/// A client wants the messages of a channel. Answered by [`SubscriptionResponse`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubscriptionRequest {
    /// The client.
    #[prost(string, tag = "1")]
    pub client_id: String,
    /// The channel.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// Where messages are delivered.
    #[prost(string, tag = "4")]
    pub inbox: String,
    /// Messages delivered and not acknowledged, at most.
    #[prost(int32, tag = "5")]
    pub in_flight_max: i32,
    /// Seconds until one that is not acknowledged is delivered again.
    #[prost(int32, tag = "6")]
    pub ack_wait_seconds: i32,
    /// The name under which the server notes what was acknowledged; empty for none.
    #[prost(string, tag = "7")]
    pub durable: String,
    /// Where a subscription begins that is not noted yet: a [`Start`].
    #[prost(enumeration = "Start", tag = "10")]
    pub start: i32,
    /// The place for [`Start::Sequence`].
    #[prost(uint64, tag = "11")]
    pub start_sequence: u64,
}

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Start {
    /// With what comes.
    New = 0,
    /// With the last message that is there.
    Last = 1,
    /// With a message by its place, or the next that is there.
    Sequence = 3,
    /// With the first that is there.
    First = 4,
}

/// Where acknowledgements go.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubscriptionResponse {
    /// For [`Ack`].
    #[prost(string, tag = "2")]
    pub ack_inbox: String,
    /// What went wrong; empty when nothing did.
    #[prost(string, tag = "3")]
    pub error: String,
}

/// A subscription ends. Answered by [`SubscriptionResponse`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnsubscribeRequest {
    /// The client.
    #[prost(string, tag = "1")]
    pub client_id: String,
    /// The channel.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// The subscription's `ack_inbox`, which names it.
    #[prost(string, tag = "3")]
    pub inbox: String,
    /// The subscription's durable.
    #[prost(string, tag = "4")]
    pub durable: String,
}

/// A client goes. Answered by [`Answer`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct CloseRequest {
    /// The client.
    #[prost(string, tag = "1")]
    pub client_id: String,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// Bytes written by `stan.go` 0.10.4.
    #[test]
    fn messages_have_the_fields_of_the_protocol() {
        let message = MsgProto {
            sequence: 300,
            subject: "orders".into(),
            data: bytes::Bytes::from_static(b"{}"),
            timestamp: 1,
            redelivered: true,
        };
        assert_eq!(message.encode_to_vec(), b"\x08\xac\x02\x12\x06orders\x22\x02{}\x28\x01\x30\x01");
        let request = SubscriptionRequest {
            client_id: "c".into(),
            subject: "orders".into(),
            inbox: "i".into(),
            in_flight_max: 1,
            ack_wait_seconds: 30,
            durable: "d".into(),
            start: Start::Sequence.into(),
            start_sequence: 7,
        };
        let expected = b"\x0a\x01c\x12\x06orders\x22\x01i\x28\x01\x30\x1e\x3a\x01d\x50\x03\x58\x07";
        assert_eq!(request.encode_to_vec(), expected);
        // Fields that newer servers add are passed over.
        assert_eq!(Answer::decode(&b"\x0a\x01x\xa0\x06\x01"[..]).unwrap().error, "x");
    }
}
