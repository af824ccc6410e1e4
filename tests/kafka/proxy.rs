//! Stands between a broker and its clients and can change what the broker answers. Knows how Kafka's requests and
//! responses are framed, and of their contents what a test asks it to change; nothing of orders.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::servers::Private;

/// Numbers of requests in Kafka's protocol.
mod api {
    pub const FETCH: i16 = 1;
    pub const METADATA: i16 = 3;
}

/// What is done to answers. Each can be switched at any time.
#[derive(Debug, Default)]
pub struct Faults {
    /// Metadata name no broker at all, as from one that has fenced itself.
    pub hides_brokers: AtomicBool,
    /// Answers that were changed so.
    pub hidden: AtomicUsize,
    /// Connections that ask for messages get no answer any more, while what connects later is served.
    stalled_upto: AtomicUsize,
}

/// A broker behind a proxy, which can be reached without it too. Ends with the test.
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<Faults>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    broker: Private,
}

impl Proxy {
    /// A broker of the test's own that has its clients connect here; `None` where there is none to be had.
    pub fn start() -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (broker, upstream) = Private::kafka_behind(address)?;
        let (faults, connections) = (Arc::new(Faults::default()), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (shared, all) = (Arc::clone(&faults), Arc::clone(&connections));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(client.try_clone().unwrap());
                    all.len()
                };
                let faults = Arc::clone(&shared);
                // A broker that is down refuses, and so does this.
                let Ok(server) = TcpStream::connect(upstream) else { continue };
                std::thread::spawn(move || drop(relay(client, server, number, &faults)));
            }
        });
        Some(Self { address, faults, connections, broker })
    }

    /// The bootstrap list of clients whose answers pass here.
    pub fn url(&self) -> String {
        self.address.to_string()
    }

    /// The bootstrap list of clients that connect to the broker itself.
    pub fn direct(&self) -> &str {
        self.broker.url()
    }

    /// What is done to answers.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// From now on the connections that there are get no answer to a fetch; later ones do.
    pub fn stall_fetches(&self) {
        self.faults.stalled_upto.store(self.connections.lock().unwrap().len(), Ordering::SeqCst);
    }

    /// Cuts every connection that there is.
    pub fn cut(&self) {
        for connection in &*self.connections.lock().unwrap() {
            let _ = connection.shutdown(Shutdown::Both); // it may have ended
        }
    }
}

/// Passes frames on until one side ends.
fn relay(client: TcpStream, server: TcpStream, number: usize, faults: &Faults) -> io::Result<()> {
    let asked: Arc<Mutex<HashMap<i32, (i16, i16)>>> = Arc::default();
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let asking = Arc::clone(&asked);
    std::thread::spawn(move || {
        while let Ok(frame) = read_frame(&mut from_client) {
            let (api, version, correlation) = (short(&frame, 0), short(&frame, 2), int(&frame, 4));
            asking.lock().unwrap().insert(correlation, (api, version));
            if write_frame(&mut to_server, &frame).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let (mut from_server, mut to_client) = (server, client);
    let done = loop {
        let mut frame = match read_frame(&mut from_server) {
            Ok(frame) => frame,
            Err(error) => break Err(error),
        };
        let question = asked.lock().unwrap().remove(&int(&frame, 0));
        match question {
            Some((api::FETCH, _)) if number <= faults.stalled_upto.load(Ordering::SeqCst) => continue,
            Some((api::METADATA, version)) if faults.hides_brokers.load(Ordering::SeqCst) => {
                frame = without_brokers(&frame, version);
                faults.hidden.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
        if let Err(error) = write_frame(&mut to_client, &frame) {
            break Err(error);
        }
    };
    let _ = to_client.shutdown(Shutdown::Both);
    done
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn write_frame(stream: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
    bytes.extend(frame);
    stream.write_all(&bytes)
}

fn short(frame: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(frame[at..at + 2].try_into().unwrap())
}

fn int(frame: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

/// How often a topic is named in such an answer. Reading it takes the client's main thread long enough for the thread of
/// its last broker to end meanwhile, which is the order of things that librdkafka does not get over.
const TOPIC_REPEATS: usize = 2000;

/// A MetadataResponse (of a version with compact lists and tagged fields) with an empty list of brokers.
fn without_brokers(frame: &[u8], version: i16) -> Vec<u8> {
    let tail = match version {
        9 | 10 => 5, // authorized operations, tags
        11 | 12 => 1,
        13 => 3, // error code, tags
        _ => panic!("metadata of version {version}"),
    };
    let brokers = 9; // after correlation id, tags, throttle time
    let mut rest = Cursor { frame, at: brokers };
    for _ in 1..rest.varint() {
        rest.at += 4; // id
        rest.text();
        rest.at += 4; // port
        rest.text(); // rack
        assert_eq!(rest.varint(), 0, "tags of a broker");
    }
    let cluster = rest.at;
    rest.text(); // its id
    rest.at += 4; // the controller's id
    let topics = rest.at;
    let count = rest.varint() - 1;
    let (named, end) = (rest.at, frame.len() - tail);
    let mut changed = [&frame[..brokers], &[1], &frame[cluster..topics]].concat();
    put_varint(&mut changed, count * TOPIC_REPEATS + 1);
    changed.extend(frame[named..end].repeat(TOPIC_REPEATS));
    changed.extend(&frame[end..]);
    changed
}

fn put_varint(into: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

struct Cursor<'f> {
    frame: &'f [u8],
    at: usize,
}

impl Cursor<'_> {
    fn varint(&mut self) -> usize {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.frame[self.at];
            self.at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    /// Passes over a text, which may be null.
    fn text(&mut self) {
        let length = self.varint().saturating_sub(1);
        self.at += length;
    }
}
