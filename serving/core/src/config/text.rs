//! Protocol buffers' text format, untyped.
//!
//! Reads any text into a tree of fields with their lines; `slot` gives them their types.
//! Nesting is bounded, so no text can exhaust the stack. Extensions and `Any` are not read: no
//! model configuration has them.

use super::ConfigError;

/// The deepest nesting; a model configuration needs six.
const MAX_DEPTH: usize = 32;

/// Fields in the order they are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Message {
    pub(super) fields: Vec<Field>,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    /// From 1; `None` in JSON.
    pub(super) line: Option<u32>,
    pub(super) value: Value,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Message(Message),
    /// Quoted text.
    Text(String),
    /// A bare word: an enum's name, `true`, `inf`.
    Word(String),
    /// A number as written, its sign included.
    Number(String),
    /// Any of the others, each with its line.
    List(Vec<(Option<u32>, Value)>),
}

impl Value {
    /// How an error shows it.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Message(_) => "a message".to_owned(),
            Self::Text(text) => format!("text `{}`", shorten(text)),
            Self::Word(word) | Self::Number(word) => format!("`{}`", shorten(word)),
            Self::List(_) => "a list".to_owned(),
        }
    }

    /// How an error shows one of a wrong name, whether it was quoted or not.
    pub(super) fn show_word(&self) -> String {
        match self {
            Self::Text(word) => format!("`{}`", shorten(word)),
            other => other.show(),
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Reads `text`; `file` is for errors.
pub(super) fn parse(file: &str, text: &str) -> Result<Message, ConfigError> {
    let mut parser = Parser { file, rest: text, line: 1, token: Token::End, token_line: 1 };
    parser.advance()?;
    let message = parser.message(None, 0)?;
    match parser.token {
        Token::End => Ok(message),
        _ => Err(parser.expected("a field name")),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Number(String),
    Text(Vec<u8>),
    Mark(char),
    End,
}

struct Parser<'a> {
    file: &'a str,
    rest: &'a str,
    line: u32,
    token: Token,
    token_line: u32,
}

impl Parser<'_> {
    fn message(&mut self, close: Option<char>, depth: usize) -> Result<Message, ConfigError> {
        if depth > MAX_DEPTH {
            return Err(self.error("at most 32 levels of nesting", "more".to_owned()));
        }
        let mut message = Message::default();
        loop {
            match &self.token {
                Token::Word(name) => {
                    let (name, line) = (name.clone(), self.token_line);
                    self.advance()?;
                    self.field(&mut message, &name, line, depth)?;
                    if matches!(self.token, Token::Mark(',' | ';')) {
                        self.advance()?;
                    }
                }
                Token::Mark(mark) if Some(*mark) == close => {
                    self.advance()?;
                    return Ok(message);
                }
                Token::End if close.is_none() => return Ok(message),
                _ => return Err(self.expected(&field_or(close))),
            }
        }
    }

    fn field(
        &mut self,
        message: &mut Message,
        name: &str,
        line: u32,
        depth: usize,
    ) -> Result<(), ConfigError> {
        let colon = self.eat(':')?;
        if self.token == Token::Mark('[') {
            let value = self.list(name, depth)?;
            message.fields.push(Field { name: name.to_owned(), line: Some(line), value });
            return Ok(());
        }
        if !colon && !matches!(self.token, Token::Mark('{' | '<')) {
            return Err(self.expected(&format!("`:` or `{{` after `{name}`")));
        }
        let value = self.value(depth)?;
        message.fields.push(Field { name: name.to_owned(), line: Some(line), value });
        Ok(())
    }

    fn list(&mut self, name: &str, depth: usize) -> Result<Value, ConfigError> {
        self.advance()?;
        let mut values = Vec::new();
        if self.eat(']')? {
            return Ok(Value::List(values));
        }
        loop {
            let line = Some(self.token_line);
            values.push((line, self.value(depth)?));
            if self.eat(']')? {
                return Ok(Value::List(values));
            }
            if !self.eat(',')? {
                return Err(self.expected(&format!("`,` or `]` in the list `{name}`")));
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, ConfigError> {
        match self.token.clone() {
            Token::Mark('{') => {
                self.advance()?;
                self.message(Some('}'), depth + 1).map(Value::Message)
            }
            Token::Mark('<') => {
                self.advance()?;
                self.message(Some('>'), depth + 1).map(Value::Message)
            }
            Token::Mark('-') => {
                self.advance()?;
                let (Token::Number(digits) | Token::Word(digits)) = self.token.clone() else {
                    return Err(self.expected("a number after `-`"));
                };
                self.advance()?;
                Ok(Value::Number(format!("-{digits}")))
            }
            Token::Number(digits) => {
                self.advance()?;
                Ok(Value::Number(digits))
            }
            Token::Word(word) => {
                self.advance()?;
                Ok(Value::Word(word))
            }
            Token::Text(_) => self.text().map(Value::Text),
            _ => Err(self.expected("a value")),
        }
    }

    /// Adjacent quoted pieces are one text.
    fn text(&mut self) -> Result<String, ConfigError> {
        let mut bytes = Vec::new();
        while let Token::Text(piece) = &self.token {
            bytes.extend_from_slice(piece);
            self.advance()?;
        }
        String::from_utf8(bytes)
            .map_err(|_| self.error("text in UTF-8", "escapes that are not".to_owned()))
    }

    fn eat(&mut self, mark: char) -> Result<bool, ConfigError> {
        let there = self.token == Token::Mark(mark);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    fn advance(&mut self) -> Result<(), ConfigError> {
        self.skip_blank();
        self.token_line = self.line;
        let Some(first) = self.rest.chars().next() else {
            self.token = Token::End;
            return Ok(());
        };
        self.token = match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                Token::Word(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_'))
            }
            '0'..='9' | '.' => Token::Number(self.take_number()),
            '"' | '\'' => self.quoted(first)?,
            _ => {
                self.rest = &self.rest[first.len_utf8()..];
                Token::Mark(first)
            }
        };
        Ok(())
    }

    fn skip_blank(&mut self) {
        loop {
            let trimmed = self.rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
            let skipped = &self.rest[..self.rest.len() - trimmed.len()];
            self.line += u32::try_from(skipped.matches('\n').count()).unwrap_or(u32::MAX);
            self.rest = trimmed;
            if !trimmed.starts_with('#') {
                return;
            }
            self.rest = &trimmed[trimmed.find('\n').unwrap_or(trimmed.len())..];
        }
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    fn take_number(&mut self) -> String {
        let mut number = self.take_while(|c| c.is_ascii_alphanumeric() || c == '.');
        let exponent = number.ends_with(['e', 'E']) && !number.starts_with("0x");
        if exponent && self.rest.starts_with(['+', '-']) {
            let (sign, rest) = self.rest.split_at(1);
            self.rest = rest;
            number.push_str(sign);
            number.push_str(&self.take_while(|c| c.is_ascii_alphanumeric()));
        }
        number
    }

    fn quoted(&mut self, quote: char) -> Result<Token, ConfigError> {
        let mut bytes = Vec::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.rest = &self.rest[at + 2..];
                    return Ok(Token::Text(bytes));
                }
                '\n' => break,
                '\\' => {
                    let tail = &self.rest[at + 2..];
                    let (decoded, used) = unescape(tail).ok_or_else(|| {
                        let got = tail.chars().take(3).collect::<String>();
                        self.error("an escape such as `\\n`", format!("`\\{got}`"))
                    })?;
                    bytes.extend_from_slice(&decoded);
                    let next = at + 1 + used;
                    while chars.clone().next().is_some_and(|(i, _)| i < next) {
                        chars.next();
                    }
                }
                _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(self.error(&format!("a closing `{quote}`"), "the end of the line".to_owned()))
    }

    fn expected(&self, what: &str) -> ConfigError {
        let got = match &self.token {
            Token::End => "the end of the file".to_owned(),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::Word(word) | Token::Number(word) => format!("`{}`", shorten(word)),
            Token::Text(text) => format!("text `{}`", shorten(&String::from_utf8_lossy(text))),
        };
        self.error(what, got)
    }

    fn error(&self, expected: &str, got: String) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: Some(self.token_line),
            field: String::new(),
            expected: expected.to_owned(),
            got,
        }
    }
}

fn field_or(close: Option<char>) -> String {
    match close {
        Some(close) => format!("a field name or `{close}`"),
        None => "a field name".to_owned(),
    }
}

/// Decodes what follows a backslash: its bytes, and how many bytes of the text it took.
fn unescape(tail: &str) -> Option<(Vec<u8>, usize)> {
    let first = tail.chars().next()?;
    let plain = match first {
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'v' => 11,
        '\\' | '\'' | '"' | '?' => first as u8,
        '0'..='7' => {
            let used = digits(tail, 3, 8);
            return u8::from_str_radix(&tail[..used], 8).ok().map(|b| (vec![b], used));
        }
        'x' | 'X' => {
            let used = digits(&tail[1..], 2, 16);
            return u8::from_str_radix(&tail[1..=used], 16).ok().map(|b| (vec![b], used + 1));
        }
        'u' | 'U' => {
            let want = if first == 'u' { 4 } else { 8 };
            let hex = tail.get(1..=want)?;
            let char = char::from_u32(u32::from_str_radix(hex, 16).ok()?)?;
            return Some((char.to_string().into_bytes(), want + 1));
        }
        _ => return None,
    };
    Some((vec![plain], 1))
}

fn digits(text: &str, most: usize, radix: u32) -> usize {
    text.chars().take(most).take_while(|c| c.is_digit(radix)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Value {
        parse("f", text).unwrap().fields.remove(0).value
    }

    #[test]
    fn every_form_of_a_value_is_read() {
        let text = |t: &str| Value::Text(t.to_owned());
        let number = |t: &str| Value::Number(t.to_owned());
        let nested = Value::Message(parse("f", "b: 1").unwrap());
        #[rustfmt::skip]
        let cases = [
            ("number",                    "a: 12",                 number("12")),
            ("negative, spaced",          "a: - 1",                number("-1")),
            ("hexadecimal",               "a: 0x1F",               number("0x1F")),
            ("float with exponent",       "a: 1.5e-3",             number("1.5e-3")),
            ("word",                      "a: TYPE_FP32",          Value::Word("TYPE_FP32".into())),
            ("text",                      "a: \"x\"",              text("x")),
            ("single quotes",             "a: 'x\"y'",             text("x\"y")),
            ("pieces are joined",         "a: \"x\" # c\n 'y'",    text("xy")),
            ("escapes",                   r#"a: "\n\x41\101\u00e9\\""#, text("\nAAé\\")),
            ("a quote, escaped",          r#"a: "\"" "#,           text("\"")),
            ("multi-byte text",           "a: \"é\"",              text("é")),
            ("message with braces",       "a { b: 1 }",            nested.clone()),
            ("message with a colon",      "a: { b: 1; }",          nested.clone()),
            ("message with angles",       "a < b: 1, >",           nested),
        ];
        for (shows, input, want) in cases {
            assert_eq!(one(input), want, "{shows}");
        }
    }

    #[test]
    fn a_list_keeps_the_line_of_each_element() {
        let message = parse("f", "d: [1,\n 2]\nd: 3 e: []").unwrap();
        let number = |n: &str| Value::Number(n.to_owned());
        let list = Value::List(vec![(Some(1), number("1")), (Some(2), number("2"))]);
        let fields: Vec<_> = message.fields.into_iter().map(|f| (f.line, f.value)).collect();
        assert_eq!(
            fields,
            [(Some(1), list), (Some(3), number("3")), (Some(3), Value::List(vec![]))]
        );
    }

    #[test]
    fn errors_say_where_and_what() {
        let deep = "a {".repeat(40);
        #[rustfmt::skip]
        let cases = [
            ("a: $x",            "f:1: expected a value, got `$`"),
            ("a\n5",             "f:2: expected `:` or `{` after `a`, got `5`"),
            ("\na { b: 1",       "f:2: expected a field name or `}`, got the end of the file"),
            ("a: [1 2]",         "f:1: expected `,` or `]` in the list `a`, got `2`"),
            ("a: [1,]",          "f:1: expected a value, got `]`"),
            ("a: \"x\ny\"",      "f:1: expected a closing `\"`, got the end of the line"),
            (r#"a: "\q""#,       "f:1: expected an escape such as `\\n`, got `\\q\"`"),
            (r#"a: "\377""#,     "f:1: expected text in UTF-8, got escapes that are not"),
            ("}",                "f:1: expected a field name, got `}`"),
            ("a: -}",            "f:1: expected a number after `-`, got `}`"),
            (deep.as_str(),      "f:1: expected at most 32 levels of nesting, got more"),
        ];
        for (text, want) in cases {
            assert_eq!(parse("f", text).unwrap_err().to_string(), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_message_or_an_error(text in "\\PC{0,80}") {
            let _ = parse("f", &text);
        }

        #[test]
        fn any_tokens_are_a_message_or_an_error(
            tokens in prop::collection::vec(prop::sample::select(vec![
                "a", "b", ":", "{", "}", "<", ">", "[", "]", ",", ";", "-", "1", "0x", ".", "\"", "'",
                "\\", "\\x", "\\u12", "\n", "#", " ", "é", "inf",
            ]), 0..40),
        ) {
            let _ = parse("f", &tokens.concat());
        }
    }
}
