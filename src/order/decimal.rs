//! Exact sums of money that is written in decimals: 3 x 0.1 is 0.3 here, where double precision says
//! 0.30000000000000004.

use std::fmt;

/// `digits` x 10^-`scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    digits: i128,
    scale: u32,
}

/// More places than any currency has. Without a limit, `1e-2000000000` would be written out.
const SCALE_MAX: i32 = 30;

impl Decimal {
    /// Nothing.
    pub const ZERO: Self = Self { digits: 0, scale: 0 };

    /// Reads a JSON number. `None` when it has too many digits to be kept exactly.
    #[must_use]
    pub fn parse(number: &str) -> Option<Self> {
        let (mantissa, exponent) = match number.find(['e', 'E']) {
            Some(at) => (&number[..at], number[at + 1..].parse::<i32>().ok()?),
            None => (number, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent).filter(|&scale| scale <= SCALE_MAX)?;
        let is_negative = whole.starts_with('-');
        let mut digits = 0_i128;
        for digit in whole.bytes().chain(fraction.bytes()).filter(u8::is_ascii_digit) {
            digits = digits.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
        }
        let digits = digits.checked_mul(10_i128.checked_pow(scale.min(0).unsigned_abs())?)?;
        Some(Self { digits: if is_negative { -digits } else { digits }, scale: scale.max(0).unsigned_abs() })
    }

    /// The exact product, if it can be kept.
    #[must_use]
    pub fn times(self, other: Self) -> Option<Self> {
        Some(Self { digits: self.digits.checked_mul(other.digits)?, scale: self.scale.checked_add(other.scale)? })
    }

    /// The exact sum, if it can be kept.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        Some(Self { digits: self.digits_at(scale)?.checked_add(other.digits_at(scale)?)?, scale })
    }

    fn digits_at(self, scale: u32) -> Option<i128> {
        if self.digits == 0 {
            return Some(0);
        }
        self.digits.checked_mul(10_i128.checked_pow(scale - self.scale)?)
    }
}

/// A JSON number without an exponent and without zeros at the end of its fraction.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mut digits, mut scale } = *self;
        while scale > 0 && digits % 10 == 0 {
            if digits == 0 {
                scale = 0;
                break;
            }
            digits /= 10;
            scale -= 1;
        }
        if scale == 0 {
            return write!(f, "{digits}");
        }
        let sign = if digits < 0 { "-" } else { "" };
        let width = scale as usize;
        let digits = format!("{:0>1$}", digits.unsigned_abs(), width + 1);
        let (whole, fraction) = digits.split_at(digits.len() - width);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact() {
        let sum = |factors: &[(&str, &str)]| {
            factors.iter().try_fold(Decimal::ZERO, |sum, (price, quantity)| {
                sum.plus(Decimal::parse(price)?.times(Decimal::parse(quantity)?)?)
            })
        };
        for (factors, expected) in [
            (&[("0.1", "3")][..], "0.3"),
            (&[("19.99", "3"), ("0.03", "1")], "60"),
            (&[("19.90", "2")], "39.8"),
            (&[("-0.05", "1")], "-0.05"),
            (&[("-0", "5"), ("0.00", "1")], "0"),
            (&[("1e2", "2"), ("15E-1", "1")], "201.5"),
            (&[("9223372036854775807", "9223372036854775807")], "85070591730234615847396907784232501249"),
            (&[("1", "1e-3"), ("-1", "1")], "-0.999"),
        ] {
            assert_eq!(sum(factors).map(|sum| sum.to_string()).as_deref(), Some(expected), "{factors:?}");
        }
        for factors in
            [("1e39", "1"), ("1e300", "0.1"), ("1e99999999999", "1"), ("9223372036854775807", "1e20"), ("1e-31", "1")]
        {
            assert_eq!(sum(&[factors]), None, "{factors:?}");
        }
    }
}
