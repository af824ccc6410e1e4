//! Whether a text is a date and time by RFC 3339. Only looks: the producer's spelling is what is kept.

/// RFC 3339, section 5.6, with the liberties its notes give: `t`, `z` and a space between date and time.
///
/// A leap second must be the last second of a month in UTC; whether one was declared then is not checked.
#[must_use]
pub fn is_rfc3339(text: &str) -> bool {
    read(text.as_bytes()).is_some()
}

fn read(text: &[u8]) -> Option<()> {
    let (date_time, rest) = text.split_at_checked(19)?;
    let year = number(date_time, 0)? * 100 + number(date_time, 2)?;
    let (month, day) = (number(date_time, 5)?, number(date_time, 8)?);
    let (hour, minute, second) = (number(date_time, 11)?, number(date_time, 14)?, number(date_time, 17)?);
    let marks = [date_time[4], date_time[7], date_time[10], date_time[13], date_time[16]];
    let [b'-', b'-', b'T' | b't' | b' ', b':', b':'] = marks else { return None };
    let zone = match rest {
        [b'.', b'0'..=b'9', fraction @ ..] => {
            &fraction[fraction.iter().take_while(|byte| byte.is_ascii_digit()).count()..]
        }
        zone => zone,
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
    (is_in_range && is_second).then_some(())
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
