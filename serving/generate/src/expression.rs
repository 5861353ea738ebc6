//! How much work a regular expression may turn out to be.

use regex_syntax::hir::{Hir, HirKind};
use serde_json::Value as Json;

/// Letters that an expression may stand for, with what repeats written out.
const LETTERS_MAX: u64 = 100_000;

/// Whether an expression is small enough once what it repeats is written out. What is no expression
/// at all is left to who compiles it.
pub(crate) fn check(expression: &str) -> Result<(), String> {
    let Ok(hir) = regex_syntax::Parser::new().parse(expression) else { return Ok(()) };
    match letters(&hir) {
        0..=LETTERS_MAX => Ok(()),
        _ => Err(format!("repeats more than {LETTERS_MAX} letters; use `*` or a smaller bound")),
    }
}

/// The same of every expression in a schema.
pub(crate) fn check_schema(schema: &Json) -> Result<(), String> {
    let mut left = vec![schema];
    while let Some(value) = left.pop() {
        match value {
            Json::Array(items) => left.extend(items),
            Json::Object(fields) => {
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("pattern", Json::String(expression)) => check(expression)?,
                        ("patternProperties", Json::Object(patterns)) => {
                            patterns.keys().try_for_each(|expression| check(expression))?;
                        }
                        _ => {}
                    }
                    left.push(value);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The same of every expression in a grammar of Lark's form, where they stand between slashes.
pub(crate) fn check_grammar(grammar: &str) -> Result<(), String> {
    for line in grammar.lines() {
        let ends = line.char_indices().filter(|(at, c)| *c == '/' && !line[..*at].ends_with('\\'));
        let ends: Vec<usize> = ends.map(|(at, _)| at).collect();
        // A slash may also stand in a text, so each two are looked at.
        ends.windows(2).try_for_each(|pair| check(&line[pair[0] + 1..pair[1]]))?;
    }
    Ok(())
}

fn letters(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(_) => 1,
        HirKind::Capture(capture) => letters(&capture.sub),
        HirKind::Repetition(repetition) => {
            let times = u64::from(repetition.max.unwrap_or(repetition.min).max(1));
            letters(&repetition.sub).saturating_mul(times)
        }
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().map(letters).fold(0, u64::saturating_add)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_repeats_too_much_is_refused() {
        for good in [r"\d{4}-\d{2}", "a*b+", "(a{100}){100}", "(", "[a-z]{0,10000}"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let bad = "((a{1000}){1000}){1000}";
        for bad in [bad, "(ab|c{999}){999}"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check_schema(&json!({"items": [{"pattern": bad}]})).is_err());
        assert!(check_schema(&json!({"patternProperties": {bad: {}}})).is_err());
        assert!(check_grammar(&format!("start: A\nA: \"/\" /{bad}/")).is_err());
        assert!(check_grammar("start: A\nA: /a{3}/ \"/\"").is_ok());
    }
}
