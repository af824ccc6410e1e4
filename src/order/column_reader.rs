//! Reads the columns of bodies that are stored already.

use std::cell::RefCell;

use super::columns::{Columns, Packed, columns};
use super::decode::{Decoder, Decoding};
use super::validate::Profile;

/// Reads the columns of stored bodies, reusing its working space.
pub struct ColumnReader(Decoder);

impl Default for ColumnReader {
    fn default() -> Self {
        Self(Decoder::new(Profile::Lenient, usize::MAX))
    }
}

impl ColumnReader {
    /// The scalars of a stored WB body.
    pub fn wb(&mut self, body: &[u8]) -> Packed {
        let read = self.0.with_document(body, |decoding| Ok(columns(decoding.nodes).pack()));
        // A stored body was decoded before it was stored, so this reads it again; if not, there are no columns.
        read.unwrap_or_else(|_| Columns::default().pack())
    }
}

/// `customer_id` of a stored WB body.
pub(super) fn customer_id(body: &[u8]) -> Option<String> {
    thread_local! {
        static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new(Profile::Lenient, usize::MAX));
    }
    DECODER.with_borrow_mut(|decoder| {
        let read = |decoding: Decoding<'_, '_>| Ok(columns(decoding.nodes).customer_id.map(str::to_owned));
        decoder.with_document(body, read).ok().flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_and_what_is_of_another_type_is_not() {
        let body = br#"{"order_uid":"a","entry":"W\u0042","sm_id":7,"locale":3,"items":[{"entry":"x"}],"date_created":"1970-01-01T00:00:01Z"}"#;
        let expected =
            Columns { entry: Some("WB"), sm_id: Some(7), date_created: Some(1_000_000), ..Columns::default() };
        assert_eq!(ColumnReader::default().wb(body), expected.pack());
        assert_eq!(ColumnReader::default().wb(b""), Columns::default().pack());
        let none = [255; 4];
        assert_eq!(Columns::default().pack().as_bytes(), none.repeat(Columns::COUNT));
    }

    #[test]
    fn the_decoder_notes_the_same_columns() {
        let mut decoder = Decoder::new(Profile::Wb, 1 << 20).with_columns(true);
        for n in 0..200 {
            let mut document = Vec::new();
            crate::order::sample::wb(7, n, &mut document);
            let order = decoder.decode(&document.into()).unwrap();
            let crate::order::Command::Wb(body) = &order.command else { panic!("samples are WB orders") };
            assert_eq!(order.columns, Some(ColumnReader::default().wb(body)));
        }
    }
}
