//! Tokens and their hashes.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The SHA-256 of a token. A token is 256 random bits, so that its hash can be stored as it is:
/// there is nothing to guess, and so nothing that salt or a slow hash would protect.
///
/// There is no `==` on it: two are compared by [`TokenHash::same`], or not at all.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of what a client sent.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// What is wrong, without the text: it may be a token that someone took for its hash.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digit = |byte: u8| (byte as char).to_digit(16).map(|d| d as u8);
        let bytes: Option<Vec<u8>> = (text.len() == 64)
            .then(|| {
                let pairs = text.as_bytes().chunks_exact(2);
                pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
            })
            .flatten();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| {
            format!(
                "`sha256` must be 64 hexadecimal digits (`printf %s \"$TOKEN\" | sha256sum` gives them); got {} characters",
                text.chars().count()
            )
        })
    }

    /// Whether both are the same, in a time that does not tell where they differ.
    pub(crate) fn same(&self, other: &Self) -> Choice {
        #[cfg(test)]
        COMPARED.set(COMPARED.get() + 1);
        self.0.ct_eq(&other.0)
    }
}

// How often hashes were compared on this thread.
#[cfg(test)]
std::thread_local! {
    pub(crate) static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

/// A token made of 32 random bytes: a prefix that scanners for leaked secrets can look for, and
/// the bytes as hexadecimal digits.
pub fn token_text(random: [u8; 32]) -> String {
    random.iter().fold("mizzen_".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_sha256sum_says() {
        let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(TokenHash::of(b"hello").to_string(), hash);
        let parsed = TokenHash::parse(&hash.to_uppercase()).unwrap();
        assert!(bool::from(parsed.same(&TokenHash::of(b"hello"))));
        assert!(!bool::from(parsed.same(&TokenHash::of(b"hellO"))));
    }

    #[test]
    fn what_is_no_hash_is_not_repeated() {
        let token = token_text([7; 32]);
        for text in ["", "abc", &token, &"é".repeat(32), &"g".repeat(64)] {
            let error = TokenHash::parse(text).unwrap_err();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }
}
