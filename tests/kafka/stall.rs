//! A consumer that is behind and gets nothing, as from a connection that is dead and not closed. Owns a proxy that keeps
//! the answers to fetches to itself.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::RECOVERY;
use super::ledger::{Sent, metric, stop};
use super::topic::Topic;
use crate::server::{Server, until};

/// The number of fetches in Kafka's protocol.
const FETCH: [u8; 2] = 1_i16.to_be_bytes();

/// What stands between a broker on this host and its clients. Ends with the test.
struct Proxy {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// The answers to fetches on as many connections as were taken first are lost.
    stalled: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, stalled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, upto) = (Arc::clone(&accepted), Arc::clone(&stalled));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let upto = Arc::clone(&upto);
                let Ok(server) = TcpStream::connect(broker) else { continue };
                std::thread::spawn(move || {
                    let is_stalled = || number < upto.load(Ordering::SeqCst);
                    drop(relay(client, server, [broker, address], is_stalled));
                });
            }
        });
        Self { address, accepted, stalled }
    }

    /// From now on the connections that there are get no answer to a fetch; later ones do.
    fn stall(&self) {
        self.stalled.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// Passes frames on until one side ends, and has clients come here where the broker names its own address.
fn relay(
    client: TcpStream,
    server: TcpStream,
    [theirs, ours]: [SocketAddr; 2],
    is_stalled: impl Fn() -> bool,
) -> io::Result<()> {
    let fetches: Arc<Mutex<HashSet<[u8; 4]>>> = Arc::default();
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let asked = Arc::clone(&fetches);
    std::thread::spawn(move || {
        while let Ok(frame) = read_frame(&mut from_client) {
            if frame[..2] == FETCH {
                asked.lock().unwrap().insert(frame[4..8].try_into().unwrap());
            }
            if write_frame(&mut to_server, &frame).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Both);
    });
    // A host is followed by its port in every answer that names one. No other text is longer or shorter for it.
    let place =
        |address: SocketAddr| [address.ip().to_string().as_bytes(), &i32::from(address.port()).to_be_bytes()].concat();
    let (theirs, ours) = (place(theirs), place(ours));
    let (mut from_server, mut to_client) = (server, client);
    let relayed = loop {
        let mut frame = match read_frame(&mut from_server) {
            Ok(frame) => frame,
            Err(error) => break Err(error),
        };
        let is_fetched = fetches.lock().unwrap().remove(&frame[..4]);
        if is_fetched && is_stalled() {
            continue;
        }
        if !is_fetched {
            let found: Vec<usize> = memchr::memmem::find_iter(&frame, &theirs).collect();
            for at in found {
                frame[at..at + ours.len()].copy_from_slice(&ours);
            }
        }
        if let Err(error) = write_frame(&mut to_client, &frame) {
            break Err(error);
        }
    };
    let _ = to_client.shutdown(Shutdown::Both);
    relayed
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn write_frame(stream: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    stream.write_all(&[&(frame.len() as u32).to_be_bytes()[..], frame].concat())
}

#[test]
fn a_consumer_that_gets_nothing_is_replaced_and_everything_is_read() {
    let Some(topic) = Topic::create(2) else { return };
    let broker = topic.flags()[1].to_owned();
    let proxy = Proxy::start(broker.parse().expect("one broker on this host"));
    let address = proxy.address.to_string();
    // Left to itself the library would give the connection up after five minutes.
    let more = ["--kafka-stall-timeout", "2s", "--kafka-property", "socket.timeout.ms=300000"];
    let mut flags = topic.flags_with(&more);
    flags[1] = &address;
    let mut server = Server::start(&flags);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..100);
    sent.wait_seen(&server, &topic);
    assert_eq!(metric(&server, "kafka_stalls_total")[""], 0);
    proxy.stall();
    sent.send(&topic.sender(), 100..200);
    until("a stall is counted", RECOVERY, || (metric(&server, "kafka_stalls_total")[""] > 0).then_some(()));
    sent.wait_seen(&server, &topic);
    sent.check_view(&server, None);
    until("it is ready", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    stop(&mut server);
}
