//! What a text says of a server, as libpq reads it: a URL or `key=value` pairs. What the client
//! library does not know is taken out of it here; of an option that is there twice the last one
//! counts, and a host or port among the parameters of a URL takes the place of the one before them.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The options of a text.
#[derive(Debug)]
pub(super) enum Options {
    Url(Url),
    Pairs(Vec<(String, String)>),
    /// Neither.
    Text,
}

/// A URL in pieces, encoded as it was.
#[derive(Debug)]
pub(super) struct Url {
    /// The scheme and the login.
    begin: String,
    hosts: String,
    database: String,
    parameters: Vec<(String, String)>,
}

/// Options of libpq that nothing here follows, whatever they say. Others that are not known may be
/// a part of a password that stands without quotes, and are not repeated.
const NOT_FOLLOWED: [&str; 25] = [
    "authtype",
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "passfile",
    "max_protocol_version",
    "min_protocol_version",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "sslcertmode",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslpassword",
    "tty",
];

/// What the client library takes, and the place of a server.
const KNOWN: [&str; 21] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Options that are followed where they say what is done anyway.
const DONE_ANYWAY: [(&str, &[&str]); 3] = [
    ("client_encoding", &["auto", "utf8", "utf-8", "unicode"]),
    ("gssencmode", &["disable", "prefer"]),
    ("sslcompression", &["0"]),
];

/// What libpq and the client library call differently.
const RENAMED: [(&str, &str); 1] = [("keepalives_count", "keepalives_retries")];

impl Options {
    pub(super) fn read(text: &str) -> Self {
        // A value of a pair may have these characters too.
        if text.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('=')) {
            return Self::Url(Url::read(text));
        }
        pairs(text).map_or(Self::Text, Self::Pairs)
    }

    /// Takes an option out. `None` where it is not there.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let (list, is_encoded) = match self {
            Self::Url(url) => (&mut url.parameters, true),
            Self::Pairs(list) => (list, false),
            Self::Text => return None,
        };
        // What is no UTF-8 is the library's to refuse.
        let decoded = |value: &str| Some(percent_decode_str(value).decode_utf8().ok()?.into_owned());
        let mut last = None;
        list.retain(|(known, value)| {
            if known != name {
                return true;
            }
            let value = if is_encoded { decoded(value) } else { Some(value.clone()) };
            let is_taken = value.is_some();
            last = value.or(last.take());
            !is_taken
        });
        last
    }

    /// What is left, as the library reads it.
    ///
    /// # Errors
    /// Which option cannot be followed.
    pub(super) fn finish(mut self) -> Result<String, String> {
        for name in NOT_FOLLOWED {
            if self.take(name).is_some() {
                return Err(format!("the option {name} is not supported"));
            }
        }
        for (name, fine) in DONE_ANYWAY {
            if self.take(name).is_some_and(|value| !fine.contains(&&*value.to_ascii_lowercase())) {
                return Err(format!("the option {name} is supported as {} only", fine.join(" or ")));
            }
        }
        for (name, as_known) in RENAMED {
            if let Some(value) = self.take(name) {
                self.add(as_known, &value);
            }
        }
        // The library knows those of a session, libpq those of a server too.
        if let Some(attrs) = self.take("target_session_attrs") {
            let known = match &*attrs {
                "any" | "read-write" | "read-only" => &attrs,
                "primary" => "read-write",
                "standby" => "read-only",
                "prefer-standby" => {
                    return Err(
                        "target_session_attrs=prefer-standby is not supported: write read-write for a server that \
                                takes writes, read-only for one that does not, any for the first that answers"
                            .into(),
                    );
                }
                _ => {
                    return Err(
                        "target_session_attrs is none of any, read-write, primary, read-only and standby".into()
                    );
                }
            };
            self.add("target_session_attrs", known);
        }
        if let Some(fallback) = self.take("fallback_application_name") {
            match self.take("application_name") {
                Some(name) => self.add("application_name", &name),
                None => self.add("application_name", &fallback),
            }
        }
        match self {
            Self::Text => Err("is neither a postgres:// URL nor key=value pairs".into()),
            Self::Url(url) => url.finish(),
            Self::Pairs(pairs) => {
                let written = |(at, (name, value)): (usize, &(String, String))| {
                    let is_last = !pairs[at + 1..].iter().any(|(later, _)| later == name);
                    is_last.then(|| format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")))
                };
                Ok(pairs.iter().enumerate().filter_map(written).collect::<Vec<_>>().join(" "))
            }
        }
    }

    fn add(&mut self, name: &str, value: &str) {
        match self {
            Self::Url(url) => url.parameters.push((name.into(), encoded(value))),
            Self::Pairs(pairs) => pairs.push((name.into(), value.into())),
            Self::Text => {}
        }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Url {
    fn read(url: &str) -> Self {
        let scheme = url.find("://").map_or(0, |at| at + 3);
        // As the library does: what is before the first @ is the login.
        let login = url[scheme..].find('@').map_or(scheme, |at| scheme + at + 1);
        let hosts = url[login..].find(['/', '?']).map_or(url.len(), |at| login + at);
        let query = url[hosts..].find('?').map(|at| hosts + at);
        let parameters = query.map_or("", |query| &url[query + 1..]).split('&').filter(|pair| !pair.is_empty());
        let parameters = parameters.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut parameters: Vec<(String, String)> =
            parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        // What clients of Java write.
        for parameter in &mut parameters {
            if (&*parameter.0, &*parameter.1) == ("ssl", "true") {
                *parameter = ("sslmode".into(), "require".into());
            }
        }
        Self {
            begin: url[..login].to_owned(),
            hosts: url[login..hosts].to_owned(),
            database: url[hosts..query.unwrap_or(url.len())].to_owned(),
            parameters,
        }
    }

    fn finish(self) -> Result<String, String> {
        let scheme = self.begin.split("://").next().unwrap_or_default();
        if !["postgres", "postgresql"].contains(&scheme) {
            return Err("is no postgres:// URL".into());
        }
        // Behind a login that has ended nothing is a part of a password.
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let has_login = self.begin.ends_with('@');
        let strange = self.parameters.iter().map(|(name, _)| name).find(|name| !KNOWN.contains(&name.as_str()));
        if let Some(name) = strange.filter(|name| has_login && is_name(name)) {
            return Err(format!("has an unknown option: {name}"));
        }
        let mut options = Options::Url(self);
        let (hosts, ports) = (options.take("host"), options.take("port"));
        let address = options.take("hostaddr");
        if let Some(address) = &address {
            options.add("hostaddr", address);
        }
        let Options::Url(mut url) = options else { unreachable!("it was one") };
        if hosts.is_some() || ports.is_some() {
            url.hosts = url.place(hosts.as_deref(), ports.as_deref())?;
        }
        let Self { begin, hosts, database, parameters } = url;
        let parameters: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
        Ok(format!("{begin}{hosts}{database}{query}"))
    }

    /// The hosts and ports where the parameters name other ones.
    fn place(&self, hosts: Option<&str>, ports: Option<&str>) -> Result<String, String> {
        let split = |chunk: &str| {
            let end = if chunk.starts_with('[') { chunk.find(']').map_or(chunk.len(), |at| at + 1) } else { 0 };
            let port = chunk[end..].find(':').map(|at| end + at);
            let host = &chunk[..port.unwrap_or(chunk.len())];
            (host.to_owned(), port.map_or_else(String::new, |at| chunk[at + 1..].to_owned()))
        };
        let (named, numbers): (Vec<String>, Vec<String>) =
            self.hosts.split(',').filter(|_| !self.hosts.is_empty()).map(split).unzip();
        let hosts = match hosts {
            Some(hosts) => hosts.split(',').map(encoded).collect(),
            None => named,
        };
        if hosts.is_empty() {
            return Err("names a port and no host".into());
        }
        let ports: Vec<String> = ports.map_or(numbers, |ports| ports.split(',').map(str::to_owned).collect());
        if ports.len() > 1 && ports.len() != hosts.len() {
            return Err(format!("names {} ports for {} hosts", ports.len(), hosts.len()));
        }
        let with_port = |(at, host): (usize, &String)| match ports.get(at).or(ports.first()).map(String::as_str) {
            None | Some("") => host.clone(),
            Some(port) => format!("{host}:{port}"),
        };
        Ok(hosts.iter().enumerate().map(with_port).collect::<Vec<_>>().join(","))
    }
}

/// `key=value` pairs as libpq reads them: values in single quotes or without blanks, backslashes
/// before what is meant as it is.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        let value = value.trim_start();
        let is_quoted = value.starts_with('\'');
        let mut chars = value.char_indices().skip(usize::from(is_quoted));
        let mut read = String::new();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => read.push(chars.next()?.1),
                Some((at, '\'')) if is_quoted => break at + 1,
                Some((at, c)) if c.is_whitespace() && !is_quoted => break at,
                Some((_, c)) => read.push(c),
                None if is_quoted => return None,
                None => break value.len(),
            }
        };
        pairs.push((name.to_owned(), read));
        rest = value[end..].trim_start();
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(text: &str) -> Result<String, String> {
        let mut options = Options::read(text);
        options.take("sslmode");
        options.finish()
    }

    #[test]
    fn an_option_is_taken_out_and_the_rest_stays_as_it_was() {
        for (text, rest, mode) in [
            ("postgres://u:p@h/db", "postgres://u:p@h/db", None),
            ("postgres://u:p@h/db?sslmode=verify%2Dfull", "postgres://u:p@h/db", Some("verify-full")),
            (
                "postgres://u:p?w@h/db?options=b%20c&sslmode=require&user=d",
                "postgres://u:p?w@h/db?options=b%20c&user=d",
                Some("require"),
            ),
            ("postgres://h?sslmode=allow&sslmode=disable", "postgres://h", Some("disable")),
            ("postgres://h/db?ssl=true", "postgres://h/db", Some("require")),
            ("host=h user=u", "host='h' user='u'", None),
            ("host=h password='a://b'", "host='h' password='a://b'", None),
            (r"password='it\'s \\' sslmode = disable", r"password='it\'s \\'", Some("disable")),
            ("host=h password=a\\ b", "host='h' password='a b'", None),
            ("host=a user=u host=b", "user='u' host='b'", None),
        ] {
            let mut options = Options::read(text);
            assert_eq!(options.take("sslmode").as_deref(), mode, "{text}");
            assert_eq!(options.finish().as_deref(), Ok(rest), "{text}");
        }
    }

    /// The library said "unexpected EOF", and of an option only that there is one.
    #[test]
    fn what_is_none_of_ours_is_told_and_no_password_with_it() {
        for (text, why) in [
            ("mysql://u:x@h/d", "is no postgres:// URL"),
            ("not pairs at all", "is neither a postgres:// URL nor key=value pairs"),
            ("h:5432/d", "is neither a postgres:// URL nor key=value pairs"),
            ("host='h", "is neither a postgres:// URL nor key=value pairs"),
            ("postgres://u:x@h/d?bogusopt=x", "has an unknown option: bogusopt"),
        ] {
            assert_eq!(left(text), Err(why.to_owned()), "{text}");
        }
        assert!(left("postgres://u:p/d?secret=x").is_ok(), "what may be a password is the library's to refuse");
    }

    /// As libpq: parameters take the place of what stands before them.
    #[test]
    fn hosts_and_ports_may_stand_among_the_parameters() {
        for (text, hosts, ports) in [
            ("postgres://u@h:1/db?host=g", &["g"][..], &[1][..]),
            ("postgres://u@h:1/db?port=2", &["h"], &[2]),
            ("postgres://u@/db?host=g&port=2", &["g"], &[2]),
            ("postgres:///db?host=g", &["g"], &[]),
            ("postgres://u@h/db?host=a,b&port=1,2", &["a", "b"], &[1, 2]),
            ("postgres://u@a:1,b:2/db?port=3", &["a", "b"], &[3, 3]),
            ("postgres://u@a:1,b:2/db?host=c,d", &["c", "d"], &[1, 2]),
            ("postgres://u@[::1]:1/db?port=2", &["::1"], &[2]),
            ("postgres://u@h/db?host=::1&port=2", &["::1"], &[2]),
            ("postgres://u@h/db?host=a&host=b", &["b"], &[]),
            ("host=a port=1 host=b port=2", &["b"], &[2]),
        ] {
            let config: tokio_postgres::Config = left(text).unwrap().parse().unwrap();
            let named = config.get_hosts().iter().map(|host| format!("{host:?}")).collect::<Vec<_>>();
            assert_eq!(named, hosts.iter().map(|host| format!("Tcp({host:?})")).collect::<Vec<_>>(), "{text}");
            let expected = if ports.is_empty() { vec![5432] } else { ports.to_vec() };
            assert_eq!(config.get_ports(), expected, "{text}");
        }
        let config: tokio_postgres::Config = left("postgres://u@/db?host=/run/pg%20sql").unwrap().parse().unwrap();
        assert_eq!(format!("{:?}", config.get_hosts()), r#"[Unix("/run/pg sql")]"#);
        assert_eq!(left("postgres://u@a,b/db?port=1,2,3"), Err("names 3 ports for 2 hosts".into()));
        assert_eq!(left("postgres:///db?port=1"), Err("names a port and no host".into()));
    }

    #[test]
    fn what_is_not_followed_is_told_by_its_name() {
        for name in NOT_FOLLOWED {
            for text in [format!("postgres://h/db?{name}=x"), format!("host=h {name}=x")] {
                assert_eq!(left(&text), Err(format!("the option {name} is not supported")));
            }
        }
        for text in ["gssencmode=require", "sslcompression=1", "client_encoding=LATIN1"] {
            assert!(left(&format!("host=h {text}")).unwrap_err().contains("is supported as"), "{text}");
        }
        for (attrs, session) in [("primary", "read-write"), ("standby", "read-only"), ("any", "any")] {
            let text = format!("host=h target_session_attrs={attrs}");
            assert_eq!(left(&text), Ok(format!("host='h' target_session_attrs='{session}'")));
            let of =
                |text: &str| left(text).unwrap().parse::<tokio_postgres::Config>().unwrap().get_target_session_attrs();
            assert_eq!(of(&format!("postgres://h/d?target_session_attrs={attrs}")), of(&text));
        }
        for attrs in ["prefer-standby", "replica"] {
            let told = left(&format!("host=h target_session_attrs={attrs}")).unwrap_err();
            assert!(told.starts_with("target_session_attrs") && told.contains("read-write"), "{told}");
        }
        let fine = "host=h gssencmode=prefer sslcompression=0 client_encoding=UTF8 keepalives_count=3 \
                    fallback_application_name=a";
        assert_eq!(left(fine).as_deref(), Ok("host='h' keepalives_retries='3' application_name='a'"));
        let named = "postgres://h/db?application_name=a&fallback_application_name=b";
        assert_eq!(left(named).as_deref(), Ok("postgres://h/db?application_name=a"));
    }
}
