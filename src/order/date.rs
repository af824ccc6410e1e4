//! Dates and times by RFC 3339. Only looks: the producer's spelling is what is kept.

/// RFC 3339, section 5.6, with the liberties its notes give: `t`, `z` and a space between date and time.
///
/// A leap second must be the last second of a month in UTC; whether one was declared then is not checked.
#[must_use]
pub fn is_rfc3339(text: &str) -> bool {
    read(text.as_bytes()).is_some()
}

/// The instant a text names, in microseconds since 1970 in UTC. `None` when it is no date and time by RFC 3339.
///
/// A leap second is the first of the next minute; digits beyond the sixth of a fraction are dropped.
#[must_use]
pub fn unix_micros(text: &str) -> Option<i64> {
    read(text.as_bytes())
}

fn read(text: &[u8]) -> Option<i64> {
    let (date_time, rest) = text.split_at_checked(19)?;
    let year = number(date_time, 0)? * 100 + number(date_time, 2)?;
    let (month, day) = (number(date_time, 5)?, number(date_time, 8)?);
    let (hour, minute, second) = (number(date_time, 11)?, number(date_time, 14)?, number(date_time, 17)?);
    let marks = [date_time[4], date_time[7], date_time[10], date_time[13], date_time[16]];
    let [b'-', b'-', b'T' | b't' | b' ', b':', b':'] = marks else { return None };
    let (fraction, zone) = match rest {
        [b'.', b'0'..=b'9', ..] => {
            let digits = rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            rest[1..].split_at(digits)
        }
        zone => (&b""[..], zone),
    };
    let offset = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (number(zone, 1)?, number(zone, 4)?);
            (hours <= 23 && minutes <= 59).then_some(())?;
            if *sign == b'+' { hours * 60 + minutes } else { -(hours * 60 + minutes) }
        }
        _ => return None,
    };
    let days = days_in(year, month)?;
    let is_in_range = (1..=days).contains(&day) && hour <= 23 && minute <= 59;
    let is_second = second <= 59 || (second == 60 && ends_month(day, days, hour * 60 + minute - offset));
    (is_in_range && is_second).then(|| {
        let minutes = days_since_1970(year, month, day) * 1440 + i64::from(hour * 60 + minute - offset);
        let micros =
            (0..6).fold(0, |micros, at| micros * 10 + i64::from(fraction.get(at).map_or(0, |digit| digit - b'0')));
        (minutes * 60 + i64::from(second)) * 1_000_000 + micros
    })
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `days_from_civil`).
fn days_since_1970(year: i32, month: i32, day: i32) -> i64 {
    let year = i64::from(if month <= 2 { year - 1 } else { year });
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Whether a minute, counted from the start of its local day to UTC, is the last of a month there.
fn ends_month(day: i32, days: i32, minute_utc: i32) -> bool {
    let day_utc = day + minute_utc.div_euclid(1440);
    minute_utc.rem_euclid(1440) == 1439 && (day_utc == days || day_utc == 0)
}

fn days_in(year: i32, month: i32) -> Option<i32> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    Some(match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return None,
    })
}

/// The two digits at `at`.
fn number(text: &[u8], at: usize) -> Option<i32> {
    let [tens, ones] = [text[at], text[at + 1]].map(|byte| byte.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i32::from(tens) * 10 + i32::from(ones))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    #[test]
    fn instants_are_those_of_the_time_crate() {
        for text in [
            "2021-11-26T06:22:19Z",
            "1970-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999999+00:00",
            "2000-02-29T23:30:00.5-01:30",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.1234567Z",
            "2024-03-01T00:10:00+23:59",
        ] {
            let expected = OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp_nanos().div_euclid(1000);
            assert_eq!(unix_micros(text).map(i128::from), Some(expected), "{text}");
        }
    }
}
