//! Event streams of one order: they say that they are alive however much others hear.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::server::{Connection, START_TIME, Server};

/// Reads until the stream has said so often that it is alive.
fn wait_heartbeats(stream: &mut Connection, count: usize) {
    let end = Instant::now() + START_TIME;
    let mut seen = 0;
    while seen < count {
        let chunk = stream.chunk().expect("more of the stream").expect("an open stream");
        let text = String::from_utf8(chunk).unwrap();
        assert!(!text.contains("event:"), "an event of another order: {text}");
        seen += text.matches(": heartbeat\n").count();
        assert!(Instant::now() < end, "{seen} heartbeats in {START_TIME:?}");
    }
}

#[test]
fn a_stream_of_one_order_is_alive_whether_others_change_or_not() {
    let server = Server::start(&["--events-heartbeat", "300ms"]);
    let mut stream = server.connect();
    stream.ask("GET", "/events?order=quiet", &[], "");
    stream.try_head().unwrap().expect(200);
    wait_heartbeats(&mut stream, 2);
    // Each change of another order put the next heartbeat off: on a busy service there was never one, and what stands
    // between took the stream for dead.
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = server.connect();
            for n in 0_u64.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let body = wb_posted("busy").replace("1817", &n.to_string());
                writer.request("POST", "/orders", &[("Content-Type", "application/json")], body);
                // A pace: many changes in the time of a heartbeat.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let alive = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_heartbeats(&mut stream, 3)));
        is_over.store(true, Ordering::Relaxed);
        alive.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}
