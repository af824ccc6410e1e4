//! How NATS is reached, and what is read from and written to it. Knows no message's content.

pub mod settings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

use crate::tls;

/// Where NATS is, and what is read from and written to it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Without user and password: the library logs them as they are.
    servers: Vec<ServerAddr>,
    login: Option<Login>,
    /// The file of what lets in instead: credentials (a JWT with its seed), as `nsc` writes them.
    pub credentials: Option<PathBuf>,
    /// Or the seed of an nkey.
    pub nkey: Option<PathBuf>,
    /// Whom to trust where TLS is spoken, and who this is.
    pub encryption: tls::client::Config,
    /// What came of that.
    client: Option<tls::Client>,
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
    /// A consumer that is behind and receives nothing for this long is made again.
    pub stall_timeout: Duration,
    /// Messages behind at which the service still counts as ready.
    pub lag_max: u64,
}

/// What lets in, for all servers. Never shown.
#[derive(Clone, PartialEq, Eq)]
struct Login {
    /// A token where there is no password.
    user: String,
    password: Option<String>,
}

impl Login {
    fn of(server: &ServerAddr) -> Option<Self> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Some(Self { user: decoded(server.username()?), password: server.password().map(decoded) })
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

/// Why there is no connection, in words: the library shows what is wrong with a certificate as it is
/// for debugging.
#[must_use]
pub fn said(error: &ConnectError) -> String {
    let words = tls::words::plain(&error.to_string());
    words.strip_prefix("IO error: ").map(str::to_owned).unwrap_or(words)
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
        let mut login = None;
        let is_between = |c: char| c == ',' || c.is_whitespace();
        for (index, url) in urls.split(is_between).filter(|url| !url.is_empty()).enumerate() {
            let invalid = |what: &str| format!("invalid URL {}: {what}expected e.g. nats://127.0.0.1:4222", index + 1);
            let server: ServerAddr = url.parse().map_err(|_| invalid(""))?;
            if server.is_websocket() || server.host().is_empty() || server.port() == 0 {
                return Err(invalid(""));
            }
            match Login::of(&server) {
                first if index == 0 => login = first,
                Some(other) if login != Some(other.clone()) => {
                    return Err(invalid("has another user or password than the first, whose are sent to all; "));
                }
                _ => {}
            }
            let mut url = server.into_inner();
            if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
                return Err(invalid("has a path, a query or a fragment, which mean nothing to NATS; "));
            }
            url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| invalid(""))?;
            servers.push(ServerAddr::from_url(url).map_err(|_| invalid(""))?);
        }
        if servers.is_empty() {
            return Err("names no server".into());
        }
        Ok(Self {
            servers,
            login,
            credentials: None,
            nkey: None,
            encryption: tls::client::Config::default(),
            client: None,
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

    /// Reads the files of certificates and logins, once all is set.
    ///
    /// # Errors
    /// Which of them cannot be used, changes nothing or contradicts another.
    pub fn open(&mut self) -> Result<(), String> {
        let logins = [self.login.is_some(), self.credentials.is_some(), self.nkey.is_some()];
        if logins.into_iter().filter(|is_set| *is_set).count() > 1 {
            return Err("is given more than one of a user or token in the URL, credentials and nkey".into());
        }
        if let Some(file) = &self.credentials {
            ConnectOptions::new().credentials(&read(file)?).map_err(|_| unusable(file, "are no credentials"))?;
        }
        if let Some(file) = &self.nkey {
            let seed = read(file)?;
            let is_seed = seed.trim().starts_with("SU") && seed.trim().bytes().all(|b| b.is_ascii_alphanumeric());
            if !is_seed {
                return Err(unusable(file, "is no seed of a user's nkey, which begins with SU"));
            }
        }
        let is_encrypted = self.servers.iter().any(ServerAddr::tls_required);
        let is_set = self.encryption.roots.is_some() || self.encryption.identity.is_some();
        if is_encrypted || is_set {
            self.client = Some(tls::Client::open(&self.encryption).map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    /// What is shown to a server, as it stands in the files now.
    fn log_in(&self, options: ConnectOptions) -> Result<ConnectOptions, String> {
        if let Some(file) = &self.credentials {
            return options.credentials(&read(file)?).map_err(|_| unusable(file, "are no credentials"));
        }
        if let Some(file) = &self.nkey {
            return Ok(options.nkey(read(file)?.trim().to_owned()));
        }
        Ok(match self.login.clone() {
            Some(Login { user, password: Some(password) }) => options.user_and_password(user, password),
            Some(Login { user, password: None }) => options.token(user),
            None => options,
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
        let refused = |what: String| ConnectError::with_source(ConnectErrorKind::Authentication, what);
        let mut options = self
            .log_in(options)
            .map_err(refused)?
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
        if let Some(client) = &self.client {
            options = options.tls_client_config(client.rustls());
        }
        options.connect(&self.servers[..]).await
    }
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| unusable(file, &format!("cannot be read: {error}")))
}

fn unusable(file: &Path, what: &str) -> String {
    format!("{}: {what}", file.display())
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
        for wrong in [
            "",
            "http://one",
            "ws://one:80",
            "nats://me:secret@:4222",
            "nats://",
            "one:0",
            "nats://me:secret@one:4222/orders",
            "nats://one:4222?token=secret",
            "nats://one:4222#secret",
            "nats://me:pass@one:4222,nats://me:secret@two:4222",
        ] {
            let error = Config::new(wrong).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        // As in a file.
        assert_eq!(Config::new("nats://one:4222\nnats://two:4222\n").unwrap().place(), "one:4222,two:4222");
        assert_eq!(Config::new("nats://me:p@one, nats://me:p@two/").unwrap().place(), "one:4222,two:4222");
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
