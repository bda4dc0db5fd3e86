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

#[cfg(test)]
mod tests {
    use super::*;

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
