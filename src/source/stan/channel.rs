//! Reading a channel beside the durable: how far it goes, and what the durable did not deliver.

use std::time::Duration;

use crate::stan::protocol::{MsgProto, Start};
use crate::stan::session::{Session, SessionError, Wanted};

/// How long the last message of a channel may take to be delivered; a channel without any delivers
/// none.
const LAST_TIME: Duration = Duration::from_secs(2);
/// How long a piece of the channel may take to come, after what came of it last.
const FILL_TIME: Duration = Duration::from_secs(5);

/// A subscription that the server forgets with its end.
fn passing(subject: String, start: Start, sequence: u64, in_flight_max: usize) -> Wanted {
    // Nothing is to come twice.
    let ack_wait = Duration::from_hours(1);
    Wanted { subject, durable: String::new(), start, sequence, in_flight_max, ack_wait }
}

/// The sequence of a channel's last message, 0 where it has none.
pub(super) async fn last_of(session: &Session, subject: String) -> Result<u64, SessionError> {
    let mut subscription = session.subscribe(&passing(subject, Start::Last, 0, 1)).await?;
    let last = tokio::time::timeout(LAST_TIME, subscription.next()).await;
    session.close_subscription(subscription).await?;
    Ok(last.ok().flatten().map_or(0, |message| message.sequence))
}

/// The messages of a channel from `from` to before `until`, as far as they are there, and the first
/// sequence that is.
pub(super) async fn between(
    session: &Session,
    subject: String,
    from: u64,
    until: u64,
) -> Result<(Vec<MsgProto>, u64), SessionError> {
    let room = usize::try_from(until - from).unwrap_or(usize::MAX).max(1);
    let mut subscription = session.subscribe(&passing(subject, Start::Sequence, from, room)).await?;
    let (mut found, mut first) = (Vec::new(), None);
    let ended = loop {
        match tokio::time::timeout(FILL_TIME, subscription.next()).await {
            Ok(Some(message)) => {
                let sequence = message.sequence;
                first.get_or_insert(sequence);
                if sequence < until {
                    found.push(message);
                }
                if sequence + 1 >= until {
                    break Ok(());
                }
            }
            Ok(None) => break Err(SessionError::NoAnswer("the connection has ended".into())),
            Err(_) => break Err(SessionError::NoAnswer("the channel does not deliver what it has".into())),
        }
    };
    session.close_subscription(subscription).await?;
    ended?;
    Ok((found, first.unwrap_or(from)))
}
