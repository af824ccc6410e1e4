//! A pooler between here and the server that hands each transaction to another of its connections.
//! Locks, settings, temporary tables and statements of ours are kept by a connection, and would be
//! left to others there.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Config, login};

/// Rounds of asking. One shows it where the pooler is idle or busy; in between, another client may
/// come first.
const ROUNDS: usize = 3;
/// The longest one answer may take, beyond which it is not known.
const TIME: Duration = Duration::from_secs(2);

/// Whether there is one. Leaves nothing on any connection.
///
/// Two clients that are connected at once have a process of the server each, for as long as they
/// are. Behind such a pooler the second is given the one that the first has just given back, or the
/// first gets another one the next time.
pub(super) async fn is_between(config: &Config, one: &Client) -> bool {
    let asked = async {
        let other = login::connect(config).await?;
        for _ in 0..ROUNDS {
            let first = process(one, "SELECT pg_backend_pid()").await?;
            let second = process(&other, "BEGIN; SELECT pg_backend_pid()").await?;
            let again = process(one, "SELECT pg_backend_pid()").await?;
            other.batch_execute("COMMIT").await?;
            if first == second || first != again {
                return Ok(true);
            }
        }
        Ok::<_, tokio_postgres::Error>(false)
    };
    match tokio::time::timeout(TIME, asked).await {
        Ok(Ok(is_between)) => is_between,
        // It may go further, and take no transaction at all.
        Ok(Err(error)) => error.as_db_error().is_some_and(|error| error.message().contains("statement pooling mode")),
        // Where there is no second connection to be had nothing is known. What else is wrong shows
        // later.
        Err(_) => false,
    }
}

/// The process of the server that answers.
async fn process(client: &Client, sql: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
