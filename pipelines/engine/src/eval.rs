//! Evaluates conditions and selectors.
//!
//! A name that has no value is an error, never false: a branch is not dropped because of a typing
//! mistake. Values of different types are unequal; to order them is an error.

use std::{cmp::Ordering, collections::BTreeMap};

use mizzen_pipeline_spec::{
    condition::{Comparison, Expr, Function},
    parameter::{canonical, describe, to_text},
};
use serde_json::Value;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// An input it reads has no value.
    #[error("input `{0}` has no value")]
    NoValue(String),
    /// A value is not of the type that the operation needs.
    #[error("{operation} needs {want}, got {got}")]
    Type {
        /// The function or operator.
        operation: &'static str,
        /// What it needs.
        want: &'static str,
        /// What came.
        got: String,
    },
    /// A key or index is not there.
    #[error("`{key}` is not in {of}")]
    NoKey {
        /// The key.
        key: String,
        /// What was looked into.
        of: String,
    },
}

type Result<T> = std::result::Result<T, EvalError>;

/// Whether a condition holds for these inputs.
///
/// # Errors
/// [`EvalError`] if it reads what has no value, or does not give true or false.
pub fn evaluate(condition: &Expr, inputs: &BTreeMap<String, Value>) -> Result<bool> {
    truth(value(condition, inputs, None)?)
}

/// The part of `from` that a selector selects.
///
/// # Errors
/// [`EvalError`] if there is no such part.
pub fn select(selector: &Expr, from: &Value) -> Result<Value> {
    value(selector, &BTreeMap::new(), Some(from))
}

fn value(expr: &Expr, inputs: &BTreeMap<String, Value>, from: Option<&Value>) -> Result<Value> {
    let go = |expr: &Expr| value(expr, inputs, from);
    match expr {
        Expr::Literal(value) => Ok(value.clone()),
        Expr::Input(name) => {
            inputs.get(name).cloned().ok_or_else(|| EvalError::NoValue(name.clone()))
        }
        Expr::Selected => {
            from.cloned().ok_or_else(|| EvalError::NoValue("string_value".to_owned()))
        }
        Expr::Call(function, argument) => call(*function, &go(argument)?),
        Expr::Index(of, key) => index(&go(of)?, key),
        Expr::Compare(comparison, left, right) => {
            compare(*comparison, &go(left)?, &go(right)?).map(Value::Bool)
        }
        Expr::Not(inner) => Ok(Value::Bool(!truth(go(inner)?)?)),
        Expr::All(all) => {
            for expr in all {
                if !truth(go(expr)?)? {
                    return Ok(Value::Bool(false));
                }
            }
            Ok(Value::Bool(true))
        }
        Expr::Any(any) => {
            for expr in any {
                if truth(go(expr)?)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
    }
}

fn truth(value: Value) -> Result<bool> {
    match value {
        Value::Bool(truth) => Ok(truth),
        other => Err(mismatch("a condition", "true or false", &other)),
    }
}

fn mismatch(operation: &'static str, want: &'static str, got: &Value) -> EvalError {
    EvalError::Type { operation, want, got: describe(got) }
}

fn call(function: Function, argument: &Value) -> Result<Value> {
    match (function, argument) {
        (Function::Int, Value::Number(n)) => Ok(truncated(n)),
        (Function::Int, Value::String(text)) => match text.trim().parse::<i64>() {
            Ok(integer) => Ok(Value::from(integer)),
            Err(_) => Err(mismatch("int()", "the text of a whole number", argument)),
        },
        (Function::Int, other) => Err(mismatch("int()", "a number or text", other)),
        (Function::Double, Value::Number(_)) => Ok(argument.clone()),
        (Function::Double, Value::String(text)) => match text.trim().parse::<f64>() {
            Ok(float) => Ok(canonical(Value::from(float))),
            Err(_) => Err(mismatch("double()", "the text of a number", argument)),
        },
        (Function::Double, other) => Err(mismatch("double()", "a number or text", other)),
        (Function::String, other) => Ok(Value::String(to_text(other))),
        (Function::Size, Value::String(text)) => Ok(Value::from(text.chars().count())),
        (Function::Size, Value::Array(items)) => Ok(Value::from(items.len())),
        (Function::Size, Value::Object(map)) => Ok(Value::from(map.len())),
        (Function::Size, other) => Err(mismatch("size()", "a string, list or mapping", other)),
        // A value that was never turned into text needs no parsing.
        (Function::ParseJson, Value::Object(_) | Value::Array(_)) => Ok(argument.clone()),
        (Function::ParseJson, Value::String(text)) => serde_json::from_str(text)
            .map(canonical)
            .map_err(|_| mismatch("parseJson()", "JSON text", argument)),
        (Function::ParseJson, other) => Err(mismatch("parseJson()", "JSON text", other)),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "int() truncates, as in CEL")]
fn truncated(number: &serde_json::Number) -> Value {
    let float = || number.as_f64().unwrap_or_default().trunc();
    number.as_i64().map_or_else(|| Value::from(float() as i64), Value::from)
}

fn index(of: &Value, key: &Value) -> Result<Value> {
    let found = match (of, key) {
        (Value::Object(map), Value::String(key)) => map.get(key),
        (Value::Array(items), Value::Number(n)) => {
            n.as_u64().and_then(|i| usize::try_from(i).ok()).and_then(|i| items.get(i))
        }
        _ => None,
    };
    found.cloned().ok_or_else(|| EvalError::NoKey { key: to_text(key), of: describe(of) })
}

fn compare(comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
    use Comparison::*;
    match comparison {
        Equal => Ok(equal(left, right)),
        NotEqual => Ok(!equal(left, right)),
        Less => Ok(order(left, right)?.is_lt()),
        LessOrEqual => Ok(order(left, right)?.is_le()),
        Greater => Ok(order(left, right)?.is_gt()),
        GreaterOrEqual => Ok(order(left, right)?.is_ge()),
    }
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => {
            order(left, right).is_ok_and(|ordering| ordering.is_eq())
        }
        _ => left == right,
    }
}

fn order(left: &Value, right: &Value) -> Result<Ordering> {
    let ordering = match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().partial_cmp(&b.as_f64()),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    };
    ordering.ok_or_else(|| EvalError::Type {
        operation: "ordering",
        want: "two numbers, strings or booleans",
        got: format!("{} and {}", describe(left), describe(right)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_hold_fail_or_are_errors() {
        let inputs =
            json!({"s": "5", "n": 5, "f": 2.5, "b": true, "l": [1, 2], "j": "{\"a\":{\"b\":[7]}}"});
        let inputs: BTreeMap<_, _> = inputs.as_object().unwrap().clone().into_iter().collect();
        let input = |name: &str| format!("inputs.parameter_values['{name}']");
        #[rustfmt::skip]
        let cases = [
            ("equal strings",            format!("{} == '5'", input("s")),                    Some(true)),
            ("a string is no number",    format!("{} == 5", input("s")),                      Some(false)),
            ("unless it is made one",    format!("int({}) == 5.0", input("s")),               Some(true)),
            ("mixed types are unequal",  format!("{} != 5", input("s")),                      Some(true)),
            ("but have no order",        format!("{} < 6", input("s")),                       None),
            ("integers and floats do",   format!("{} > {}", input("n"), input("f")),          Some(true)),
            ("a negated group",          format!("!({} == 5) || {} == true", input("n"), input("b")), Some(true)),
            ("a missing name is an error", format!("{} == 'x'", input("gone")),               None),
            ("unless never reached",     format!("false && {} == 'x'", input("gone")),        Some(false)),
            ("size and index",           format!("size({0}) == 2 && {0}[1] == 2", input("l")), Some(true)),
            ("a number is no condition", input("n"),                                          None),
            ("parsed JSON",              format!("parseJson({})[\"a\"][\"b\"][0] == 7", input("j")), Some(true)),
        ];
        for (shows, text, want) in cases {
            let expr = Expr::parse(&text).unwrap();
            assert_eq!(evaluate(&expr, &inputs).ok(), want, "{shows}: {text}");
        }
    }

    #[test]
    fn a_selector_reads_text_and_structure_alike() {
        let selector = Expr::parse("parseJson(string_value)[\"a\"]").unwrap();
        assert_eq!(select(&selector, &json!("{\"a\": 1.0}")), Ok(json!(1)));
        assert_eq!(select(&selector, &json!({"a": [1]})), Ok(json!([1])));
        let error = select(&selector, &json!({"b": 1})).unwrap_err();
        assert_eq!(error.to_string(), "`a` is not in a mapping of 1 keys");
    }
}
