//! The conditions and selectors that KFP's compiler emits: a small part of CEL.
//!
//! ```text
//! cond    := and ('||' and)*            and := term ('&&' term)*
//! term    := '!' term | '(' cond ')' | operand (op operand)?
//! op      := == != > >= < <=
//! operand := base ('[' (string | integer) ']')*
//! base    := inputs.parameter_values['name'] | string_value | function '(' operand ')' | literal
//! ```
//! The compiler does not escape string literals, so a quote ends one only where the expression
//! can go on behind it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Expr {
    /// A value written out.
    Literal(Value),
    /// `inputs.parameter_values['name']`.
    Input(String),
    /// `string_value`: what a selector selects from.
    Selected,
    /// A function of one argument.
    Call(Function, Box<Expr>),
    /// `operand[key]`.
    Index(Box<Expr>, Value),
    /// A comparison.
    Compare(Comparison, Box<Expr>, Box<Expr>),
    /// `!`.
    Not(Box<Expr>),
    /// `&&` of all.
    All(Vec<Expr>),
    /// `||` of all.
    Any(Vec<Expr>),
}

/// The functions known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in CEL")]
pub enum Function {
    Int,
    Double,
    String,
    Size,
    ParseJson,
}

/// The comparisons known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as usual")]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Deepest nesting of parentheses and `!`: conditions are written by a compiler, three deep.
const DEPTH_MAX: usize = 64;

impl Expr {
    /// Parses a condition or selector.
    ///
    /// # Errors
    /// What was expected and what is left of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim(), depth: 0 };
        let expr = parser.any()?;
        match parser.rest {
            "" => Ok(expr),
            _ => Err(parser.expected("`&&`, `||` or the end")),
        }
    }

    /// The names of the inputs it reads.
    pub fn inputs(&self) -> Vec<&str> {
        match self {
            Self::Input(name) => vec![name],
            Self::Literal(_) | Self::Selected => Vec::new(),
            Self::Call(_, e) | Self::Index(e, _) | Self::Not(e) => e.inputs(),
            Self::Compare(_, a, b) => [a.inputs(), b.inputs()].concat(),
            Self::All(all) | Self::Any(all) => all.iter().flat_map(Self::inputs).collect(),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Expr, String> {
        let mut terms = vec![self.all()?];
        while self.eat("||") {
            terms.push(self.all()?);
        }
        Ok(one_or(terms, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr, String> {
        let mut terms = vec![self.term()?];
        while self.eat("&&") {
            terms.push(self.term()?);
        }
        Ok(one_or(terms, Expr::All))
    }

    fn term(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("nests deeper than {DEPTH_MAX} levels"));
        }
        let term = self.term_at_depth();
        self.depth -= 1;
        term
    }

    fn term_at_depth(&mut self) -> Result<Expr, String> {
        if !self.rest.starts_with("!=") && self.eat("!") {
            return self.term().map(|term| Expr::Not(Box::new(term)));
        }
        if self.eat("(") {
            let inside = self.any()?;
            self.expect(")")?;
            return Ok(inside);
        }
        let left = self.operand()?;
        let Some(comparison) = self.comparison() else { return Ok(left) };
        let right = self.operand()?;
        Ok(Expr::Compare(comparison, Box::new(left), Box::new(right)))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        use Comparison::*;
        // Longer operators first: `<=` begins with `<`.
        let known = [
            ("==", Equal),
            ("!=", NotEqual),
            ("<=", LessOrEqual),
            (">=", GreaterOrEqual),
            ("<", Less),
            (">", Greater),
        ];
        known.into_iter().find(|(sign, _)| self.eat(sign)).map(|(_, comparison)| comparison)
    }

    fn operand(&mut self) -> Result<Expr, String> {
        let mut operand = self.base()?;
        while self.eat("[") {
            let key = self.literal()?;
            self.expect("]")?;
            operand = Expr::Index(Box::new(operand), key);
        }
        Ok(operand)
    }

    fn base(&mut self) -> Result<Expr, String> {
        if self.eat("inputs.parameter_values[") {
            let name = self.literal()?;
            self.expect("]")?;
            return match name {
                Value::String(name) => Ok(Expr::Input(name)),
                other => Err(format!("an input's name must be a string, got `{other}`")),
            };
        }
        if self.eat("string_value") {
            return Ok(Expr::Selected);
        }
        let functions = [
            ("int(", Function::Int),
            ("double(", Function::Double),
            ("string(", Function::String),
            ("size(", Function::Size),
            ("parseJson(", Function::ParseJson),
        ];
        for (sign, function) in functions {
            if self.eat(sign) {
                let argument = self.operand()?;
                self.expect(")")?;
                return Ok(Expr::Call(function, Box::new(argument)));
            }
        }
        self.literal().map(Expr::Literal)
    }

    fn literal(&mut self) -> Result<Value, String> {
        for (word, value) in [("true", Value::Bool(true)), ("false", Value::Bool(false))] {
            if self.eat(word) {
                return Ok(value);
            }
        }
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.string(quote).map(Value::String),
            Some(c) if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number(),
            _ => Err(self.expected("a value")),
        }
    }

    fn string(&mut self, quote: char) -> Result<String, String> {
        let body = &self.rest[1..];
        let end = body
            .char_indices()
            .filter(|(_, c)| *c == quote)
            .map(|(at, _)| at)
            .find(|at| can_follow(body[at + 1..].trim_start()))
            .ok_or_else(|| self.expected("a closing quote"))?;
        let text = body[..end].to_owned();
        self.rest = body[end + 1..].trim_start();
        Ok(text)
    }

    fn number(&mut self) -> Result<Value, String> {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.');
        let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
        let text = self.rest[..end].trim_start_matches('+');
        let value = match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(integer), _) => Value::from(integer),
            (_, Ok(float)) if float.is_finite() => Value::from(float),
            _ => return Err(self.expected("a number")),
        };
        self.rest = self.rest[end..].trim_start();
        Ok(value)
    }

    fn eat(&mut self, sign: &str) -> bool {
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.eat(sign) { Ok(()) } else { Err(self.expected(&format!("`{sign}`"))) }
    }

    fn expected(&self, what: &str) -> String {
        match self.rest {
            "" => format!("expected {what} at the end"),
            rest => {
                format!("expected {what} before `{}`", rest.chars().take(40).collect::<String>())
            }
        }
    }
}

/// Whether an expression can go on like this behind a string.
fn can_follow(rest: &str) -> bool {
    const SIGNS: [&str; 8] = ["&&", "||", ")", "]", "==", "!=", "<", ">"];
    rest.is_empty() || SIGNS.iter().any(|sign| rest.starts_with(sign))
}

fn one_or(mut terms: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    if terms.len() == 1 { terms.remove(0) } else { many(terms) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_compiler_emits_is_read_and_the_rest_refused() {
        #[rustfmt::skip]
        let cases = [
            ("a comparison",            "inputs.parameter_values['a'] == 'heads'",                     true),
            ("a negated group",         "!(inputs.parameter_values['a'] == 'heads')",                  true),
            ("a conjunction",           "int(inputs.parameter_values['a']) > 5 && !(int(inputs.parameter_values['b']) <= 2.5)", true),
            ("a disjunction",           "(inputs.parameter_values['a'] == true) || 1 < 2",             true),
            ("a quote inside a string", "inputs.parameter_values['a'] == 'it's'",                      true),
            ("a selector",              "parseJson(string_value)[\"a\"][\"b\"][0]",                    true),
            ("other CEL",               "inputs.parameter_values['a'].startsWith('x')",                false),
            ("half an expression",      "inputs.parameter_values['a'] ==",                             false),
            ("two expressions",         "true false",                                                  false),
            ("nothing",                 "",                                                            false),
        ];
        for (shows, text, ok) in cases {
            assert_eq!(Expr::parse(text).is_ok(), ok, "{shows}: {:?}", Expr::parse(text));
        }
    }

    #[test]
    fn a_quote_inside_a_string_is_part_of_it() {
        let Expr::Compare(_, _, right) =
            Expr::parse("inputs.parameter_values['a'] == 'it's 'so''").unwrap()
        else {
            panic!("no comparison")
        };
        assert_eq!(*right, Expr::Literal(Value::from("it's 'so'")));
    }

    proptest! {
        #[test]
        fn any_text_is_an_expression_or_an_error_and_never_a_panic(text in "[ !()&|=<>'\"\\[\\]a-z0-9.é-]{0,80}") {
            let _ = Expr::parse(&text);
        }
    }
}
