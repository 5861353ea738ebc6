//! Query parameters, decoded once.

use crate::ApiError;

/// The query of a request, in order; the last of several same names wins.
#[derive(Debug, Default, Clone)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name, true), decode(value, true))
            })
            .collect();
        Self { pairs }
    }

    /// A parameter that is there and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().rev().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        // A bare `?watch` is Go's true as well.
        match self.pairs.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str()) {
            None | Some("false" | "0" | "False") => Ok(false),
            Some("" | "true" | "1" | "True") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "query parameter `{name}` is `{other}`; it takes true or false"
            ))),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "query parameter `{name}` is `{text}`; it takes a number of 0 or more"
            ))
        })
    }
}

/// Undoes percent-encoding; what is not validly encoded stays as it is.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (*first, tail) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            (b'+', _) if plus_is_space => bytes.push(b' '),
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let params = Params::parse("labelSelector=a%3Db%2Cc&watch&x=1+2&x=3%zz&limit=abc");
        assert_eq!(params.get("labelSelector"), Some("a=b,c"));
        assert!(params.flag("watch").unwrap());
        assert!(!params.flag("absent").unwrap());
        assert_eq!(params.get("x"), Some("3%zz"));
        let error = params.number("limit").unwrap_err();
        assert!(error.to_string().contains("`limit` is `abc`"), "{error}");
    }
}
