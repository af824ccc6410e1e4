//! How Kafka is reached: settings become client configurations ([`config`]); one producer
//! ([`producer`], and [`publisher`] over it), topics and groups ([`topics`]), reading a topic without
//! a group ([`tail`]); what the binding cannot do is asked of the library itself (brokers, topic ids,
//! offsets, headers).

pub mod admin_question;
pub mod broker_watch;
pub mod config;
pub mod offset_look;
pub mod producer;
pub mod properties;
pub mod publisher;
pub mod settings;
pub mod tail;
pub mod topic_look;
pub mod topics;

use std::ffi::{CStr, CString};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{IsError as _, KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;

pub use config::{BROKERS, Config, Snapshots, Workers};

fn checked(code: RDKafkaRespErr) -> Result<(), RDKafkaErrorCode> {
    if code.is_error() { Err(code.into()) } else { Ok(()) }
}

/// Where a partition starts and ends. Blocks; [`offset_look::OffsetLook`] is for threads that must
/// not.
///
/// A partition that seems to be empty is asked about again: on a busy machine the library was seen to answer that of one
/// with messages (it sends two requests, and looks at their answers without an error of the partition in them).
///
/// # Errors
/// When its broker cannot be asked, or does not know.
pub fn watermarks<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partition: i32,
    time: Duration,
) -> KafkaResult<(i64, i64)> {
    let ask = || match client.fetch_watermarks(topic, partition, time)? {
        (first, end) if first < 0 || end < first => {
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OffsetNotAvailable))
        }
        known => Ok(known),
    };
    match ask()? {
        (first, end) if first == end => ask(),
        known => Ok(known),
    }
}

/// The value of the last header of this name. Whatever names the others have, as with [`headers`].
#[expect(unsafe_code, reason = "the binding takes every name for UTF-8")]
#[must_use]
pub fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    let name = CString::new(name).ok()?;
    let (mut headers, mut value, mut size) = (std::ptr::null_mut(), std::ptr::null(), 0);
    // SAFETY: what is pointed to lives as long as the message.
    unsafe {
        if c::rd_kafka_message_headers(message.ptr(), &raw mut headers).is_error()
            || c::rd_kafka_header_get_last(headers, name.as_ptr(), &raw mut value, &raw mut size).is_error()
        {
            return None;
        }
        (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size))
    }
}

/// The headers of a message, if it has any. The library's binding panics at a name that is not UTF-8; here it has U+FFFD
/// in place of what is none.
#[expect(unsafe_code, reason = "the binding takes every name for UTF-8")]
#[must_use]
pub fn headers(message: &BorrowedMessage<'_>) -> Option<Vec<(String, Option<Bytes>)>> {
    let mut headers = std::ptr::null_mut();
    let mut copied = Vec::new();
    // SAFETY: the message lives until this returns, and with it all that is pointed to.
    unsafe {
        if c::rd_kafka_message_headers(message.ptr(), &raw mut headers).is_error() {
            return None;
        }
        let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
        while !c::rd_kafka_header_get_all(headers, copied.len(), &raw mut name, &raw mut value, &raw mut size)
            .is_error()
        {
            let name = CStr::from_ptr(name).to_string_lossy().into_owned();
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            copied.push((name, value.map(Bytes::copy_from_slice)));
        }
    }
    Some(copied)
}
