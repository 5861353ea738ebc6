//! The large arrays of an infer request, taken out before the rest is read as JSON.
//!
//! A request is a few hundred bytes about its tensors, and then their elements. Reading all of it as
//! JSON and the elements once more as numbers would look at most of it twice. So the `data` arrays
//! of inputs are cut out here, found by brackets and quotes alone, and a `0` stands in for each;
//! what reads the elements finds out whether they are any.

use std::borrow::Cow;

use memchr::{memchr2, memchr3};

/// A request's JSON without its large arrays.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extracted<'a> {
    /// The rest, in which a `0` stands for each array cut out.
    pub(super) rest: Cow<'a, [u8]>,
    /// The arrays, brackets included, each after the place in `rest` of what stands for it.
    pub(super) arrays: Vec<(usize, &'a [u8])>,
}

impl<'a> Extracted<'a> {
    /// The array that this part of `rest` stands for. The place tells, so that a client's own `0` is
    /// never taken for one.
    pub(super) fn at(&self, part: &str) -> Option<&'a [u8]> {
        let place = (part.as_ptr() as usize).checked_sub(self.rest.as_ptr() as usize)?;
        let found = self.arrays.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        Some(self.arrays[found].1)
    }
}

/// How deep `data` stands: in the object of an input, in the array of inputs, in the request.
const DEPTH: usize = 3;

/// Arrays below this many bytes stay where they are: they cost less than cutting them out.
const BYTES_MIN: usize = 256;

/// Cuts out the arrays under the key `data`. Text that is no JSON comes back with its faults.
pub(super) fn arrays(json: &[u8]) -> Extracted<'_> {
    let (mut rest, mut arrays) = (Vec::new(), Vec::new());
    let (mut at, mut depth, mut copied) = (0, 0usize, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = end_of_string(json, at);
                let is_data = depth == DEPTH && &json[at..end] == b"\"data\"";
                at = end;
                if let Some(start) = is_data.then(|| value_after_colon(json, end)).flatten() {
                    let end = end_of_array(json, start);
                    if end - start >= BYTES_MIN {
                        rest.extend_from_slice(&json[copied..start]);
                        arrays.push((rest.len(), &json[start..end]));
                        rest.push(b'0');
                        copied = end;
                    }
                    at = end;
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    if arrays.is_empty() {
        return Extracted { rest: Cow::Borrowed(json), arrays };
    }
    rest.extend_from_slice(&json[copied..]);
    Extracted { rest: Cow::Owned(rest), arrays }
}

/// Where the array starts that a key is followed by, if it is one.
fn value_after_colon(json: &[u8], mut at: usize) -> Option<usize> {
    let skip = |at: &mut usize| {
        while matches!(json.get(*at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            *at += 1;
        }
    };
    skip(&mut at);
    json.get(at).filter(|b| **b == b':')?;
    at += 1;
    skip(&mut at);
    json.get(at).filter(|b| **b == b'[').map(|_| at)
}

fn end_of_array(json: &[u8], start: usize) -> usize {
    let (mut at, mut open) = (start, 0usize);
    while let Some(found) = memchr3(b'[', b']', b'"', &json[at..]) {
        at += found;
        match json[at] {
            b'[' => open += 1,
            b']' if open == 1 => return at + 1,
            b']' => open -= 1,
            _ => {
                at = end_of_string(json, at);
                continue;
            }
        }
        at += 1;
    }
    json.len()
}

/// Where the string that starts at `start` ends, its quote included.
pub(super) fn end_of_string(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        match json[at] {
            b'"' => return at + 1,
            _ => at += 2, // the backslash and what it escapes
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn long(element: &str) -> String {
        format!("[{}]", vec![element; 200].join(","))
    }

    #[test]
    fn the_data_of_inputs_is_cut_out_and_nothing_else() {
        let (numbers, texts) = (long("1.5"), long(r#""a]\"\\""#));
        let json = format!(
            r#"{{"data":{numbers},"inputs":[{{"data" : {numbers},"name":"data"}},{{"shape":[1],"data":{texts}}},{{"data":[1]}}]}}"#
        );
        let got = arrays(json.as_bytes());
        let rest = format!(
            r#"{{"data":{numbers},"inputs":[{{"data" : 0,"name":"data"}},{{"shape":[1],"data":0}},{{"data":[1]}}]}}"#
        );
        assert_eq!(std::str::from_utf8(&got.rest).unwrap(), rest);
        let cut: Vec<_> = got.arrays.iter().map(|(_, array)| *array).collect();
        assert_eq!(cut, [numbers.as_bytes(), texts.as_bytes()]);
        let text = std::str::from_utf8(&got.rest).unwrap();
        let place = text.rfind(":0}").unwrap() + 1;
        assert_eq!(got.at(&text[place..=place]), Some(texts.as_bytes()));
        assert_eq!(got.at(&text[place - 1..place]), None);
        assert_eq!(got.at("0"), None, "of another text");
    }

    #[test]
    fn what_has_none_is_not_copied() {
        let json = br#"{"inputs":[{"name":"a","data":[1]}]}"#;
        assert!(matches!(arrays(json).rest, Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(json in r#"(\{"inputs":\[\{"data":)?[\[\]{}",:\\a1 ]{0,400}"#) {
            let got = arrays(json.as_bytes());
            let cut: usize = got.arrays.iter().map(|(_, a)| a.len()).sum();
            prop_assert!(got.rest.len() + cut >= json.len());
        }
    }
}
