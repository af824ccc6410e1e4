//! TLS, in and out: listeners as clients of OpenSSL and rustls see them, and connections to real
//! servers that speak it. Certificates are made here, as they are needed.

mod believed;
#[cfg(feature = "kafka-tls")]
mod kafka;
mod listeners;
mod multiplexed;
mod outgoing;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use order_service::tls::provider;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use crate::server::{READ_TIME, Server};

/// An authority that signs what tests ask it to.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these hosts, and its key.
    pub fn sign(&self, hosts: &[&str]) -> Signed {
        self.sign_as("server", hosts, false)
    }

    /// One that is over.
    pub fn sign_expired(&self, hosts: &[&str]) -> Signed {
        self.sign_as("server", hosts, true)
    }

    /// One of a client.
    pub fn sign_client(&self, name: &str) -> Signed {
        self.sign_as(name, &[], false)
    }

    fn sign_as(&self, name: &str, hosts: &[&str], is_expired: bool) -> Signed {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "Tests");
        params.distinguished_name.push(DnType::CommonName, name);
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        if is_expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Signed { cert: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Signed {
    pub cert: String,
    pub key: String,
}

impl Signed {
    /// The certificate as it is shown.
    pub fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap().to_vec()
    }
}

/// Shakes hands with a client as a server that has this certificate.
pub fn accept(socket: TcpStream, signed: &Signed) -> StreamOwned<ServerConnection, TcpStream> {
    let chain = CertificateDer::pem_slice_iter(signed.cert.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), socket)
}

/// Files of PEM.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and gives its path. It is there all at once, as tools that renew certificates
    /// do it.
    pub fn write(&self, name: &str, text: &str) -> String {
        let before = self.path(&format!("{name}.new"));
        std::fs::write(&before, text).unwrap();
        std::fs::rename(before, self.path(name)).unwrap();
        self.text(name)
    }

    /// Writes `cert.pem` and `key.pem`.
    pub fn write_signed(&self, signed: &Signed) -> [String; 2] {
        [self.write("cert.pem", &signed.cert), self.write("key.pem", &signed.key)]
    }
}

/// A service with a listener that has TLS, beside the plain one.
pub struct Secured {
    pub server: Server,
    pub files: Files,
    pub authority: Authority,
}

impl Secured {
    pub fn start(flags: &[&str]) -> Self {
        Self::start_with(Authority::new("Test CA"), flags)
    }

    /// `ca.pem` is there for flags that name it as `{ca}`.
    pub fn start_with(authority: Authority, flags: &[&str]) -> Self {
        let files = Files::new();
        let [cert, key] = files.write_signed(&authority.sign(&["localhost", "127.0.0.1"]));
        let ca = files.write("ca.pem", &authority.pem());
        let flags: Vec<String> = flags.iter().map(|flag| flag.replace("{ca}", &ca)).collect();
        let mut all = vec!["--listen", "tls:127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
        all.extend(flags.iter().map(String::as_str));
        Self { server: Server::start(&all), files, authority }
    }

    /// Where TLS is spoken.
    pub fn address(&self) -> SocketAddr {
        listeners_of(&self.server).into_iter().find_map(|text| text.strip_prefix("tls:")?.parse().ok()).unwrap()
    }

    /// A connection that trusts the authority of this.
    pub fn connect(&self) -> Tls {
        self.client().connect(self.address()).unwrap()
    }

    pub fn client(&self) -> Client {
        Client::trusting(&self.authority)
    }
}

/// Where a service says that it listens.
pub fn listeners_of(server: &Server) -> Vec<String> {
    let log = server.log();
    let mut events = log.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let serving = events.find(|event| event["message"] == "serving").expect("it serves");
    serving["listen"].as_str().unwrap().split(' ').map(str::to_owned).collect()
}

/// What a client of TLS trusts and shows.
pub struct Client {
    roots: RootCertStore,
    identity: Option<Signed>,
    protocols: Vec<Vec<u8>>,
}

impl Client {
    pub fn trusting(authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone()).unwrap();
        Self { roots, identity: None, protocols: Vec::new() }
    }

    pub fn showing(mut self, identity: Signed) -> Self {
        self.identity = Some(identity);
        self
    }

    pub fn speaking(mut self, protocols: &[&str]) -> Self {
        self.protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    pub fn config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(Signed { cert, key }) => {
                let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols.clone_from(&self.protocols);
        config
    }

    /// Connects and shakes hands.
    pub fn connect(&self, address: SocketAddr) -> io::Result<Tls> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(READ_TIME))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::new(self.config()), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Tls(stream))
    }
}

/// An encrypted connection.
pub struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Tls {
    pub fn socket(&self) -> &TcpStream {
        &self.0.sock
    }

    pub fn protocol(&self) -> Option<String> {
        self.0.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// The certificate that the service has shown.
    pub fn shown(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().unwrap()[0].to_vec()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
        self.0.flush().unwrap();
    }

    /// All that comes until the service closes the connection.
    pub fn until_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// An answer with a length of its own.
    pub fn reply(&mut self) -> io::Result<(String, Vec<u8>)> {
        read_reply(&mut self.0)
    }

    pub fn get(&mut self, path: &str) -> (String, Vec<u8>) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.reply().unwrap()
    }
}

/// The head and the body of an answer with a length of its own.
pub fn read_reply(stream: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

/// Makes a file readable for a server that runs as another user.
pub fn give_to(path: &Path, like: &Path) {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(like).unwrap();
    // Without the right to do so the server runs as this user already.
    let _ = std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()));
}
