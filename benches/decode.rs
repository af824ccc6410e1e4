//! What one decode costs: a compact WB order, the same with white space, and an envelope. Each answer is asserted.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use order_service::order::{Command, Decoder, Profile, sample};

const SEED: u64 = 1;

fn decode(criterion: &mut Criterion) {
    let mut document = Vec::new();
    // The sample whose size is nearest to 1 KB.
    let n = (10..200).min_by_key(|&n| {
        document.clear();
        sample::wb(SEED, n, &mut document);
        document.len().abs_diff(1024)
    });
    document.clear();
    sample::wb(SEED, n.expect("the range is not empty"), &mut document);
    let compact = Bytes::from(document);
    let spaced = Bytes::from(spaced(&compact));
    let mut document = Vec::new();
    sample::envelope(SEED, 10, &mut document);
    let envelope = Bytes::from(document);

    let mut group = criterion.benchmark_group("decode");
    for (name, profile, document) in [
        ("wb", Profile::Wb, &compact),
        ("wb_strict", Profile::Strict, &compact),
        ("wb_lenient", Profile::Lenient, &compact),
        ("wb_spaced", Profile::Wb, &spaced),
    ] {
        let mut decoder = Decoder::new(profile, 1 << 20);
        group.throughput(Throughput::Bytes(document.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let order = decoder.decode(black_box(document)).expect("a valid order");
                let Command::Wb(body) = &order.command else { panic!("a WB order") };
                assert_eq!(*body, compact);
                order
            });
        });
    }
    let mut decoder = Decoder::new(Profile::Wb, 1 << 20);
    group.throughput(Throughput::Bytes(envelope.len() as u64));
    group.bench_function("envelope", |bencher| {
        bencher.iter(|| {
            let order = decoder.decode(black_box(&envelope)).expect("a valid order");
            let Command::Envelope(request) = &order.command else { panic!("an envelope") };
            assert!(request.payload.is_some() && request.external_id.is_some());
            order
        });
    });
}

/// White space as a producer that prints its JSON in lines has it.
fn spaced(compact: &[u8]) -> Vec<u8> {
    let (mut inside, mut escaped) = (false, false);
    let mut spaced = Vec::new();
    for &byte in compact {
        spaced.push(byte);
        if inside {
            inside = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else {
            match byte {
                b'"' => inside = true,
                b',' | b'{' | b'[' => spaced.extend_from_slice(b"\n    "),
                b':' => spaced.push(b' '),
                _ => {}
            }
        }
    }
    spaced
}

criterion_group!(benches, decode);
criterion_main!(benches);
