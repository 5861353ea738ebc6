//! A JSON array as a tensor's bytes.
//!
//! The array is scanned once and each element is written where it belongs; no tree is built and
//! nothing recurses. Numbers are read from their own text into the type they are for: an FP32 is
//! rounded once, and every FP64 and 64-bit integer is exact. Nested arrays are flattened, as Triton
//! does; the shape alone says what they mean.
//!
//! The text need not be known to be JSON: what is none is no element. Bare `NaN` and infinities are
//! taken where the type has them.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use half::{bf16, f16};
use mizzen_types::{DataType, Shape};

use super::{extract::end_of_string, nested, nonfinite};
use crate::error::HttpError;

/// How deep arrays may nest: the rank a tensor may have.
pub(super) const DEPTH_MAX: usize = mizzen_serving_core::protocol::RANK_MAX;

/// Writes the elements of a JSON array as the bytes of a tensor of this type and shape.
///
/// # Errors
/// [`HttpError::Element`] naming the element that is not of the type, [`HttpError::Input`] if their
/// number is not the shape's or the array nests too deep.
pub(crate) fn encode(
    input: &str,
    dtype: DataType,
    shape: &Shape,
    json: &str,
) -> Result<Bytes, HttpError> {
    let scan = Scan { input, shape, tokens: Tokens::new(json) };
    match dtype {
        DataType::Bool => scan.fill::<bool>(),
        DataType::Uint8 => scan.fill::<u8>(),
        DataType::Uint16 => scan.fill::<u16>(),
        DataType::Uint32 => scan.fill::<u32>(),
        DataType::Uint64 => scan.fill::<u64>(),
        DataType::Int8 => scan.fill::<i8>(),
        DataType::Int16 => scan.fill::<i16>(),
        DataType::Int32 => scan.fill::<i32>(),
        DataType::Int64 => scan.fill::<i64>(),
        DataType::Fp16 => scan.fill::<f16>(),
        DataType::Bf16 => scan.fill::<bf16>(),
        DataType::Fp32 => scan.fill::<f32>(),
        DataType::Fp64 => scan.fill::<f64>(),
        DataType::Bytes => scan.fill::<Text>(),
    }
}

/// Writes one element as a tensor of this type holds it.
///
/// # Errors
/// Why it is not of the type.
pub(super) fn write_one(
    dtype: DataType,
    token: Token<'_>,
    data: &mut Vec<u8>,
) -> Result<(), String> {
    let written = match dtype {
        DataType::Bool => bool::write(token, data),
        DataType::Uint8 => u8::write(token, data),
        DataType::Uint16 => u16::write(token, data),
        DataType::Uint32 => u32::write(token, data),
        DataType::Uint64 => u64::write(token, data),
        DataType::Int8 => i8::write(token, data),
        DataType::Int16 => i16::write(token, data),
        DataType::Int32 => i32::write(token, data),
        DataType::Int64 => i64::write(token, data),
        DataType::Fp16 => f16::write(token, data),
        DataType::Bf16 => bf16::write(token, data),
        DataType::Fp32 => f32::write(token, data),
        DataType::Fp64 => f64::write(token, data),
        DataType::Bytes => match token {
            Token::Object(json) => match nested::base64_object(json) {
                Some(bytes) => Text::append(&bytes, data).ok_or(Unfit { token, want: Text::WANT }),
                None => Err(Unfit { token, want: "a string or `{\"b64\": …}` for BYTES" }),
            },
            token => Text::write(token, data),
        },
    };
    written.map_err(|unfit| unfit.to_string())
}

struct Scan<'a> {
    input: &'a str,
    shape: &'a Shape,
    tokens: Tokens<'a>,
}

impl Scan<'_> {
    fn fill<T: Element>(mut self) -> Result<Bytes, HttpError> {
        let want = self.shape.elements();
        // An element and its comma take two characters, so the text bounds what a shape can claim.
        let mut data = Vec::with_capacity(want.min(self.tokens.text.len() / 2 + 1) * T::SIZE);
        let (mut count, mut depth) = (0usize, 0usize);
        loop {
            if depth > 0 && count < want && self.tokens.number::<T>(&mut data) {
                count += 1;
                continue;
            }
            let Some(token) = self.tokens.next() else { break };
            match token {
                Token::Open if depth == DEPTH_MAX => {
                    return Err(self.refuse(format!("`data` nests deeper than {DEPTH_MAX} arrays")));
                }
                Token::Open => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                _ if depth == 0 => return Err(self.refuse("`data` must be an array".to_owned())),
                token if count == want && !matches!(token, Token::Junk(_)) => {
                    let shape = self.shape;
                    return Err(self
                        .refuse(format!("shape {shape} takes {want} elements; `data` has more")));
                }
                token => {
                    T::write(token, &mut data).map_err(|reason| HttpError::Element {
                        input: self.input.to_owned(),
                        index: count,
                        reason: reason.to_string(),
                    })?;
                    count += 1;
                }
            }
        }
        if depth > 0 {
            return Err(self.refuse("`data` is cut short".to_owned()));
        }
        if count != want {
            let shape = self.shape;
            return Err(
                self.refuse(format!("shape {shape} takes {want} elements; `data` has {count}"))
            );
        }
        Ok(data.into())
    }

    fn refuse(&self, reason: String) -> HttpError {
        HttpError::Input { input: self.input.to_owned(), reason }
    }
}

/// A piece of JSON text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    Open,
    Close,
    Number(&'a str),
    /// A string with its quotes and escapes.
    Text(&'a str),
    Bool(bool),
    Object(&'a str),
    Null,
    /// What is not JSON, from here on.
    Junk(&'a str),
}

pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
    next: Next,
}

/// What may come next in an array.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    /// A value, or the end: nothing has come yet.
    First,
    /// A value: a comma has come.
    Value,
    /// A comma, or the end.
    Comma,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let bytes = self.text.as_bytes();
        self.at = after_space(bytes, self.at);
        if bytes.get(self.at) == Some(&b',') && self.next == Next::Comma {
            self.at = after_space(bytes, self.at + 1);
            self.next = Next::Value;
        }
        let start = self.at;
        let first = *bytes.get(start)?;
        let fits = match first {
            b']' => self.next != Next::Value,
            b',' | b'+' | b'.' => false,
            _ => self.next != Next::Comma,
        };
        if !fits {
            self.at = bytes.len();
            return Some(Token::Junk(&self.text[start..]));
        }
        self.next = if first == b'[' { Next::First } else { Next::Comma };
        Some(match first {
            b'[' => self.single(Token::Open),
            b']' => self.single(Token::Close),
            b'"' => {
                self.at = end_of_string(bytes, start);
                Token::Text(&self.text[start..self.at])
            }
            b'{' => {
                self.at = end_of_object(bytes, start);
                Token::Object(&self.text[start..self.at])
            }
            _ => {
                self.at = bytes[start..]
                    .iter()
                    .position(|b| matches!(b, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r'))
                    .map_or(bytes.len(), |n| start + n);
                match &self.text[start..self.at] {
                    "true" => Token::Bool(true),
                    "false" => Token::Bool(false),
                    "null" => Token::Null,
                    number if leads_with_zero(number.as_bytes()) || number.ends_with('.') => {
                        Token::Junk(number)
                    }
                    number => Token::Number(number),
                }
            }
        })
    }
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, next: Next::First }
    }

    /// Appends the number that comes next, if one does and the type reads it in one go.
    fn number<T: Element>(&mut self, data: &mut Vec<u8>) -> bool {
        let bytes = self.text.as_bytes();
        let mut at = after_space(bytes, self.at);
        if self.next == Next::Comma {
            if bytes.get(at) != Some(&b',') {
                return false;
            }
            at = after_space(bytes, at + 1);
        }
        let rest = bytes.get(at..).unwrap_or_default();
        let digits = rest.strip_prefix(b"-").unwrap_or(rest);
        if !digits.first().is_some_and(u8::is_ascii_digit) || leads_with_zero(digits) {
            return false;
        }
        let Some((length, before)) = T::number(rest, data).map(|length| (length, data.len()))
        else {
            return false;
        };
        let ends =
            matches!(rest.get(length), None | Some(b',' | b']' | b' ' | b'\t' | b'\n' | b'\r'));
        if !ends || !rest[length - 1].is_ascii_digit() {
            data.truncate(before - T::SIZE);
            return false;
        }
        (self.at, self.next) = (at + length, Next::Comma);
        true
    }

    fn single(&mut self, token: Token<'a>) -> Token<'a> {
        self.at += 1;
        token
    }
}

fn after_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// `01` is no number in JSON.
fn leads_with_zero(number: &[u8]) -> bool {
    matches!(number.strip_prefix(b"-").unwrap_or(number), [b'0', b'0'..=b'9', ..])
}

/// Where the object that starts at `start` ends, its brace included.
fn end_of_object(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut open) = (start, 0usize);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' => open += 1,
            b'}' if open == 1 => return at,
            b'}' => open -= 1,
            b'"' => at = end_of_string(bytes, at - 1),
            _ => {}
        }
    }
    bytes.len()
}

/// Why a token is not an element of the type.
struct Unfit<'a> {
    token: Token<'a>,
    want: &'static str,
}

impl fmt::Display for Unfit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.token {
            Token::Number(text) => write!(f, "is `{}`", shortened(text))?,
            Token::Bool(value) => write!(f, "is `{value}`")?,
            Token::Text(_) => f.write_str("is a string")?,
            Token::Object(_) => f.write_str("is an object")?,
            Token::Null => f.write_str("is null")?,
            Token::Junk(text) => write!(f, "is `{}`, which is not JSON", shortened(text))?,
            Token::Open | Token::Close => f.write_str("is an array")?,
        }
        write!(f, "; expected {}", self.want)
    }
}

/// Enough of a number to find it by.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(40)]
}

trait Element {
    /// Bytes to reserve for each.
    const SIZE: usize;
    fn write<'a>(token: Token<'a>, data: &mut Vec<u8>) -> Result<(), Unfit<'a>>;

    /// Appends the number that the text begins with; returns its length. `None` where the type has
    /// no faster way than by [`Element::write`].
    fn number(_text: &[u8], _data: &mut Vec<u8>) -> Option<usize> {
        None
    }
}

macro_rules! whole_number_elements {
    ($($type:ty: $want:literal),*) => {$(
        impl Element for $type {
            const SIZE: usize = size_of::<Self>();
            fn write<'a>(token: Token<'a>, data: &mut Vec<u8>) -> Result<(), Unfit<'a>> {
                let value = match token {
                    Token::Number(text) => text.parse::<Self>().ok(),
                    _ => None,
                };
                let value = value.ok_or(Unfit { token, want: $want })?;
                data.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
        }
    )*};
}

whole_number_elements! {
    u8: "a UINT8, 0 to 255",
    u16: "a UINT16, 0 to 65535",
    u32: "a UINT32, 0 to 4294967295",
    u64: "a UINT64, 0 to 18446744073709551615",
    i8: "an INT8, -128 to 127",
    i16: "an INT16, -32768 to 32767",
    i32: "an INT32, -2147483648 to 2147483647",
    i64: "an INT64, -9223372036854775808 to 9223372036854775807"
}

macro_rules! real_number_elements {
    ($($type:ty, $text:ty, $from:expr, $want:literal),* $(,)?) => {$(
        impl Element for $type {
            const SIZE: usize = size_of::<Self>();

            fn number(text: &[u8], data: &mut Vec<u8>) -> Option<usize> {
                let (value, length) = fast_float2::parse_partial::<$text, _>(text).ok()?;
                let value: Self = $from(value);
                if !value.is_finite() {
                    return None;
                }
                data.extend_from_slice(&value.to_le_bytes());
                Some(length)
            }

            fn write<'a>(token: Token<'a>, data: &mut Vec<u8>) -> Result<(), Unfit<'a>> {
                let value: Option<Self> = match token {
                    // Too large a number would become infinite, which the client did not write.
                    Token::Number(text) => match nonfinite::named(text) {
                        Some(word) => Some(<$type>::from_f64_word(word)),
                        None => {
                            let value = text.parse::<$text>().ok().map($from);
                            value.filter(|v: &Self| v.is_finite())
                        }
                    },
                    Token::Text(text) => nonfinite_word(text).map(<$type>::from_f64_word),
                    _ => None,
                };
                let value = value.ok_or(Unfit { token, want: $want })?;
                data.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
        }
    )*};
}

/// Infinities and NaN in each width.
trait FromWord {
    fn from_f64_word(value: f64) -> Self;
}
impl FromWord for f64 {
    fn from_f64_word(value: f64) -> Self {
        value
    }
}
impl FromWord for f32 {
    fn from_f64_word(value: f64) -> Self {
        value as Self
    }
}
impl FromWord for f16 {
    fn from_f64_word(value: f64) -> Self {
        Self::from_f64(value)
    }
}
impl FromWord for bf16 {
    fn from_f64_word(value: f64) -> Self {
        Self::from_f64(value)
    }
}

real_number_elements! {
    f64, f64, |value| value, "an FP64",
    f32, f32, |value| value, "an FP32, up to 3.4e38",
    f16, f64, f16::from_f64, "an FP16, up to 65504",
    bf16, f64, bf16::from_f64, "a BF16, up to 3.39e38",
}

fn nonfinite_word(quoted: &str) -> Option<f64> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    nonfinite::named(inner)
}

impl Element for bool {
    const SIZE: usize = 1;
    fn write<'a>(token: Token<'a>, data: &mut Vec<u8>) -> Result<(), Unfit<'a>> {
        let value = match token {
            Token::Bool(value) => value,
            Token::Number("0") => false,
            Token::Number("1") => true,
            _ => return Err(Unfit { token, want: "a BOOL: true, false, 0 or 1" }),
        };
        data.push(u8::from(value));
        Ok(())
    }
}

/// An element of a BYTES tensor.
struct Text;

impl Element for Text {
    const SIZE: usize = 8; // the length and a short word
    fn write<'a>(token: Token<'a>, data: &mut Vec<u8>) -> Result<(), Unfit<'a>> {
        let unfit = Unfit { token, want: Self::WANT };
        let Token::Text(quoted) = token else { return Err(unfit) };
        let Some(text) = unescaped(quoted) else { return Err(unfit) };
        Self::append(text.as_bytes(), data).ok_or(unfit)
    }
}

impl Text {
    const WANT: &str = "a string for BYTES";

    fn append(bytes: &[u8], data: &mut Vec<u8>) -> Option<()> {
        data.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
        data.extend_from_slice(bytes);
        Some(())
    }
}

fn unescaped(quoted: &str) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(quoted).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_types::Coded;
    use proptest::prelude::*;

    fn encode_dims(dtype: DataType, dims: &[usize], json: &str) -> Result<Bytes, String> {
        encode("x", dtype, &Shape::new(dims).unwrap(), json).map_err(|e| e.message())
    }

    #[test]
    fn elements_are_written_as_their_type() {
        use DataType::*;
        #[rustfmt::skip]
        let cases: &[(&str, DataType, usize, &str, &[u8])] = &[
            // what the case shows       type    n  JSON               bytes
            ("little endian",            Uint16, 2, "[1, 256]",        &[1, 0, 0, 1]),
            ("both ends of a range",     Int8,   2, "[-128,127]",      &[0x80, 0x7f]),
            ("64 bits are exact",        Uint64, 1, "[18446744073709551615]", &[255; 8]),
            ("nested is flattened",      Uint8,  4, "[[1,2],[[3],4]]", &[1, 2, 3, 4]),
            ("BOOL by word or number",   Bool,   4, "[true,false,1,0]", &[1, 0, 1, 0]),
            ("FP16 from a number",       Fp16,   1, "[-2]",            &[0x00, 0xc0]),
            ("BF16 from a number",       Bf16,   1, "[1.0]",           &[0x80, 0x3f]),
            ("a word for infinity",      Fp32,   1, "[\"-Infinity\"]", &[0, 0, 0x80, 0xff]),
            ("a bare word",              Fp32,   1, "[-Infinity]",     &[0, 0, 0x80, 0xff]),
            ("BYTES with escapes",       Bytes,  2, r#"["a\n","é"]"#,  &[2, 0, 0, 0, b'a', b'\n', 2, 0, 0, 0, 0xc3, 0xa9]),
            ("nothing at all",           Fp64,   0, " [ ] ",           &[]),
            ("scalars come in an array", Uint8,  1, "[[[7]]]",         &[7]),
        ];
        for (shows, dtype, n, json, want) in cases {
            assert_eq!(encode_dims(*dtype, &[*n], json).as_deref(), Ok(*want), "{shows}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_index() {
        use DataType::*;
        #[rustfmt::skip]
        let cases: &[(&str, DataType, usize, &str, &str)] = &[
            ("range",          Int8,   2, "[1,128]",     "input `x`: element 1 of `data` is `128`; expected an INT8, -128 to 127"),
            ("sign",           Uint32, 1, "[-1]",        "element 0 of `data` is `-1`; expected a UINT32"),
            ("fraction",       Int64,  1, "[1.5]",       "is `1.5`; expected an INT64"),
            ("too large",      Fp32,   1, "[1e39]",      "is `1e39`; expected an FP32"),
            ("too large half", Fp16,   1, "[70000]",     "is `70000`; expected an FP16, up to 65504"),
            ("null",           Fp32,   1, "[null]",      "is null; expected an FP32"),
            ("object",         Fp32,   1, "[{\"a\":1}]", "is an object"),
            ("text for FP64",  Fp64,   1, "[\"1\"]",     "is a string"),
            ("BOOL",           Bool,   1, "[2]",         "true, false, 0 or 1"),
            ("BYTES",          Bytes,  1, "[1]",         "expected a string for BYTES"),
            ("too few",        Fp32,   3, "[1,2]",       "shape [3] takes 3 elements; `data` has 2"),
            ("too many",       Fp32,   1, "[1,2]",       "shape [1] takes 1 elements; `data` has more"),
            ("no array",       Fp32,   1, "1",           "`data` must be an array"),
            ("no comma",       Fp32,   2, "[1 2]",       "element 1 of `data` is `2]`, which is not JSON"),
            ("two commas",     Fp32,   2, "[1,,2]",      "`,2]`, which is not JSON"),
            ("a comma first",  Fp32,   1, "[,1]",        "`,1]`, which is not JSON"),
            ("a comma last",   Uint8,  1, "[1,]",        "`]`, which is not JSON"),
            ("a leading zero", Fp32,   1, "[01]",        "`01`, which is not JSON"),
            ("a bare point",   Fp32,   1, "[1.]",        "is `1.`"),
            ("cut short",      Fp32,   1, "[1",          "cut short"),
        ];
        for (shows, dtype, n, json, want) in cases {
            let error = encode_dims(*dtype, &[*n], json).unwrap_err();
            assert!(error.contains(want), "{shows}: {error}");
        }
    }

    #[test]
    fn nesting_is_bounded_and_a_claim_allocates_nothing() {
        let deep = "[".repeat(100_000);
        assert!(encode_dims(DataType::Fp32, &[1], &deep).unwrap_err().contains("nests deeper"));
        let huge = [1usize << 40];
        assert!(encode_dims(DataType::Fp32, &huge, "[1]").unwrap_err().contains("`data` has 1"));
    }

    fn reads_back<T: serde::Serialize>(dtype: DataType, values: &[T], want: Vec<u8>) {
        let json = serde_json::to_string(values).unwrap();
        assert_eq!(encode_dims(dtype, &[values.len()], &json).as_deref(), Ok(&want[..]), "{json}");
    }

    proptest! {
        #[test]
        fn numbers_survive_exactly(
            doubles in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 0..9),
            singles in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL, 0..9),
            longs in prop::collection::vec(any::<i64>(), 0..9),
        ) {
            reads_back(DataType::Fp64, &doubles, doubles.iter().flat_map(|v| v.to_le_bytes()).collect());
            reads_back(DataType::Fp32, &singles, singles.iter().flat_map(|v| v.to_le_bytes()).collect());
            reads_back(DataType::Int64, &longs, longs.iter().flat_map(|v| v.to_le_bytes()).collect());
        }

        #[test]
        fn texts_survive_exactly(texts in prop::collection::vec(".*", 0..9)) {
            reads_back(DataType::Bytes, &texts, mizzen_types::encode_bytes_elements(&texts).to_vec());
        }

        #[test]
        fn any_text_is_elements_or_an_error(
            json in r#"[\[\]{}",\\ 0-9a-z.eé+-]{0,40}"#,
            dtype in prop::sample::select(DataType::ALL.to_vec()),
            n in 0usize..5,
        ) {
            if let Ok(data) = encode_dims(dtype, &[n], &json) {
                let tensor = mizzen_types::Tensor::new(dtype, Shape::new([n]).unwrap(), data);
                prop_assert!(tensor.is_ok(), "{tensor:?}");
            }
        }
    }
}
