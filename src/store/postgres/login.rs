//! Logging in, as libpq does it: with the kind of connection that `sslmode` names first, and where
//! the server's rules (pg_hba.conf) refuse that, with the other one where `sslmode` allows for it.

use bb8::ManageConnection as _;
use bb8_postgres::PostgresConnectionManager;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::Config;
use super::encryption::Encryption;

/// What is said first on every connection: limits that the owner of the server or of the database
/// sets for clients would end a transaction between two of our statements, or a connection between
/// two of our questions.
pub(super) const SET_UP: &str = "
    SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; SET lock_timeout = 0;
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('idle_session_timeout', 'transaction_timeout')";

/// A connection to the first server that takes one, driven in the background.
pub(super) async fn connect(config: &Config) -> Result<Client, Error> {
    let (server, encryption) = (&config.server, &config.encryption);
    let Some(second) = encryption.second() else { return one(server, encryption).await };
    let hosts = server.get_hosts().len();
    let mut order: Vec<usize> = (0..hosts).collect();
    if server.get_load_balance_hosts() == LoadBalanceHosts::Random {
        fastrand::shuffle(&mut order);
    }
    let mut last = None;
    for n in order {
        let mut server = if hosts == 1 { server.clone() } else { alone(server, n) };
        let refused = match one(&server, encryption).await {
            Ok(client) => return Ok(client),
            Err(error) if is_refused(&error) => error,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        match one(server.ssl_mode(second), encryption).await {
            Ok(client) => return Ok(client),
            Err(error) if is_refused(&error) => last = Some(refused), // of what was wanted first
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error),
        None => one(server, encryption).await, // names no host, which it says itself
    }
}

async fn one(server: &tokio_postgres::Config, encryption: &Encryption) -> Result<Client, Error> {
    PostgresConnectionManager::new(server.clone(), encryption.clone()).connect().await
}

/// Whether the server refuses this way in: by its rules, or for a role that there is not.
pub(super) fn is_refused(error: &Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// The `n`th server and no other.
fn alone(all: &tokio_postgres::Config, n: usize) -> tokio_postgres::Config {
    let mut one = tokio_postgres::Config::new();
    match &all.get_hosts()[n] {
        Host::Tcp(name) => one.host(name),
        Host::Unix(path) => one.host_path(path),
    };
    if let Some(address) = all.get_hostaddrs().get(n) {
        one.hostaddr(*address);
    }
    if let Some(port) = all.get_ports().get(n).or(all.get_ports().first()) {
        one.port(*port);
    }
    one.ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle())
        .target_session_attrs(all.get_target_session_attrs())
        .channel_binding(all.get_channel_binding())
        .load_balance_hosts(all.get_load_balance_hosts());
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(name) = all.get_dbname() {
        one.dbname(name);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    if let Some(name) = all.get_application_name() {
        one.application_name(name);
    }
    if let Some(time) = all.get_connect_timeout() {
        one.connect_timeout(*time);
    }
    if let Some(time) = all.get_tcp_user_timeout() {
        one.tcp_user_timeout(*time);
    }
    if let Some(interval) = all.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = all.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that a text may say is said of each server too.
    #[test]
    fn one_server_of_several_is_reached_as_all_are() {
        let text = |hosts: &str, addresses: &str, ports: &str| {
            format!(
                "host={hosts} hostaddr={addresses} port={ports} user=u password=p dbname=d options=o \
                 application_name=a sslmode=require sslnegotiation=direct connect_timeout=7 tcp_user_timeout=8 \
                 keepalives=0 keepalives_idle=9 keepalives_interval=10 keepalives_retries=11 \
                 target_session_attrs=read-write channel_binding=require load_balance_hosts=random"
            )
        };
        let all: tokio_postgres::Config = text("h,g", "127.0.0.1,127.0.0.2", "1,2").parse().unwrap();
        for (n, one) in [text("h", "127.0.0.1", "1"), text("g", "127.0.0.2", "2")].iter().enumerate() {
            assert_eq!(alone(&all, n), one.parse().unwrap());
        }
        let few: tokio_postgres::Config = "host=h,/run/pg".parse().unwrap();
        assert_eq!(alone(&few, 1), "host=/run/pg".parse().unwrap());
    }
}
