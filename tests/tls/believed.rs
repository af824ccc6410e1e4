//! What is said of a certificate that is not believed: a sentence with the name that was asked for and
//! the names that there are, the date, or the issuer. No name of a type of Rust's.

use std::net::TcpListener;

use order_service::tls::client::{Config, Verify};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};

use super::{Authority, Files, Signed, accept};

/// What a client that trusts `ca.pem` says of a server with this certificate.
fn said(files: &Files, signed: &Signed, host: &str, verify: Verify) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let signed = signed.clone();
    let server = std::thread::spawn(move || {
        let mut stream = accept(listener.accept().unwrap().0, &signed);
        while stream.conn.is_handshaking() {
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                return;
            }
        }
    });
    let config = Config { verify, roots: Some(files.path("ca.pem")), ..Config::default() };
    let client = order_service::tls::Client::open(&config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        client.connect(host, socket).await.map(|_| ()).map_err(|error| error.to_string())
    });
    server.join().unwrap();
    error.expect_err("it is not believed")
}

/// Signed by an authority, with what is changed of it.
fn signed(authority: &Authority, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, "server");
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Signed { cert: params.signed_by(&key, &authority.0).unwrap().pem(), key: key.serialize_pem() }
}

#[test]
fn what_is_wrong_with_a_certificate_is_a_sentence() {
    let (trusted, others) = (Authority::new("Test CA"), Authority::new("Strangers' CA"));
    let files = Files::new();
    let ca = files.write("ca.pem", &trusted.pem());
    let ask = |signed: &Signed, host: &str| {
        let said = said(&files, signed, host, Verify::Name);
        for word in ["Other(", "Error(", "Context", "InvalidCertificate", "UnknownIssuer", "NotValid", "Some("] {
            assert!(!said.contains(word), "{word}: {said}");
        }
        said
    };
    let good = signed(&trusted, &["localhost", "192.0.2.7", "::1"], |_| {});
    let name = |common: &str| {
        let der = rustls::pki_types::pem::PemObject::from_pem_slice(common.as_bytes()).unwrap();
        order_service::tls::certificate::subject(&der).unwrap()
    };
    let own = name(&good.cert);
    assert_eq!(
        ask(&good, "127.0.0.1"),
        format!(
            "the certificate \"{own}\" is for another host: 127.0.0.1 was asked for, and it is for localhost, \
             192.0.2.7, ::1"
        )
    );
    let nameless = signed(&trusted, &[], |_| {});
    assert_eq!(
        ask(&nameless, "localhost"),
        format!(
            "the certificate \"{}\" is for another host: localhost was asked for, and it names no host",
            name(&nameless.cert)
        )
    );
    let old = signed(&trusted, &["localhost"], |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    assert_eq!(
        ask(&old, "localhost"),
        format!("the certificate \"{own}\" of localhost expired on 2021-01-01T00:00:00Z")
    );
    let early = signed(&trusted, &["localhost"], |params| {
        (params.not_before, params.not_after) = (date_time_ymd(3000, 1, 1), date_time_ymd(3001, 1, 1));
    });
    assert_eq!(
        ask(&early, "localhost"),
        format!("the certificate \"{own}\" of localhost is not valid before 3000-01-01T00:00:00Z")
    );
    let strange = signed(&others, &["localhost"], |_| {});
    assert_eq!(
        ask(&strange, "localhost"),
        format!(
            "the certificate \"{own}\" of localhost was issued by \"{}\", which is not among the authorities of {ca}",
            name(&others.pem())
        )
    );
    let twin = signed(&Authority::new("Test CA"), &["localhost"], |_| {});
    let twin = ask(&twin, "localhost");
    assert!(twin.contains("Test CA") && twin.contains(&ca), "{twin}");
    let authority = signed(&trusted, &["localhost"], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    assert_eq!(
        ask(&authority, "localhost"),
        format!("the certificate \"{own}\" of localhost is one of an authority, not of a server")
    );
    let client = signed(&trusted, &["localhost"], |params| {
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
    });
    assert_eq!(
        ask(&client, "localhost"),
        format!("the certificate \"{own}\" of localhost is not for servers (its extended key usage lacks serverAuth)")
    );
    // One that is trusted by itself is held to its time all the same.
    files.write("ca.pem", &old.cert);
    assert!(ask(&old, "localhost").ends_with("expired on 2021-01-01T00:00:00Z"));
}
