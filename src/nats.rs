//! How NATS is reached, and what is read from and written to it. Knows no message's content.

use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

/// Where NATS is, and what is read from and written to it.
#[derive(Debug, Clone)]
pub struct Config {
    servers: Vec<ServerAddr>,
    /// Where orders come from.
    pub subject: String,
    /// The stream that is made where none takes `subject` yet.
    pub stream: String,
    /// The consumer, which outlives this process.
    pub durable: String,
    /// Where invalid messages go.
    pub dlq_subject: String,
    /// How long the server waits for an acknowledgement before it delivers again.
    pub ack_wait: Duration,
    /// Messages received and not yet durable. With two full batches and what comes during a commit the database is
    /// never idle.
    pub in_flight_max: usize,
    /// A consumer that is behind and receives nothing for this long is made anew.
    pub stall_timeout: Duration,
    /// Messages behind at which the service still counts as ready.
    pub lag_max: u64,
}

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// A server that answers none of two pings is gone.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The longest pause between two tries to connect again: a server that is back is found within a second.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

impl Config {
    /// The default settings for these servers: `nats://host:4222`, several separated by commas. User and password, or
    /// a token, stand before the host of the first; `tls://` asks for TLS.
    ///
    /// # Errors
    /// Says which part is no URL of a server. Never repeats a password.
    pub fn new(urls: &str) -> Result<Self, String> {
        let mut servers = Vec::new();
        for (index, url) in urls.split([',', ' ']).filter(|url| !url.is_empty()).enumerate() {
            let wrong = || format!("URL {} is none such as nats://127.0.0.1:4222", index + 1);
            let server: ServerAddr = url.parse().map_err(|_| wrong())?;
            if server.is_websocket() || server.host().is_empty() || server.port() == 0 {
                return Err(wrong());
            }
            servers.push(server);
        }
        if servers.is_empty() {
            return Err("names no server".into());
        }
        Ok(Self {
            servers,
            subject: "orders".into(),
            stream: "ORDERS".into(),
            durable: "order-service-durable".into(),
            dlq_subject: "orders.dlq".into(),
            ack_wait: Duration::from_secs(30),
            in_flight_max: 10_000,
            stall_timeout: Duration::from_mins(1),
            lag_max: 10_000,
        })
    }

    /// The stream that is made for invalid messages where none takes their subject yet.
    #[must_use]
    pub fn dlq_stream(&self) -> String {
        format!("{}_DLQ", self.stream)
    }

    /// The servers as text, without secrets.
    #[must_use]
    pub fn place(&self) -> String {
        let places: Vec<_> = self.servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
        places.join(",")
    }

    /// The hosts and ports of the servers.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, u16)> {
        self.servers.iter().map(|server| (server.host(), server.port()))
    }

    /// Connects once. The client then connects again by itself for as long as it takes.
    ///
    /// # Errors
    /// When no server is there, or none lets us in.
    pub async fn connect(&self, options: ConnectOptions) -> Result<Client, ConnectError> {
        let mut options = options
            .name("order-service")
            .connection_timeout(CONNECT_TIME)
            .ping_interval(PING_EVERY)
            .max_reconnects(None)
            .reconnect_delay_callback(|tries| {
                let pause = Duration::from_millis(50).saturating_mul(1 << tries.min(10)).min(RECONNECT_PAUSE_MAX);
                pause.mul_f64(0.5 + fastrand::f64() / 2.0)
            })
            // More than can be on its way to us at once, so that the client never throws anything away.
            .subscription_capacity(self.in_flight_max.saturating_mul(2).saturating_add(1024));
        let first = &self.servers[0];
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        options = match (first.username(), first.password()) {
            (Some(user), Some(password)) => options.user_and_password(decoded(user), decoded(password)),
            (Some(token), None) => options.token(decoded(token)),
            (None, _) => options,
        };
        options.connect(&self.servers[..]).await
    }
}

/// A subject without wildcards.
///
/// # Errors
/// Says what is wrong with it.
pub fn subject(text: &str) -> Result<String, String> {
    let is_legal = |token: &str| {
        let is_wild = matches!(token, "*" | ">");
        !token.is_empty() && !is_wild && token.chars().all(|c| !c.is_whitespace() && !c.is_control())
    };
    if text.len() <= 255 && text.split('.').all(is_legal) && !text.starts_with('$') {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no subject such as orders or shop.orders; wildcards are not taken"))
    }
}

/// The name of a stream or a durable.
///
/// # Errors
/// Says what is wrong with it.
pub fn name(text: &str) -> Result<String, String> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if (1..=200).contains(&text.len()) && text.bytes().all(is_legal) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no name: 1 to 200 of letters, digits, underscore and hyphen"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_secrets_are_not_told() {
        let config = Config::new("nats://me:p%40ss@one:4223, two").unwrap();
        assert_eq!(config.place(), "one:4223,two:4222");
        for wrong in ["", "http://one", "ws://one:80", "nats://me:secret@:4222", "nats://", "one:0"] {
            let error = Config::new(wrong).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn subjects_and_names_are_checked() {
        for good in ["orders", "shop.orders", "a.b-c.d_e"] {
            assert_eq!(subject(good).as_deref(), Ok(good));
        }
        for bad in ["", "orders.>", "*.orders", ">", "a..b", ".a", "a b", "$JS.API"] {
            assert!(subject(bad).is_err(), "{bad}");
        }
        assert_eq!(name("ORDERS-1").as_deref(), Ok("ORDERS-1"));
        for bad in ["", "a.b", "a b", "a*", ">"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
