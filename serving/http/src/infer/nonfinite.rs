//! `NaN`, `Infinity` and `-Infinity`, which are not JSON.
//!
//! Clients that serialize with Python's or RapidJSON's defaults send them bare, and Triton takes
//! them so. We take them too: where a body is no JSON because of them, they are put in quotes and
//! the body is read again. We send them in quotes, as protobuf's JSON does, because a bare one
//! makes the whole answer unreadable to most parsers; NumPy reads both.

use std::borrow::Cow;

/// The quoted words, which stand for floating point elements in `data`.
pub(crate) const WORDS: [(&str, f64); 3] =
    [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];

/// The value of a word, without quotes.
pub(crate) fn named(word: &str) -> Option<f64> {
    WORDS.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
}

/// What JSON writes for a number; `None` if it can write the number itself.
pub(crate) fn word(value: f64) -> Option<&'static str> {
    match value {
        v if v.is_finite() => None,
        v if v.is_nan() => Some("NaN"),
        v if v > 0.0 => Some("Infinity"),
        _ => Some("-Infinity"),
    }
}

/// The text with the bare words quoted; borrowed if it has none outside its strings.
pub(crate) fn quote(json: &[u8]) -> Cow<'_, [u8]> {
    let mut quoted = Vec::new();
    let (mut at, mut copied, mut in_string) = (0, 0, false);
    while let Some(byte) = json.get(at) {
        match byte {
            b'\\' if in_string => at += 1, // whatever it escapes
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                let word = WORDS.iter().find(|(word, _)| json[at..].starts_with(word.as_bytes()));
                if let Some((word, _)) = word {
                    quoted.extend_from_slice(&json[copied..at]);
                    quoted.push(b'"');
                    quoted.extend_from_slice(word.as_bytes());
                    quoted.push(b'"');
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    quoted.extend_from_slice(&json[copied..]);
    Cow::Owned(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bare_words_are_quoted_and_words_in_strings_are_left_alone() {
        let cases = [
            ("[NaN,-Infinity,1,Infinity]", r#"["NaN","-Infinity",1,"Infinity"]"#),
            (r#"{"id":"NaN \" NaN","d":[NaN]}"#, r#"{"id":"NaN \" NaN","d":["NaN"]}"#),
            ("[-1,2]", "[-1,2]"),
        ];
        for (json, want) in cases {
            assert_eq!(std::str::from_utf8(&quote(json.as_bytes())).unwrap(), want);
        }
        assert!(matches!(quote(b"[1]"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            quote(&bytes);
        }

        #[test]
        fn json_stays_as_it_is(text in ".*") {
            let json = serde_json::to_vec(&[text]).unwrap();
            prop_assert_eq!(&*quote(&json), &json[..]);
        }
    }
}
