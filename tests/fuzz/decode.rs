//! Any bytes against the oracle of `tests/order`, under every profile, in decoders that are never made again.

#![no_main]

use std::cell::RefCell;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use order_service::order::{Decoder, Profile};

#[path = "../order/json.rs"]
mod json;
#[path = "../order/oracle.rs"]
mod oracle;
#[path = "../order/rules.rs"]
mod rules;

const BYTES_MAX: usize = 6000;
const PROFILES: [Profile; 3] = [Profile::Lenient, Profile::Wb, Profile::Strict];

thread_local! {
    static DECODERS: RefCell<[Decoder; 3]> = RefCell::new(PROFILES.map(|profile| Decoder::new(profile, BYTES_MAX)));
}

fuzz_target!(|document: &[u8]| {
    let document = Bytes::copy_from_slice(document);
    DECODERS.with_borrow_mut(|decoders| {
        for (decoder, profile) in decoders.iter_mut().zip(PROFILES) {
            let answer = decoder.decode(&document);
            if let Err(difference) = oracle::compare(&oracle::expect(&document, profile, BYTES_MAX), &answer) {
                panic!("{profile:?}: {difference}");
            }
        }
    });
});
