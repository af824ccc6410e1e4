//! A way to the server that can be made silent: connections stay open, and nothing gets through.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::database::Database;

/// Forwards to a server, or holds back all that either side says.
pub struct Proxy {
    address: SocketAddr,
    database: String,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Proxy {
    pub fn start(database: &Database) -> Self {
        let url = database.url();
        let (server, name) = url.split_once('@').unwrap().1.split_once('/').unwrap();
        let (server, name) = (server.to_owned(), name.to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new((Mutex::new(true), Condvar::new()));
        let opened = Arc::clone(&gate);
        // They end with the test, or with the process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let [one, other] = [Arc::clone(&opened), Arc::clone(&opened)];
                std::thread::spawn(move || forward(from, to, &one));
                std::thread::spawn(move || forward(server, client, &other));
            }
        });
        Self { address, database: name, gate }
    }

    /// The URL of the database through it.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/{}", self.address, self.database)
    }

    /// Holds everything back from here on, new connections too.
    pub fn silence(&self) {
        *self.gate.0.lock().unwrap() = false;
    }

    /// Forwards what was held back, and what comes.
    pub fn resume(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.resume(); // or its threads would wait for ever
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, gate: &(Mutex<bool>, Condvar)) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        drop(gate.1.wait_while(gate.0.lock().unwrap(), |is_open| !*is_open).unwrap());
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            let _ = to.shutdown(std::net::Shutdown::Both);
            let _ = from.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}
