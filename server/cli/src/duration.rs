//! Durations on the command line.

use std::time::Duration;

/// Units, in milliseconds. `ms` before `s`, which it ends in.
const UNITS: [(&str, f64); 4] = [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3600e3)];
/// Longest duration that is taken.
const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// `500ms`, `1.5s`, `2m`, `1h`; a number alone is seconds. More than nothing, and at most a year.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let unit = UNITS.iter().find_map(|(unit, ms)| text.strip_suffix(unit).map(|number| (number, *ms)));
    let (number, ms) = unit.unwrap_or((text, 1e3));
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let millis = number.parse::<f64>().ok().filter(|_| plain).map(|number| number * ms);
    match millis {
        Some(millis) if (1.0..=MAX.as_secs_f64() * 1e3).contains(&millis) => {
            Ok(Duration::from_secs_f64(millis / 1e3))
        }
        Some(_) => Err("expected 1ms to a year".to_owned()),
        None => Err("expected a number and ms, s, m or h, as in 500ms, 30s, 2m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (text, expect) in [
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("60s", Some(60_000)),
            ("60", Some(60_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("0", None),
            ("0.1ms", None),
            ("9000h", None),
            ("-1s", None),
            ("1e3", None),
            ("inf", None),
            ("1 s", None),
            ("s", None),
            ("", None),
            ("1d", None),
        ] {
            assert_eq!(parse(text).ok(), expect.map(Duration::from_millis), "{text}");
        }
    }
}
