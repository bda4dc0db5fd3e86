//! Names people choose, validated once.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest name, in characters: a DNS label's bound (RFC 1035, section 2.3.4).
pub const MAX_NAME_LEN: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("a name can't be empty")]
    Empty,
    /// Longer than [`MAX_NAME_LEN`].
    #[error("a name has at most {MAX_NAME_LEN} characters, this one has {len}")]
    TooLong {
        /// Its length in characters.
        len: usize,
    },
    /// A character outside letters, digits, `.`, `_` and `-`.
    #[error(
        "a name has only letters, digits, '.', '_' and '-', and starts with a letter or digit; position {position} does not fit"
    )]
    BadCharacter {
        /// Zero-based, in characters.
        position: usize,
    },
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let len = text.chars().count();
    if len > MAX_NAME_LEN {
        return Err(NameError::TooLong { len });
    }
    let fits = |(position, c): (usize, char)| {
        c.is_ascii_alphanumeric() || (position > 0 && matches!(c, '.' | '_' | '-'))
    };
    match text.chars().enumerate().find(|&at| !fits(at)) {
        Some((position, _)) => Err(NameError::BadCharacter { position }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.to_owned()))
            }
        }
    };
}

name!(
    /// A cluster's name.
    ClusterName
);
name!(
    /// A node's name, unique in its cluster.
    NodeName
);
name!(
    /// A seed's name, unique in its cluster.
    SeedName
);
name!(
    /// Something a node says it can do.
    Capability
);

/// Which names a join token may give: a name in which each `*` stands for any characters, or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamePattern(String);

impl NamePattern {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name fits. Its cost is bounded by the product of both lengths.
    #[must_use]
    pub fn matches(&self, name: &NodeName) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.0.as_bytes());
        let (mut p, mut n) = (0, 0);
        // The newest star, and how much of the name it has taken: only that one is ever tried again.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            if pattern.get(p) == Some(&b'*') {
                star = Some((p, n));
                p += 1;
            } else if pattern.get(p) == Some(&name[n]) {
                (p, n) = (p + 1, n + 1);
            } else if let Some((at, taken)) = star {
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|&byte| byte == b'*')
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let len = text.chars().count();
        if len > MAX_NAME_LEN {
            return Err(NameError::TooLong { len });
        }
        // A star is allowed wherever a letter is.
        check(&text.replace('*', "a")).map(|()| Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("web-1", "web-1", true),
            ("web-1", "web-2", false),
            ("web-*", "web-", true),
            ("web-*", "web-12", true),
            ("web-*", "db-web-1", false),
            ("*", "anything", true),
            ("*-eu", "web-1-eu", true),
            ("*-eu", "web-1-eu2", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXcYb", false),
            ("**a**", "bab", true),
            ("a", "A", false),
        ];
        for (pattern, name, expect) in cases {
            let pattern: NamePattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&name.parse().unwrap()), expect, "{pattern} {name}");
        }
        let worst: NamePattern = format!("{}b", "*a".repeat(31)).parse().unwrap();
        assert!(!worst.matches(&"a".repeat(63).parse().unwrap()));
        for (text, error) in [
            ("", NameError::Empty),
            ("a b", NameError::BadCharacter { position: 1 }),
            ("-*", NameError::BadCharacter { position: 0 }),
        ] {
            assert_eq!(text.parse::<NamePattern>(), Err(error), "{text:?}");
        }
        assert!("*".repeat(64).parse::<NamePattern>().is_err());
    }

    #[test]
    fn table() {
        let long = "a".repeat(64);
        let cases: &[(&str, Result<(), NameError>)] = &[
            ("alice", Ok(())),
            ("A-1_b.c", Ok(())),
            ("9", Ok(())),
            ("", Err(NameError::Empty)),
            ("-a", Err(NameError::BadCharacter { position: 0 })),
            ("a\nb", Err(NameError::BadCharacter { position: 1 })),
            ("a\u{0}", Err(NameError::BadCharacter { position: 1 })),
            ("<b>", Err(NameError::BadCharacter { position: 0 })),
            ("../x", Err(NameError::BadCharacter { position: 0 })),
            ("a/b", Err(NameError::BadCharacter { position: 1 })),
            ("né", Err(NameError::BadCharacter { position: 1 })),
            (&long, Err(NameError::TooLong { len: 64 })),
        ];
        for (text, expect) in cases {
            assert_eq!(text.parse::<NodeName>().map(|_| ()), *expect, "{text:?}");
        }
    }
}
