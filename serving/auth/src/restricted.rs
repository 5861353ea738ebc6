//! Triton's `--http-restricted-api` and `--grpc-restricted-protocol`: a header with a shared value.

use std::{collections::BTreeMap, fmt};

use mizzen_serving_core::Category;
use subtle::ConstantTimeEq as _;

/// The header that each restricted kind of call wants.
#[derive(Clone, Default)]
pub struct Restricted {
    headers: BTreeMap<Category, (String, Vec<u8>)>,
}

impl fmt::Debug for Restricted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.headers.keys()).finish() // never the values
    }
}

/// Why a restriction cannot be used. It does not repeat the value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestrictedError {
    /// It is not of the form that is expected.
    #[error("expected `<kind>[,<kind>…]:<key>=<value>`, like `model-repository:admin-key=secret`")]
    Form,
    /// A kind is not known.
    #[error(transparent)]
    Kind(#[from] mizzen_serving_core::UnknownCategory),
    /// Two restrictions of one kind.
    #[error("`{0}` is restricted twice")]
    Twice(Category),
    /// The key cannot be the name of a header.
    #[error("`{0}` cannot be the name of a header: letters, digits, `-` and `_` can")]
    Key(String),
}

impl Restricted {
    /// Adds one restriction, `<kinds>:<key>=<value>`; the header's name is `prefix` and the key.
    ///
    /// # Errors
    /// [`RestrictedError`].
    pub fn add(&mut self, text: &str, prefix: &str) -> Result<(), RestrictedError> {
        let (kinds, pair) = text.split_once(':').ok_or(RestrictedError::Form)?;
        let (key, value) = pair.split_once('=').ok_or(RestrictedError::Form)?;
        if key.is_empty() || value.is_empty() {
            return Err(RestrictedError::Form);
        }
        if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(RestrictedError::Key(key.to_owned()));
        }
        let header = format!("{prefix}{key}").to_ascii_lowercase();
        for kind in kinds.split(',') {
            let category: Category = kind.parse()?;
            let wants = (header.clone(), value.as_bytes().to_vec());
            if self.headers.insert(category, wants).is_some() {
                return Err(RestrictedError::Twice(category));
            }
        }
        Ok(())
    }

    /// Whether nothing is restricted.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Whether a call may be made, by the request's headers.
    ///
    /// # Errors
    /// The name of the header that is missing or has another value.
    pub fn check<'a>(
        &self,
        category: Category,
        header: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Result<(), &str> {
        let Some((name, want)) = self.headers.get(&category) else { return Ok(()) };
        let same = header(name).is_some_and(|got| got.ct_eq(want).into());
        if same { Ok(()) } else { Err(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_named_want_their_header() {
        let mut restricted = Restricted::default();
        restricted.add("model-repository,model-config:Admin=s=1", "triton-").unwrap();
        let with =
            |value: &'static [u8]| move |name: &str| (name == "triton-admin").then_some(value);
        assert_eq!(restricted.check(Category::ModelRepository, with(b"s=1")), Ok(()));
        assert_eq!(restricted.check(Category::ModelConfig, with(b"s=2")), Err("triton-admin"));
        assert_eq!(restricted.check(Category::ModelConfig, with(b"s=")), Err("triton-admin"));
        assert_eq!(restricted.check(Category::ModelConfig, |_| None), Err("triton-admin"));
        assert_eq!(restricted.check(Category::Inference, |_| None), Ok(()));
    }

    #[test]
    fn what_cannot_be_used_is_told_without_the_value() {
        for (text, want) in [
            ("health", "expected `<kind>"),
            ("health:secret", "expected `<kind>"),
            ("health:key=", "expected `<kind>"),
            ("helth:key=secret", "`helth` is no kind of call"),
            ("health,health:key=secret", "`health` is restricted twice"),
            ("health:k y=secret", "`k y` cannot be the name"),
        ] {
            let error = Restricted::default().add(text, "").unwrap_err().to_string();
            assert!(
                error.contains(want) && !error.replace("=secret`", "").contains("secret"),
                "{error}"
            );
        }
    }
}
