//! Limits as an operator writes them.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// A longer time is a decision for a firewall.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// So many events in a window: `600/60s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Events in one window.
    pub max: NonZeroU32,
    /// Begins with the first event. Whole seconds, a day at most.
    pub window: Duration,
}

/// What follows for whoever goes on nevertheless: `300/5m`, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Nothing: the next window begins as if nothing had been.
    Off,
    /// A wait that is longer than the window.
    After {
        /// Events refused in one window.
        refused: NonZeroU32,
        /// From the last of them. Whole seconds, a day at most.
        duration: Duration,
    },
}

/// How often is too often, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What is allowed.
    pub quota: Quota,
    /// What follows for whoever does not care.
    pub block: Block,
}

/// Why a text is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParsePolicyError {
    /// Not of the form `NUMBER/TIME`.
    #[error("expected NUMBER/TIME, for example 600/60s")]
    Form,
    /// Not a number of events.
    #[error("the number before the slash is a whole one from 1 to 4294967295")]
    Number,
    /// Not a time.
    #[error("a time is from 1s to 24h: whole seconds (s), minutes (m) or hours (h)")]
    Time,
}

fn parse(text: &str) -> Result<(NonZeroU32, Duration), ParsePolicyError> {
    let (number, span) = text.split_once('/').ok_or(ParsePolicyError::Form)?;
    let number = Some(number).filter(|number| is_plain(number)).and_then(|number| number.parse().ok());
    Ok((number.ok_or(ParsePolicyError::Number)?, time(span)?))
}

fn is_plain(digits: &str) -> bool {
    digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// Reads a time, as in `90s`, `10m` or `1h`.
///
/// # Errors
/// [`ParsePolicyError::Time`].
pub(crate) fn time(text: &str) -> Result<Duration, ParsePolicyError> {
    let unit_s = match text.bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 60 * 60,
        _ => return Err(ParsePolicyError::Time),
    };
    let count = Some(&text[..text.len() - 1]).filter(|count| is_plain(count));
    let count: Option<u64> = count.and_then(|count| count.parse().ok());
    let time = count.and_then(|count| count.checked_mul(unit_s)).map(Duration::from_secs);
    time.filter(|time| !time.is_zero() && *time <= MAX_TIME).ok_or(ParsePolicyError::Time)
}

impl FromStr for Quota {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(|(max, window)| Self { max, window })
    }
}

impl FromStr for Block {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        parse(text).map(|(refused, duration)| Self::After { refused, duration })
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}s", self.max, self.window.as_secs())
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::After { refused, duration } => write!(f, "{refused}/{}s", duration.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let check = |text: &str, expect: Result<&str, ParsePolicyError>| {
            assert_eq!(
                text.parse::<Quota>().map(|quota| quota.to_string()).as_deref(),
                expect.as_ref().copied(),
                "{text:?}"
            );
            assert_eq!(
                text.parse::<Block>().map(|block| block.to_string()).as_deref(),
                expect.as_ref().copied(),
                "{text:?}"
            );
        };
        check("600/60s", Ok("600/60s"));
        check("1/1m", Ok("1/60s"));
        check("4294967295/24h", Ok("4294967295/86400s"));
        for text in ["", "600", "600 60s"] {
            check(text, Err(ParsePolicyError::Form));
        }
        for text in ["/60s", "0/60s", "-1/60s", "+1/60s", "4294967296/60s", "1.5/60s", "off/60s"] {
            check(text, Err(ParsePolicyError::Number));
        }
        for text in [
            "1/",
            "1/s",
            "1/0s",
            "1/60",
            "1/1d",
            "1/25h",
            "1/86401s",
            "1/-1s",
            "1/+1s",
            "1/1s/1s",
            "1/é",
            "1/18446744073709551615h",
        ] {
            check(text, Err(ParsePolicyError::Time));
        }
        assert_eq!("off".parse::<Block>().map(|block| block.to_string()), Ok("off".to_owned()));
        assert_eq!("off".parse::<Quota>(), Err(ParsePolicyError::Form));
    }
}
