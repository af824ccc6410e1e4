//! Good tokens, and the known attacks on those that judge them.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

use super::*;

const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn rules() -> Rules {
    Rules { issuer: "https://issuer.test".into(), audience: "orders".into() }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

struct Signer {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
}

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self {
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).unwrap(),
        }
    }

    fn keys(&self) -> KeySet {
        let point = self.ec.public_key().as_ref();
        let set = serde_json::json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode(self.ed.public_key())},
            {"kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "use": "sig",
             "x": encode(&point[1..33]), "y": encode(&point[33..])},
            {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
            {"kty": "RSA", "kid": "sealing", "use": "enc", "n": "AQAB", "e": "AQAB"},
        ]});
        KeySet::parse(set.to_string().as_bytes()).unwrap()
    }

    fn sign(&self, head: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(head), encode(claims));
        let signature = if head.contains("ES256") {
            self.ec.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec()
        } else {
            self.ed.sign(signed.as_bytes()).as_ref().to_vec()
        };
        format!("{signed}.{}", encode(signature))
    }
}

const HEAD: &str = r#"{"alg":"EdDSA","kid":"ed","typ":"JWT"}"#;

fn claims(more: &str) -> String {
    format!(r#"{{"iss":"https://issuer.test","aud":"orders","sub":"test","exp":{}{more}}}"#, NOW + 60)
}

#[test]
fn a_good_token_names_its_caller() {
    let signer = Signer::new();
    let keys = signer.keys();
    assert_eq!((keys.count(), keys.ignored), (2, 2));
    let scopes = r#","scope":"orders:read:own openid","scp":["events:read"]"#;
    for head in [HEAD, r#"{"alg":"ES256","kid":"ec"}"#, r#"{"alg":"EdDSA"}"#, r#"{"alg":"EdDSA","typ":"at+jwt"}"#] {
        let token = signer.sign(head, &claims(scopes));
        let caller = verify(token.as_bytes(), &keys, &rules(), now()).unwrap();
        assert_eq!((&*caller.name, caller.kind), ("test", By::Token), "{head}");
        assert_eq!(caller.scopes.names().collect::<Vec<_>>(), ["orders:read:own", "events:read"]);
        assert_eq!(caller.owner.map(|owner| owner.text), Some("test".into()));
        assert_eq!(caller.expires, Some(now() + Duration::from_secs(90)), "clocks may be half a minute apart");
    }
}

#[test]
fn what_a_token_claims_is_held_to_the_rules() {
    let signer = Signer::new();
    let keys = signer.keys();
    let claimed = |claims: &str, after: i64| {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.checked_add_signed(after).unwrap());
        verify(signer.sign(HEAD, claims).as_bytes(), &keys, &rules(), now).map(|_| ())
    };
    assert_eq!(claimed(&claims(""), 0), Ok(()));
    assert_eq!(claimed(&claims(""), 89), Ok(()));
    assert_eq!(claimed(&claims(""), 90), Err(Rejected::Expired));
    assert_eq!(claimed(&claims(&format!(",\"nbf\":{}", NOW + 31)), 0), Err(Rejected::Early));
    assert_eq!(claimed(&claims(&format!(",\"nbf\":{}", NOW + 30)), 0), Ok(()));
    for nameless in [claims("").replace("\"sub\":\"test\",", ""), claims("").replace("\"test\"", "\"\"")] {
        assert_eq!(claimed(&nameless, 0), Err(Rejected::NoSubject), "{nameless}");
    }
    let is_malformed = |claims: &str| matches!(claimed(claims, 0), Err(Rejected::Malformed(_)));
    for wrong in [
        claims("").replace(&format!("{}", NOW + 60), &format!("\"{}\"", NOW + 60)), // a text is no time
        claims("").replace(&format!(",\"exp\":{}", NOW + 60), ""),
        claims("").replace(&format!("{}", NOW + 60), "null"),
        claims("").replace(&format!("{}", NOW + 60), "1e400"),
        claims("").replace(&format!("{}", NOW + 60), "-1"),
        claims(&format!(",\"exp\":{}", NOW + 9999)), // twice
        claims(",\"nbf\":\"0\""),
        claims(",\"iat\":true"),
        claims(",\"scope\":7"),
        claims(",\"scopes\":[7]"),
        claims("").replace("\"test\"", "7"),
        claims("").replace("\"test\"", &format!("\"{}\"", "t".repeat(300))),
        "[]".into(),
        "no json".into(),
    ] {
        assert!(is_malformed(&wrong), "{wrong}: {:?}", claimed(&wrong, 0));
    }
    for (wrong, expected) in [
        (claims("").replace("\"orders\"", "\"others\""), Rejected::Audience),
        (claims("").replace("\"aud\":\"orders\",", ""), Rejected::Audience),
        (claims("").replace("\"orders\"", "[\"others\"]"), Rejected::Audience),
        (claims("").replace("\"orders\"", "{\"orders\":1}"), Rejected::Audience),
        (claims("").replace("issuer.test", "issuer.test.evil"), Rejected::Issuer),
        (claims("").replace("\"iss\":\"https://issuer.test\",", ""), Rejected::Issuer),
    ] {
        assert_eq!(claimed(&wrong, 0), Err(expected), "{wrong}");
    }
    assert_eq!(claimed(&claims("").replace("\"orders\"", "[\"others\",\"orders\"]"), 0), Ok(()));
}

/// What has fooled others: no algorithm, HMAC with the public key, a key for another algorithm,
/// names of keys that are paths or queries, keys that the token brings itself.
#[test]
fn known_attacks_fail() {
    let signer = Signer::new();
    let keys = signer.keys();
    let refused = |token: &str| verify(token.as_bytes(), &keys, &rules(), now()).map(|_| ()).unwrap_err();
    let good = signer.sign(HEAD, &claims(""));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = signed.split_once('.').unwrap();
    for alg in ["none", "None", "HS256", "hs256", "RS512", "ES384", "eddsa", ""] {
        for kid in ["ed", "ec", "shared"] {
            let head = encode(format!(r#"{{"alg":"{alg}","kid":"{kid}"}}"#));
            assert_eq!(refused(&format!("{head}.{body}.")), Rejected::Algorithm, "{alg}");
            // The public key is no shared secret.
            let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signer.ed.public_key().as_ref());
            let tag = ring::hmac::sign(&secret, format!("{head}.{body}").as_bytes());
            assert_eq!(refused(&format!("{head}.{body}.{}", encode(tag))), Rejected::Algorithm, "{alg}");
        }
    }
    assert_eq!(refused(&signer.sign(r#"{"alg":"ES256","kid":"ed"}"#, &claims(""))), Rejected::Algorithm);
    assert_eq!(refused(&signer.sign(r#"{"alg":"RS256","kid":"ec"}"#, &claims(""))), Rejected::Algorithm);
    for kid in ["../../dev/null", "ed' OR 1=1", "", "http://evil.test/keys", "ED"] {
        assert_eq!(
            refused(&signer.sign(&format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#), &claims(""))),
            Rejected::UnknownKey
        );
    }
    let other = Signer::new();
    let brought = format!(
        r#"{{"alg":"EdDSA","kid":"ed","jku":"http://evil.test","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{}"}}}}"#,
        encode(other.ed.public_key())
    );
    assert_eq!(refused(&other.sign(&brought, &claims(""))), Rejected::Signature);
    for head in [
        r#"{"alg":"EdDSA","kid":"ed","crit":["exp"]}"#,
        r#"{"alg":"EdDSA","kid":"ed","b64":false}"#,
        r#"{"alg":"EdDSA","kid":"ed","typ":"JWE"}"#,
        r#"{"alg":"EdDSA","kid":["ed"]}"#,
        r#"{"alg":"none","kid":"ed","alg":"EdDSA"}"#,
        r#"{"alg":"EdDSA","kid":"ec","kid":"ed"}"#,
        &format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, "k".repeat(300)),
    ] {
        assert!(matches!(refused(&signer.sign(head, &claims(""))), Rejected::Malformed(_)), "{head}");
    }
    // Bits of the signature, its length, its spelling; and of what is signed.
    for cut in 1..signature.len() {
        let token = format!("{signed}.{}", &signature[..cut]);
        assert_eq!(refused(&token), Rejected::Signature, "{cut}");
    }
    assert_eq!(refused(&format!("{signed}.{signature}=")), Rejected::Signature);
    assert_eq!(refused(&format!("{signed}.{}", encode([0; 64]))), Rejected::Signature);
    let raised = encode(claims(",\"scope\":\"admin\""));
    assert_eq!(refused(&format!("{head}.{raised}.{signature}")), Rejected::Signature);
    let es = signer.sign(r#"{"alg":"ES256","kid":"ec"}"#, &claims(""));
    let (es_signed, _) = es.rsplit_once('.').unwrap();
    assert_eq!(refused(&format!("{es_signed}.{}", encode([0; 64]))), Rejected::Signature);
    let long = signer.sign(HEAD, &claims(&format!(",\"x\":\"{}\"", "x".repeat(TOKEN_BYTES_MAX))));
    assert!(matches!(refused(&long), Rejected::Malformed(_)));
    for odd in ["", ".", "..", "a.b", "a.b.c.d", "ö.ö.ö", &good.replace('.', "")] {
        let _ = refused(odd);
    }
}

/// Anything at all may come as a token.
#[test]
fn no_token_is_a_panic_and_none_that_was_changed_is_good() {
    let signer = Signer::new();
    let keys = signer.keys();
    let good = signer.sign(HEAD, &claims(""));
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut token = good.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..token.len());
            match random.u8(..3) {
                0 => token[at] = random.u8(..),
                1 => token.truncate(at.max(1)),
                _ => token.insert(at, b"._-=A0{}\""[random.usize(..9)]),
            }
        }
        if token != good.as_bytes() {
            // Of a last character that has bits to spare, only one spelling is base64.
            assert!(verify(&token, &keys, &rules(), now()).is_err(), "{}", String::from_utf8_lossy(&token));
        }
    }
}

/// A member that may be anything.
fn anything(random: &mut fastrand::Rng) -> Value {
    match random.u8(..12) {
        0 => Value::Null,
        1 => random.bool().into(),
        2 => random.i64(..).into(),
        3 => (random.f64() * 1e12).into(),
        4 => random.u64(NOW - 100..NOW + 100).into(),
        5 => "".into(),
        6 => {
            ["orders", "others", "EdDSA", "none", "ed", "https://issuer.test", "test", "JWT"][random.usize(..8)].into()
        }
        7 => random.u64(NOW - 100..NOW + 100).to_string().into(),
        8 => (0..random.usize(..4)).map(|_| anything(random)).collect::<Vec<_>>().into(),
        9 => serde_json::json!({"a": anything(random)}),
        10 => std::iter::repeat_n('k', random.usize(..400)).collect::<String>().into(),
        _ => char::from_u32(random.u32(1..0xd800)).unwrap_or('x').to_string().into(),
    }
}

/// An object with random members beside those that are given, in place of them or without them; some
/// are there twice.
fn members(random: &mut fastrand::Rng, given: &[(&str, Value)], more: &[&str]) -> (String, Vec<(String, Value)>) {
    let mut members: Vec<(String, Value)> = given.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
    for _ in 0..random.usize(..3) {
        match random.u8(..4) {
            0 if !members.is_empty() => drop(members.remove(random.usize(..members.len()))),
            1 if !members.is_empty() => {
                let at = random.usize(..members.len());
                members[at].1 = anything(random);
            }
            2 if !members.is_empty() => {
                let name = members[random.usize(..members.len())].0.clone();
                members.push((name, anything(random)));
            }
            _ => members.push((more[random.usize(..more.len())].into(), anything(random))),
        }
    }
    let written = members.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())));
    (format!("{{{}}}", written.collect::<Vec<_>>().join(",")), members)
}

/// Whatever an issuer signs: no panic, and what is let in keeps every rule, as another reader sees it.
#[test]
fn random_members_are_no_panic_and_only_those_that_keep_the_rules_are_let_in() {
    let signer = Signer::new();
    let keys = signer.keys();
    let mut random = fastrand::Rng::with_seed(23);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..20_000 {
        let of_head = [("alg", "EdDSA".into()), ("kid", "ed".into()), ("typ", "JWT".into())];
        let (head, heads) = members(&mut random, &of_head, &["crit", "b64", "jwk", "jku", "x5c", "cty", "enc", "zip"]);
        let of_claims = [
            ("iss", "https://issuer.test".into()),
            ("aud", "orders".into()),
            ("sub", "test".into()),
            ("exp", (NOW + 60).into()),
        ];
        let more = ["nbf", "iat", "scope", "scp", "scopes", "jti", "azp"];
        let (claims, claimed) = members(&mut random, &of_claims, &more);
        let token = signer.sign(&head, &claims);
        let is_good = verify(token.as_bytes(), &keys, &rules(), now()).is_ok();
        // Without its signature, or with another's, it is never let in.
        let (signed, _) = token.rsplit_once('.').unwrap();
        assert!(verify(format!("{signed}.").as_bytes(), &keys, &rules(), now()).is_err(), "{head} {claims}");
        let other = encode(Signer::new().ed.sign(signed.as_bytes()));
        assert!(bad % 100 != 0 || verify(format!("{signed}.{other}").as_bytes(), &keys, &rules(), now()).is_err());
        if !is_good {
            bad += 1;
            continue;
        }
        good += 1;
        let of = |list: &[(String, Value)], name: &str| {
            let mut found = list.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone());
            let first = found.next();
            assert!(found.next().is_none(), "{name} is there twice: {head} {claims}");
            first
        };
        assert_eq!(of(&heads, "alg"), Some("EdDSA".into()), "{head}");
        assert!(of(&heads, "crit").is_none() && of(&heads, "b64").is_none(), "{head}");
        assert!(of(&heads, "kid").is_none_or(|kid| kid == "ed"), "{head}");
        assert_eq!(of(&claimed, "iss"), Some("https://issuer.test".into()), "{claims}");
        let audience = of(&claimed, "aud").unwrap();
        let is_meant = audience == "orders" || audience.as_array().unwrap().contains(&"orders".into());
        assert!(is_meant, "{claims}");
        assert!(!of(&claimed, "sub").unwrap().as_str().unwrap().is_empty(), "{claims}");
        let time = |name: &str| of(&claimed, name).map(|value| value.as_f64().expect("a number"));
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let now = NOW as f64;
        assert!(time("exp").unwrap() + 30.0 > now && time("nbf").is_none_or(|time| time <= now + 30.0), "{claims}");
    }
    assert!(good > 1000 && bad > 1000, "{good} and {bad}");
}

/// Whatever comes as a key set is one or none.
#[test]
fn no_key_set_is_a_panic() {
    let signer = Signer::new();
    let good = serde_json::json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode(signer.ed.public_key())},
        {"kty": "RSA", "kid": "rsa", "alg": "RS256", "n": encode([0xf1; 256]), "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "kid": "ec", "x": encode([1; 32]), "y": encode([2; 32])},
    ]})
    .to_string();
    let token = signer.sign(HEAD, &claims(""));
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..20_000 {
        let mut text = good.clone().into_bytes();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..text.len());
            match random.u8(..3) {
                0 => text[at] = random.u8(..),
                1 => drop(text.drain(at..(at + random.usize(1..20)).min(text.len()))),
                _ => text.insert(at, b"\"{}[],:0A-_"[random.usize(..11)]),
            }
            if text.is_empty() {
                text.push(b'{');
            }
        }
        if let Ok(keys) = KeySet::parse(&text) {
            // Points that are on no curve and numbers that are no modulus verify nothing.
            for head in [HEAD, r#"{"alg":"ES256","kid":"ec"}"#, r#"{"alg":"RS256","kid":"rsa"}"#] {
                let _ = verify(signer.sign(head, &claims("")).as_bytes(), &keys, &rules(), now());
            }
            let _ = verify(token.as_bytes(), &keys, &rules(), now());
        }
    }
}

/// A caller is let in for as long as the set has the key that signed its token, as it was then.
#[test]
fn a_signer_is_known_by_what_it_is_called_is_for_and_verifies() {
    let signer = Signer::new();
    let caller = verify(signer.sign(HEAD, &claims("")).as_bytes(), &signer.keys(), &rules(), now()).unwrap();
    let signed_by = caller.signer.unwrap();
    assert!(signer.keys().has(&signed_by));
    assert!(!Signer::new().keys().has(&signed_by), "another key of the same name");
    let x = encode(signer.ed.public_key());
    for (entry, is_same) in [
        (serde_json::json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": x}), true),
        (serde_json::json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": x, "use": "sig"}), true),
        (serde_json::json!({"kty": "OKP", "crv": "Ed25519", "kid": "other", "x": x}), false),
        (serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x}), false),
        (serde_json::json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": x, "use": "enc"}), false),
    ] {
        let keys = KeySet::parse(serde_json::json!({"keys": [entry]}).to_string().as_bytes()).unwrap();
        assert_eq!(keys.has(&signed_by), is_same, "{entry}");
    }
}

#[test]
fn key_sets_are_read_or_refused() {
    for (text, expected) in [
        ("no json", "is no JSON"),
        ("{}", "no list"),
        (r#"{"keys":[]}"#, "has no key"),
        (r#"{"keys":[{"kty":"oct","k":"AA"}]}"#, "has no key"),
        (r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}"#, "key 1: x must have 32 bytes"),
        (r#"{"keys":[{"kty":"OKP","crv":"Ed25519"}]}"#, "key 1: x is missing"),
        (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#, "2048"),
        (r#"{"keys":[{"kty":"EC","crv":"P-256","x":"*","y":"AA"}]}"#, "x is no base64url"),
    ] {
        let error = KeySet::parse(text.as_bytes()).and_then(KeySet::usable).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn what_cannot_be_used_of_a_set_leaves_the_rest_in_use() {
    let signer = Signer::new();
    let point = signer.ec.public_key().as_ref();
    let of_ed = serde_json::json!({"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": encode(signer.ed.public_key())});
    let set = serde_json::json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "short", "x": "AA"},
        of_ed,
        {"kty": "EC", "crv": "P-256", "kid": "a", "x": encode(&point[1..33]), "y": encode(&point[33..])},
        of_ed,
    ]});
    let keys = KeySet::parse(set.to_string().as_bytes()).unwrap();
    assert_eq!((keys.count(), keys.ignored), (2, 0));
    assert_eq!(keys.unusable, ["key 1: x must have 32 bytes", "key 4: another of its kind has the same kid"]);
    for head in [r#"{"alg":"EdDSA","kid":"a"}"#, r#"{"alg":"ES256","kid":"a"}"#] {
        assert!(verify(signer.sign(head, &claims("")).as_bytes(), &keys, &rules(), now()).is_ok(), "{head}");
    }
    let refused = verify(signer.sign(r#"{"alg":"RS256","kid":"a"}"#, &claims("")).as_bytes(), &keys, &rules(), now());
    assert_eq!(refused.map(|_| ()), Err(Rejected::Algorithm));
    assert_eq!(KeySet::parse(br#"{"keys":[]}"#).unwrap().count(), 0);
}
