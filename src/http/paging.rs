//! Pages of the list: where the next one starts, and how it is linked to.

/// What `Link` says of the page after the order of this rank.
pub fn next_page(last: u64, limit: usize) -> String {
    format!("</api/orders?limit={limit}&cursor={}>; rel=\"next\"", cursor(last))
}

/// Digits of a rank in a cursor: as many as the largest has, so that one that was cut is known by
/// its length.
const RANK_DIGITS: usize = 13;
const CHECK_DIGITS: usize = 2;
/// A prime below 36². Neither it divides a difference of two digits nor 35: one digit that is
/// another, and two that changed places, change the rest.
const CHECK_MODULUS: u64 = 1291;

/// Where the page after the order of this rank starts, as its clients name it: the rank and two
/// digits that check it.
#[must_use]
pub fn cursor(rank: u64) -> String {
    let mut digits = [b'0'; RANK_DIGITS + CHECK_DIGITS];
    let (to_rank, to_check) = digits.split_at_mut(RANK_DIGITS);
    for (mut number, to) in [(rank, to_rank), (rank.wrapping_add(1) % CHECK_MODULUS, to_check)] {
        for digit in to.iter_mut().rev() {
            *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
            number /= 36;
        }
    }
    String::from_utf8_lossy(&digits).into_owned()
}

/// The rank in a cursor, if it is one that [`cursor`] makes.
#[must_use]
pub fn read_cursor(text: &str) -> Option<u64> {
    let rank = text.get(..RANK_DIGITS).and_then(|digits| u64::from_str_radix(digits, 36).ok())?;
    (i64::try_from(rank).is_ok() && cursor(rank) == text).then_some(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back() {
        for seq in [0, 1, 35, 36, 1_234_567, i64::MAX.unsigned_abs()] {
            assert_eq!(read_cursor(&cursor(seq)), Some(seq));
        }
        for text in ["", "00", "ABC", "zz", "+1", "1y2p0ij32e8e8", "3w5e11264sgsfx0", "a b", "äääääääää"] {
            assert_eq!(read_cursor(text), None, "{text}");
        }
    }

    #[test]
    fn cursors_that_were_cut_or_altered_are_none() {
        for seq in [0, 1, 35, 36, 1_234_567, 987_654_321_012, i64::MAX.unsigned_abs()] {
            let whole = cursor(seq);
            for at in 0..whole.len() {
                assert_eq!(read_cursor(&whole[..at]), None);
                assert_eq!(read_cursor(&whole[at + 1..]), None);
                for digit in
                    "0123456789abcdefghijklmnopqrstuvwxyzZ".chars().filter(|digit| !whole[at..].starts_with(*digit))
                {
                    let altered = format!("{}{digit}{}", &whole[..at], &whole[at + 1..]);
                    assert_eq!(read_cursor(&altered), None, "{altered}");
                }
                let mut swapped: Vec<char> = whole.chars().collect();
                if at > 0 && swapped[at] != swapped[at - 1] {
                    swapped.swap(at, at - 1);
                    let swapped: String = swapped.into_iter().collect();
                    assert_eq!(read_cursor(&swapped), None, "{swapped}");
                }
            }
            assert_eq!(read_cursor(&format!("{whole}0")), None);
        }
    }
}
