//! Texts of settings: durations, sizes, addresses.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// `250ms`, `10s`, `5m`, `24h`; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is no duration such as 250ms, 10s, 5m or 24h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no duration such as 250ms, 10s, 5m or 24h"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| format!("{text:?} is too long"))
}

/// `1048576`, `512KiB`, `16MiB`, `2GiB`, in bytes.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(format!("{text:?} is no size such as 65536, 512KiB or 16MiB")),
    };
    let number: usize = number.parse().map_err(|_| format!("{text:?} is no size such as 65536, 512KiB or 16MiB"))?;
    number.checked_mul(scale).ok_or_else(|| format!("{text:?} is too large"))
}

/// A whole number of at least `least`.
pub(super) fn count(text: &str, least: usize) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!("{text:?} is no whole number of at least {least}")),
    }
}

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`; `:8080` and `8080` are every address of this host.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let bare = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = bare.parse::<u16>() {
        return Ok(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    let mut found = text
        .to_socket_addrs()
        .map_err(|_| format!("{text:?} is no address such as 127.0.0.1:8080, [::1]:8080 or :8080"))?;
    found.next().ok_or_else(|| format!("{text:?} has no address"))
}
