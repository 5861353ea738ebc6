//! Answers that must have a form: JSON, a schema, an expression, one of several texts, a grammar.
//!
//! A [`Constraint`] says before each step which tokens may follow, and is told which one did. What
//! may follow is a question to a parser that runs over the vocabulary as a tree
//! (`llguidance`); schemas, expressions and grammars come from clients, so their size, and the work
//! that each step may do for them, are bounded.

use std::{fmt, sync::Arc};

use llguidance::{
    Matcher, ParserFactory,
    api::{GrammarWithLexer, ParserLimits, StopReason, TopLevelGrammar},
    regex_to_lark,
};
use serde_json::{Value as Json, json};
use tokenizers::Tokenizer;
use toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use crate::{
    GenerateError, expression,
    vocabulary::{BYTES_MAX, Vocabulary},
};

/// Bytes that a schema, expression or grammar may have, written out.
const GRAMMAR_BYTES_MAX: usize = 256 << 10;
/// How deep a schema may nest.
const SCHEMA_DEPTH_MAX: usize = 64;
/// Texts to choose from.
const CHOICES_MAX: usize = 4096;
/// Bytes of all tokens together that the tree of tokens can hold.
const TREE_BYTES_MAX: usize = 4_000_000;

/// The form that an answer must have.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON of this schema.
    Json(Json),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A context-free grammar, written as Lark's are.
    Lark(String),
}

/// Makes constraints for one model.
pub(crate) struct Constrainer {
    factory: ParserFactory,
}

/// What may follow in one answer.
pub struct Constraint {
    matcher: Matcher,
    forces: bool,
}

impl Constrainer {
    /// For a vocabulary whose answers end with one of these tokens.
    pub(crate) fn new(
        tokenizer: Tokenizer,
        vocabulary: &Vocabulary,
        ends: &[u32],
    ) -> Result<Self, String> {
        let ends: Vec<u32> =
            ends.iter().copied().filter(|end| (*end as usize) < vocabulary.len()).collect();
        let words = (0..vocabulary.len() as u32).map(|token| {
            let bytes = vocabulary.bytes(token);
            match vocabulary.is_special(token) {
                // Marked, so that no text is taken for it.
                true => [&[TokTrie::SPECIAL_TOKEN_MARKER][..], bytes].concat(),
                false => bytes.to_vec(),
            }
        });
        // What is too long for the tree is never needed: shorter tokens spell the same.
        let fits = |word: Vec<u8>| if word.len() > BYTES_MAX { Vec::new() } else { word };
        let mut words: Vec<Vec<u8>> = words.map(fits).collect();
        if words.iter().map(Vec::len).sum::<usize>() > TREE_BYTES_MAX {
            return Err(format!("its tokens have more than {TREE_BYTES_MAX} bytes"));
        }
        // A model without an end of its own has one here that it never gives.
        let end = ends.first().copied().unwrap_or(words.len() as u32);
        if ends.is_empty() {
            words.push(b"\xff<end>".to_vec());
        }
        let info = TokRxInfo::new(words.len() as u32, end);
        let mut tree = TokTrie::from(&info, &words);
        if ends.len() > 1 {
            tree = tree.with_eos_tokens(&ends);
        }
        let special = (0..vocabulary.len() as u32).map(|t| vocabulary.is_special(t)).collect();
        let environment: TokEnv =
            Arc::new(Tokens { tree, tokenizer, special, canonical: vocabulary.byte_level });
        let mut factory =
            ParserFactory::new_simple(&environment).map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_grammar_size: 200_000,
            max_lexer_states: 50_000, // some 2 kB each
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory })
    }

    /// Begins an answer of this form; `field` is where the request asks for it.
    ///
    /// # Errors
    /// [`GenerateError::Field`] with what is wrong with the grammar.
    pub(crate) fn begin(
        &self,
        field: &str,
        grammar: &Grammar,
    ) -> Result<Constraint, GenerateError> {
        let wrong = |reason: String| GenerateError::field(field, reason);
        let grammar = grammar.write().map_err(wrong)?;
        // Its author's mistakes are errors of `create_parser`; panics are caught there or in here.
        let built = llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.factory.create_parser(TopLevelGrammar::from_grammar(grammar))
        }));
        let mut matcher = Matcher::new(built);
        if let Some(error) = matcher.get_error() {
            return Err(wrong(format!("cannot be used: {}", said(&error))));
        }
        let environment = matcher.tok_env().map_err(|error| wrong(error.to_string()))?;
        // What nothing fits is found out now rather than in the middle of an answer.
        if let Err(error) = matcher.compute_mask_or_eos() {
            return Err(wrong(format!("cannot be used: {}", said(&error.to_string()))));
        }
        Ok(Constraint { matcher, forces: environment.tokenize_is_canonical() })
    }
}

impl fmt::Debug for Constrainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constrainer").finish_non_exhaustive()
    }
}

impl Constraint {
    /// Which tokens may follow, one bit each; only an end, where all has been said.
    ///
    /// # Errors
    /// [`GenerateError::Constraint`] if finding out takes more than it may.
    pub fn mask(&mut self) -> Result<SimpleVob, GenerateError> {
        self.matcher.compute_mask_or_eos().map_err(|error| self.failed(&error.to_string()))
    }

    /// Says which token followed.
    ///
    /// # Errors
    /// [`GenerateError::Constraint`] if it is not one that may.
    pub fn accept(&mut self, token: u32) -> Result<(), GenerateError> {
        self.matcher.consume_token(token).map_err(|error| self.failed(&error.to_string()))
    }

    /// The tokens that must follow, as the model would have written them itself. They are taken as
    /// accepted; none where there is a choice.
    ///
    /// # Errors
    /// [`GenerateError::Constraint`] if finding out takes more than it may.
    pub fn force(&mut self) -> Result<Vec<u32>, GenerateError> {
        if !self.forces || self.is_done() {
            return Ok(Vec::new());
        }
        let forced = self.matcher.consume_ff_tokens();
        match self.matcher.get_error() {
            Some(error) => Err(self.failed(&error)),
            None => Ok(forced),
        }
    }

    /// Whether all has been said: nothing but an end may follow.
    pub fn is_done(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// Whether the answer may end here.
    ///
    /// # Errors
    /// [`GenerateError::Constraint`] if it has failed before.
    pub fn may_end(&mut self) -> Result<bool, GenerateError> {
        self.matcher.is_accepting().map_err(|error| self.failed(&error.to_string()))
    }

    fn failed(&self, error: &str) -> GenerateError {
        let reason = match self.matcher.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                "its grammar takes more work than a step may do; use a simpler one".to_owned()
            }
            _ => said(error),
        };
        GenerateError::Constraint(reason)
    }
}

impl Clone for Constraint {
    /// One that shares nothing, for another thread.
    fn clone(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), forces: self.forces }
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("done", &self.is_done()).finish_non_exhaustive()
    }
}

impl Grammar {
    fn write(&self) -> Result<GrammarWithLexer, String> {
        let fits = |bytes: usize| match bytes {
            0..=GRAMMAR_BYTES_MAX => Ok(()),
            _ => Err(format!("has {bytes} bytes; expected at most {GRAMMAR_BYTES_MAX}")),
        };
        match self {
            Self::JsonObject => {
                Ok(GrammarWithLexer::from_json_schema(json_form(json!({"type": "object"}))))
            }
            Self::Json(schema) => {
                if !schema.is_object() && !schema.is_boolean() {
                    return Err(format!("is {schema}; expected a JSON schema, an object"));
                }
                if depth(schema) > SCHEMA_DEPTH_MAX {
                    return Err(format!("nests deeper than {SCHEMA_DEPTH_MAX} levels"));
                }
                fits(schema.to_string().len())?;
                expression::check_schema(schema)?;
                Ok(GrammarWithLexer::from_json_schema(json_form(schema.clone())))
            }
            Self::Regex(expression) => {
                fits(expression.len())?;
                expression::check(expression)?;
                let expression = regex_to_lark(expression, "");
                Ok(GrammarWithLexer::from_lark(format!("start: /{expression}/")))
            }
            Self::Choice(texts) => {
                if texts.is_empty() || texts.len() > CHOICES_MAX {
                    return Err(format!("has {} texts; expected 1 to {CHOICES_MAX}", texts.len()));
                }
                if texts.iter().any(String::is_empty) {
                    return Err(
                        "has an empty text; expected texts with something in them".to_owned()
                    );
                }
                fits(texts.iter().map(String::len).sum())?;
                let quoted: Vec<String> =
                    texts.iter().map(|t| Json::from(t.as_str()).to_string()).collect();
                Ok(GrammarWithLexer::from_lark(format!("start: {}", quoted.join(" | "))))
            }
            Self::Lark(grammar) => {
                fits(grammar.len())?;
                if grammar.contains("::=") {
                    return Err("is written in EBNF (`::=`); expected Lark's form, as in `start: \"a\" | \"b\"`".to_owned());
                }
                expression::check_grammar(grammar)?;
                Ok(GrammarWithLexer::from_lark(grammar.clone()))
            }
        }
    }
}

/// The schema with a bound on white space, of which some models would write without end.
fn json_form(schema: Json) -> Json {
    let mut schema = match schema {
        Json::Object(schema) => schema,
        other => return other,
    };
    let space = json!({"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,20}"});
    schema.insert("x-guidance".to_owned(), space);
    Json::Object(schema)
}

fn depth(value: &Json) -> usize {
    // Without recursion of its own: what is too deep would be so here, too.
    let mut deepest = 0;
    let mut left = vec![(value, 1)];
    while let Some((value, level)) = left.pop() {
        deepest = deepest.max(level);
        match value {
            Json::Array(items) => left.extend(items.iter().map(|item| (item, level + 1))),
            Json::Object(fields) => left.extend(fields.values().map(|item| (item, level + 1))),
            _ => {}
        }
    }
    deepest
}

/// What is said of an error, on one line and without end.
fn said(error: &str) -> String {
    const CHARACTERS: usize = 400;
    let error = error.split("<backtrace>").next().unwrap_or_default();
    let words: Vec<&str> = error.split_whitespace().collect();
    words.join(" ").chars().take(CHARACTERS).collect()
}

/// The tokenizer as the parser needs it.
struct Tokens {
    tree: TokTrie,
    tokenizer: Tokenizer,
    special: Vec<bool>,
    canonical: bool,
}

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.tree
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.tree.tokenize_with_greedy_fallback(bytes, |text| {
            let special = |id: &u32| self.special.get(*id as usize).copied().unwrap_or(true);
            match self.tokenizer.encode_fast(text, false) {
                // Text is text, also where it reads like a token with a purpose.
                Ok(encoding) if !encoding.get_ids().iter().any(special) => {
                    encoding.get_ids().to_vec()
                }
                _ => self.tree.greedy_tokenize(text.as_bytes()),
            }
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// Constraints of the byte-level tokenizer, and what spells its tokens.
    fn constrainer() -> (Constrainer, Vocabulary, Tokenizer) {
        let tokenizer = testing::byte_level();
        let vocabulary = Vocabulary::of(&tokenizer).unwrap();
        let end = tokenizer.token_to_id("</s>").unwrap();
        let constrainer = Constrainer::new(tokenizer.clone(), &vocabulary, &[end]).unwrap();
        (constrainer, vocabulary, tokenizer)
    }

    /// Whether a text, token by token, is one that the grammar lets be written, and may end there.
    fn accepts(grammar: &Grammar, text: &str) -> Result<bool, GenerateError> {
        let (constrainer, _, tokenizer) = constrainer();
        let mut constraint = constrainer.begin("form", grammar)?;
        for token in tokenizer.encode(text, false).unwrap().get_ids() {
            if !constraint.mask()?.is_allowed(*token) {
                return Ok(false);
            }
            constraint.accept(*token)?;
        }
        constraint.may_end()
    }

    #[test]
    fn answers_have_the_form_that_was_asked_for() {
        let schema = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
                            "required": ["name", "age"], "additionalProperties": false});
        let json = Grammar::Json(schema);
        let date = Grammar::Regex(r"\d{4}-\d{2}-\d{2}".to_owned());
        let choice = Grammar::Choice(vec!["yes".to_owned(), "no \"really\"\n".to_owned()]);
        let sum =
            Grammar::Lark("start: sum\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/".to_owned());
        #[rustfmt::skip]
        let cases = [
            (&Grammar::JsonObject, "{\"a\": [1, {\"b\": null}]}", true),
            (&Grammar::JsonObject, "[1]",                         false),
            (&Grammar::JsonObject, "{\"a\": ",                    false),
            (&json,                "{\"name\": \"x\", \"age\": 3}", true),
            (&json,                "{\n  \"name\": \"é\",\n  \"age\": 3\n}", true),
            (&json,                "{\"name\": \"x\"}",           false),
            (&json,                "{\"name\": 3",                false),
            (&json,                "{\"name\": \"x\", \"age\": -3}", false),
            (&date,                "2026-11-22",                  true),
            (&date,                "2026-11-2",                   false),
            (&date,                "yesterday",                   false),
            (&choice,              "yes",                         true),
            (&choice,              "no \"really\"\n",             true),
            (&choice,              "no",                          false),
            (&sum,                 "1+22+3",                      true),
            (&sum,                 "1+",                          false),
        ];
        for (grammar, text, want) in cases {
            assert_eq!(accepts(grammar, text), Ok(want), "{grammar:?} {text}");
        }
        let spaces = format!("{{{}\"a\": 1}}", " ".repeat(50));
        assert_eq!(accepts(&Grammar::JsonObject, &spaces), Ok(false), "white space has a bound");
    }

    #[test]
    fn what_must_follow_is_known_without_the_model() {
        let (constrainer, vocabulary, _) = constrainer();
        let schema = json!({"type": "object", "properties": {"hello world": {"const": "</s>"}},
                            "required": ["hello world"], "additionalProperties": false});
        let mut constraint = constrainer
            .begin("form", &Grammar::Choice(vec!["hello world</s>".to_owned()]))
            .unwrap();
        let forced = constraint.force().unwrap();
        let bytes: Vec<u8> =
            forced.iter().flat_map(|token| vocabulary.bytes(*token)).copied().collect();
        let text = String::from_utf8(bytes).unwrap();
        assert!("hello world</s>".starts_with(&text) && text.len() > 8, "{text}");
        assert!(forced.iter().all(|token| !vocabulary.is_special(*token)));

        let mut constraint = constrainer.begin("form", &Grammar::Json(schema)).unwrap();
        let open = (0..300).find(|token| vocabulary.bytes(*token) == b"{").unwrap();
        constraint.accept(open).unwrap();
        let mut other = constraint.clone();
        assert_eq!(constraint.force(), other.force(), "a clone goes on alike, by itself");
    }

    #[test]
    fn only_an_end_follows_what_is_done() {
        let (constrainer, _, tokenizer) = constrainer();
        let mut constraint =
            constrainer.begin("form", &Grammar::Choice(vec!["a".to_owned()])).unwrap();
        let end = tokenizer.token_to_id("</s>").unwrap();
        let a = tokenizer.token_to_id("a").unwrap();
        assert!(!constraint.mask().unwrap().is_allowed(end));
        constraint.accept(a).unwrap();
        assert!(constraint.is_done());
        assert_eq!(constraint.mask().unwrap().to_list(), [end]);
        let mut constraint = constrainer.begin("form", &Grammar::JsonObject).unwrap();
        assert!(matches!(constraint.accept(a), Err(GenerateError::Constraint(_))));
        assert!(constraint.mask().is_err(), "an error stays");
    }

    #[test]
    fn grammars_that_are_none_are_refused_with_a_reason() {
        let mut deep = json!({});
        for _ in 0..100 {
            deep = json!({"type": "array", "items": deep});
        }
        #[rustfmt::skip]
        let cases = [
            Grammar::Json(json!(3)),
            Grammar::Json(json!({"type": "thing"})),
            Grammar::Json(json!({"$ref": "https://example.com/schema.json"})),
            Grammar::Json(json!({"$ref": "#/$defs/none"})),
            Grammar::Json(json!({"type": "string", "pattern": "("})),
            Grammar::Json(json!({"type": "integer", "minimum": 3, "maximum": 1})),
            Grammar::Json(deep),
            Grammar::Json(json!({"enum": [" ".repeat(GRAMMAR_BYTES_MAX)]})),
            Grammar::Regex("(".to_owned()),
            Grammar::Regex("((a{1000}){1000}){1000}".to_owned()),
            Grammar::Choice(vec![]),
            Grammar::Choice(vec![String::new()]),
            Grammar::Lark("start: other".to_owned()),
            Grammar::Lark("root ::= \"a\"".to_owned()),
            Grammar::Lark(String::new()),
        ];
        let (constrainer, ..) = constrainer();
        for grammar in cases {
            let got = constrainer.begin("form", &grammar).unwrap_err();
            assert_eq!(got.at(), Some("form"), "{got}");
            assert!(!got.to_string().contains('\n'));
        }
    }

    #[test]
    fn the_other_kind_of_tokenizer_and_a_model_without_ends_work_too() {
        let tokenizer = testing::sentences();
        let vocabulary = Vocabulary::of(&tokenizer).unwrap();
        let constrainer = Constrainer::new(tokenizer.clone(), &vocabulary, &[]).unwrap();
        let mut constraint = constrainer.begin("form", &Grammar::JsonObject).unwrap();
        for byte in b"{\"\xC3\xA9\": 1}" {
            let token = tokenizer.token_to_id(&format!("<0x{byte:02X}>"));
            let letter = tokenizer.token_to_id(&char::from(*byte).to_string().replace(' ', "▁"));
            let token = letter.filter(|_| byte.is_ascii()).or(token).unwrap();
            assert!(constraint.mask().unwrap().is_allowed(token), "{byte}");
            constraint.accept(token).unwrap();
        }
        assert!(constraint.may_end().unwrap());
        assert_eq!(constraint.force().unwrap(), [0; 0]);
    }
}
