//! JSON as Python's `json.dumps` writes it, which models have seen.

use serde_json::Value;

/// How it is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Form {
    /// Spaces a level, each element on a line of its own.
    pub(super) indent: Option<usize>,
    pub(super) ensure_ascii: bool,
    pub(super) sort_keys: bool,
    /// What stands after an element and after a key.
    pub(super) separators: Option<(String, String)>,
}

/// Spaces a level at most: beyond it is no layout, but an attack on memory.
const INDENT_MAX: usize = 16;

impl Form {
    pub(super) fn write(&self, value: &Value) -> String {
        let mut out = String::new();
        self.value(value, 0, &mut out);
        out
    }

    fn value(&self, value: &Value, level: usize, out: &mut String) {
        match value {
            Value::String(text) => self.text(text, out),
            Value::Array(items) if items.is_empty() => out.push_str("[]"),
            Value::Object(fields) if fields.is_empty() => out.push_str("{}"),
            Value::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.between(at, level + 1, out);
                    self.value(item, level + 1, out);
                }
                self.line(level, out);
                out.push(']');
            }
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sort_keys {
                    fields.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (at, (key, value)) in fields.into_iter().enumerate() {
                    self.between(at, level + 1, out);
                    self.text(key, out);
                    out.push_str(self.separators.as_ref().map_or(": ", |(_, key)| key));
                    self.value(value, level + 1, out);
                }
                self.line(level, out);
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
    }

    fn between(&self, at: usize, level: usize, out: &mut String) {
        if at > 0 {
            let default = if self.indent.is_some() { "," } else { ", " };
            out.push_str(self.separators.as_ref().map_or(default, |(item, _)| item));
        }
        self.line(level, out);
    }

    fn line(&self, level: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent.min(INDENT_MAX) * level));
        }
    }

    fn text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
