//! Numbers, times and sizes, as people write and read them.

use std::time::Duration;

/// `336776` → `336,776`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `events(1)` → `1 event`.
pub fn events(number: u64) -> String {
    counted(number, "event")
}

/// `counted(2, "lane")` → `2 lanes`.
pub fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Bytes with a unit of 1,024.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A time in the unit that suits it.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s => format!("{} min {:02} s", (s / 60.0) as u64, s as u64 % 60),
    }
}

/// Reads `500ms`, `30s`, `2m`, `1h`, `7d`. A bare number is refused: nobody knows its unit.
///
/// # Errors
/// What to write instead.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(format!("{text:?} is no time; write 500ms, 30s, 2m, 1h or 7d")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no time; write 500ms, 30s or 2m"))?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| format!("{text:?} is out of range"))
}

/// Reads `65536`, `64KiB`, `1MiB`, `10GiB`, `1TiB`, and `kB`, `MB`, `GB`, `TB` by thousands.
///
/// # Errors
/// What to write instead.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(format!("{text:?} is no size; write 65536, 64KiB, 1MiB or 10GiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size; write 65536 or 64KiB"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is out of range"))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([count(0), count(999), count(1000), count(336_776)], ["0", "999", "1,000", "336,776"]);
        assert_eq!([bytes(5), bytes(1536), bytes(83 << 20)], ["5 B", "1.5 KiB", "83.0 MiB"]);
        assert_eq!(time(Duration::from_micros(250)), "250 µs");
        assert_eq!(time(Duration::from_millis(12)), "12.0 ms");
        assert_eq!(time(Duration::from_secs(150)), "2 min 30 s");
    }

    #[test]
    fn times_and_sizes_need_to_be_meant() {
        assert_eq!(parse_time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["", "2", "m", "-1s", "2 fortnights", "1e400s"] {
            assert!(parse_time(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_bytes("64KiB"), Ok(65536));
        assert_eq!(parse_bytes("10 MB"), Ok(10_000_000));
        for bad in ["", "KiB", "1.5MiB", "-1", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
    }
}
