//! Stands between a broker and its clients and can change what the broker answers. Knows how Kafka's requests and
//! responses are framed, and of their contents what a test asks it to change; nothing of orders.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Numbers of requests in Kafka's protocol.
mod api {
    pub const FETCH: i16 = 1;
    pub const LIST_OFFSETS: i16 = 2;
    pub const METADATA: i16 = 3;
}

/// A request that was passed on.
#[derive(Debug, Clone, Copy)]
struct Asked {
    api: i16,
    version: i16,
    /// Asks for metadata with what the client may do with each topic: the only one whose answer librdkafka (2.12) does
    /// not take twice for one topic. It reads what it has freed then.
    is_of_rights: bool,
}

impl Asked {
    fn read(frame: &[u8]) -> Self {
        // The last of a request for metadata are whether rights are asked for, and no tags.
        let is_of_rights = frame[frame.len() - 2] != 0;
        Self { api: short(frame, 0), version: short(frame, 2), is_of_rights }
    }
}

/// A question where partitions start or end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetQuestion {
    pub topic: String,
    /// How many partitions it asks about at once.
    pub partitions: usize,
}

impl OffsetQuestion {
    /// A ListOffsetsRequest of a version with compact lists and tagged fields.
    fn read(frame: &[u8]) -> Self {
        let version = short(frame, 2);
        assert!(version >= 6, "a question about offsets of version {version}");
        let client_bytes = usize::try_from(short(frame, 8)).unwrap_or_default();
        // After its length: the client's name, no tags, the replica's number, and which
        // transactions count.
        let mut rest = Cursor { frame, at: 10 + client_bytes + 1 + 4 + 1 };
        assert_eq!(rest.varint() - 1, 1, "topics asked about at once");
        let length = rest.varint() - 1;
        let topic = String::from_utf8(frame[rest.at..rest.at + length].to_vec()).unwrap();
        rest.at += length;
        Self { topic, partitions: rest.varint() - 1 }
    }
}

/// What is done to answers. Each can be switched at any time.
#[derive(Debug, Default)]
pub struct Faults {
    /// Metadata name no broker at all, as from one that has fenced itself.
    pub hides_brokers: AtomicBool,
    /// How many answers named none so far.
    pub hidden: AtomicUsize,
    /// Questions where partitions start or end get no answer.
    pub holds_offsets: AtomicBool,
    /// As many connections as were taken first get no answer to a fetch.
    stalled_below: AtomicUsize,
    /// Such questions, oldest first, answered or not.
    offset_questions: Mutex<Vec<OffsetQuestion>>,
}

/// What stands between a broker on this host and the clients that are given its address. Ends with the test.
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<Faults>,
    accepted: Arc<AtomicUsize>,
}

impl Proxy {
    /// Before the one broker of this bootstrap list.
    pub fn start(brokers: &str) -> Self {
        let broker: SocketAddr = brokers.parse().expect("one broker on this host");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (faults, accepted) = (Arc::new(Faults::default()), Arc::new(AtomicUsize::new(0)));
        let (shared, count) = (Arc::clone(&faults), Arc::clone(&accepted));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let faults = Arc::clone(&shared);
                // A broker that is down refuses, and so does this.
                let Ok(server) = TcpStream::connect(broker) else { continue };
                std::thread::spawn(move || drop(relay(client, server, [broker, address], number, &faults)));
            }
        });
        Self { address, faults, accepted }
    }

    /// The bootstrap list of the clients that are to come here.
    pub fn url(&self) -> String {
        self.address.to_string()
    }

    /// What is done to answers.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The questions where partitions of this topic start or end that have been asked so far.
    pub fn offset_questions(&self, topic: &str) -> Vec<OffsetQuestion> {
        let all = self.faults.offset_questions.lock().unwrap();
        all.iter().filter(|question| question.topic == topic).cloned().collect()
    }

    /// From now on the connections that there are get no answer to a fetch; later ones do.
    pub fn stall_fetches(&self) {
        self.faults.stalled_below.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// Passes frames on until one side ends, and has clients come here where the broker names its own address.
fn relay(
    client: TcpStream,
    server: TcpStream,
    [theirs, ours]: [SocketAddr; 2],
    number: usize,
    faults: &Arc<Faults>,
) -> io::Result<()> {
    let asked: Arc<Mutex<HashMap<i32, Asked>>> = Arc::default();
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (asking, noting) = (Arc::clone(&asked), Arc::clone(faults));
    std::thread::spawn(move || {
        while let Ok(frame) = read_frame(&mut from_client) {
            let question = Asked::read(&frame);
            asking.lock().unwrap().insert(int(&frame, 4), question);
            if question.api == api::LIST_OFFSETS {
                noting.offset_questions.lock().unwrap().push(OffsetQuestion::read(&frame));
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
        let question = asked.lock().unwrap().remove(&int(&frame, 0));
        match question {
            Some(Asked { api: api::FETCH, .. }) if number < faults.stalled_below.load(Ordering::SeqCst) => continue,
            Some(Asked { api: api::FETCH, .. }) => {} // messages are passed on as they are
            Some(Asked { api: api::LIST_OFFSETS, .. }) if faults.holds_offsets.load(Ordering::SeqCst) => continue,
            Some(Asked { api: api::METADATA, version, is_of_rights })
                if faults.hides_brokers.load(Ordering::SeqCst) =>
            {
                frame = without_brokers(&frame, version, if is_of_rights { 1 } else { TOPIC_REPEATS });
                faults.hidden.fetch_add(1, Ordering::SeqCst);
            }
            _ => {
                let found: Vec<usize> = memchr::memmem::find_iter(&frame, &theirs).collect();
                for at in found {
                    frame[at..at + ours.len()].copy_from_slice(&ours);
                }
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
fn without_brokers(frame: &[u8], version: i16, repeats: usize) -> Vec<u8> {
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
    put_varint(&mut changed, count * repeats + 1);
    changed.extend(frame[named..end].repeat(repeats));
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
