//! The decoder against the oracle on hundreds of thousands of documents, others in each run. `ORDER_PROPERTY_INPUTS` says
//! how many, `ORDER_PROPERTY_SEED` repeats a run.

use bytes::Bytes;
use order_service::order::{Decoder, Profile};

use super::generate::Generator;
use super::{escaped, oracle};

/// Small, so that documents over it are met often.
const BYTES_MAX: usize = 6000;
const INPUTS_DEFAULT: u64 = 500_000;
const FAILURES_MAX: usize = 10;

#[test]
fn the_decoder_agrees_with_the_oracle() {
    let inputs = number("ORDER_PROPERTY_INPUTS").unwrap_or(INPUTS_DEFAULT);
    let seed = number("ORDER_PROPERTY_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{inputs} inputs, ORDER_PROPERTY_SEED={seed}");
    let mut generator = Generator::new(seed);
    let profiles = [Profile::Lenient, Profile::Wb, Profile::Strict];
    let mut reused = profiles.map(|profile| Decoder::new(profile, BYTES_MAX));
    let (mut accepted, mut bytes) = ([0_u64; 3], 0);
    let mut failures = 0;
    for input in 0..inputs {
        let document = Bytes::copy_from_slice(generator.next());
        bytes += document.len();
        let which = generator.below(3);
        let profile = profiles[which];
        let answer = reused[which].decode(&document);
        accepted[which] += u64::from(answer.is_ok());
        let mut verdict = oracle::compare(&oracle::expect(&document, profile, BYTES_MAX), &answer);
        if verdict.is_ok() && input % 8 == 0 {
            let fresh = format!("{:?}", Decoder::new(profile, BYTES_MAX).decode(&document));
            let reused = format!("{answer:?}");
            // A made id differs each time, and so does a count of references inside the bytes.
            if fresh != reused && !fresh.contains("is_new: true") {
                verdict = Err(format!("fresh  {fresh}\nreused {reused}"));
            }
        }
        if let Err(difference) = verdict {
            failures += 1;
            println!("input {input}, {profile:?}: {}\n{difference}\n", escaped(&document));
            assert!(failures < FAILURES_MAX, "too many differences");
        }
    }
    println!("accepted (lenient, wb, strict) {accepted:?}, {} bytes on average", bytes as u64 / inputs.max(1));
    assert_eq!(failures, 0, "see above");
    for (profile, accepted) in profiles.iter().zip(accepted) {
        assert!(accepted > inputs / 40, "too few documents are valid under {profile:?} for this to prove anything");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
