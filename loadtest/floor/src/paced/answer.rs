//! Finds where an answer ends: its head, and as many bytes as that says. Knows no other framing.

use anyhow::{Context, bail};

const FIELDS_MAX: usize = 32;
const HEAD_BYTES_MAX: usize = 16 << 10;

/// One answer as it arrives, in pieces or whole.
#[derive(Default)]
pub struct Answer {
    /// The beginning of a head.
    head: Vec<u8>,
    /// The status, and how much of the body is to come.
    body: Option<(u16, usize)>,
}

impl Answer {
    /// Takes what was read; the status once the answer is whole. The next one then begins.
    ///
    /// # Errors
    /// When this is no HTTP, has no length, or goes on after its end.
    pub fn take(&mut self, read: &[u8]) -> anyhow::Result<Option<u16>> {
        let joined;
        let mut bytes = read;
        if self.body.is_none() {
            if !self.head.is_empty() {
                self.head.extend_from_slice(bytes);
                joined = std::mem::take(&mut self.head);
                bytes = &joined;
            }
            let Some((status, head, body)) = read_head(bytes)? else {
                self.head = bytes.to_vec();
                return Ok(None);
            };
            self.body = Some((status, body));
            bytes = &bytes[head..];
        }
        let Some((status, left)) = &mut self.body else { return Ok(None) };
        *left = left.checked_sub(bytes.len()).context("an answer goes on after its end")?;
        let whole = (*left == 0).then_some(*status);
        if whole.is_some() {
            self.body = None;
        }
        Ok(whole)
    }
}

/// Status, bytes of the head and bytes of the body.
fn read_head(bytes: &[u8]) -> anyhow::Result<Option<(u16, usize, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = response.parse(bytes)? else {
        if bytes.len() > HEAD_BYTES_MAX {
            bail!("an answer's head has no end");
        }
        return Ok(None);
    };
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = std::str::from_utf8(length.context("an answer has no content-length")?.value)?.parse()?;
    Ok(Some((response.code.context("an answer has no status")?, head, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn an_answer_is_whole_however_it_is_cut() {
        for first in 0..=WHOLE.len() {
            for second in first..=WHOLE.len() {
                let mut answer = Answer::default();
                let pieces = [&WHOLE[..first], &WHOLE[first..second], &WHOLE[second..]];
                let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
                let taken: Vec<_> = pieces.map(|piece| answer.take(piece).unwrap()).collect();
                let (last, before) = taken.split_last().unwrap();
                assert!(*last == Some(200) && before.iter().all(Option::is_none), "{first} {second}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(Answer::default().take(b"RESP\r\n\r\n").is_err());
        assert!(Answer::default().take(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(Answer::default().take(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab").is_err());
    }
}
