//! Headers of a call as parameters of its request, for what an operator's gateway adds to calls.

use mizzen_types::{Coded, ErrorCode};
use regex::{Regex, RegexBuilder};

use crate::{Parameter, Parameters};

/// Which headers become parameters: those in whose name a regular expression is found, whatever
/// their case, as with Triton's `--http-header-forward-pattern`. The default is none.
///
/// The parameter has the header's name in lower case, as most of what stands between a client and
/// a server writes it anyway, and its value as text. It takes the place of one that the body has,
/// since the body is the client's and a header may be the gateway's.
#[derive(Debug, Clone, Default)]
pub struct HeaderForward(Option<Regex>);

/// A pattern that is no regular expression.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "header pattern `{pattern}` is not a regular expression; expected one such as `^x-tenant-.*`, without lookaround and back references"
)]
pub struct HeaderPatternError {
    /// The pattern.
    pattern: String,
    /// What is wrong with it.
    source: regex::Error,
}

impl Coded for HeaderPatternError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

impl HeaderForward {
    /// Forwards the headers that this pattern is found in; none if it is empty.
    ///
    /// # Errors
    /// [`HeaderPatternError`] for one that does not parse, or is too large.
    pub fn new(pattern: &str) -> Result<Self, HeaderPatternError> {
        if pattern.is_empty() {
            return Ok(Self::default());
        }
        let regex = RegexBuilder::new(pattern).case_insensitive(true).build();
        let wrong = |source| HeaderPatternError { pattern: pattern.to_owned(), source };
        Ok(Self(Some(regex.map_err(wrong)?)))
    }

    /// What these headers, by their names in lower case, add to a request's parameters. Values of
    /// one name are joined with commas, as HTTP has it.
    pub fn parameters<'h>(
        &self,
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    ) -> Parameters {
        let mut parameters = Parameters::new();
        let Some(regex) = &self.0 else { return parameters };
        for (name, value) in headers {
            if !regex.is_match(name) {
                continue;
            }
            let value = String::from_utf8_lossy(value);
            match parameters.get_mut(name) {
                Some(Parameter::String(before)) => {
                    before.push_str(", ");
                    before.push_str(&value);
                }
                _ => {
                    drop(parameters.insert(name.to_owned(), Parameter::String(value.into_owned())))
                }
            }
        }
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_whose_names_match_are_parameters() {
        let headers: [(&str, &[u8]); 5] = [
            ("x-tenant-id", b"acme"),
            ("x-tenant-tier", b"gold"),
            ("x-tenant-id", b"again"),
            ("content-type", b"application/json"),
            ("odd", b"caf\xe9"),
        ];
        #[rustfmt::skip]
        let cases = [
            // what the case shows       pattern           parameters
            ("no pattern is none",       "",               ""),
            ("from the start",           "^x-tenant-id$",  "x-tenant-id=acme, again;"),
            ("anywhere in the name",     "tenant",         "x-tenant-id=acme, again;x-tenant-tier=gold;"),
            ("in any case",              "X-TENANT-T.*",   "x-tenant-tier=gold;"),
            ("unless the pattern says",  "(?-i)X-TENANT",  ""),
            ("values are text",          "^odd$",          "odd=caf\u{fffd};"),
            ("one of several",           "^(odd|nothing)", "odd=caf\u{fffd};"),
        ];
        for (shows, pattern, want) in cases {
            let got = HeaderForward::new(pattern).unwrap().parameters(headers);
            let shown = |(name, value)| match value {
                Parameter::String(text) => format!("{name}={text};"),
                other => panic!("{shows}: {other:?}"),
            };
            assert_eq!(got.into_iter().map(shown).collect::<String>(), want, "{shows}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_or_huge_is_refused() {
        for pattern in ["x-(", "(?=x)", r"(.)\1", "((((a{99}){99}){99}){99})"] {
            let error = HeaderForward::new(pattern).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.to_string().contains(pattern), "{error}");
        }
    }
}
