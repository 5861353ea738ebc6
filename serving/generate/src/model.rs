//! One model's text side: its tokenizer, template, ends and defaults.

use std::{path::Path, sync::OnceLock};

use mizzen_runtime_api::GeneratorCard;
use serde_json::Value as Json;
use tokenizers::Tokenizer;

use crate::{
    Chat, ChatTemplate, Constraint, Defaults, GenerateError, Grammar, SpecialTokens, ToolFormat,
    constraint::Constrainer,
    files::{self, Files, Found},
    vocabulary::Vocabulary,
};

/// What stands between text and a model that generates. Shared by all who use the version it
/// belongs to.
#[derive(Debug)]
pub struct TextSide {
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    template: Option<ChatTemplate>,
    tools: Option<ToolFormat>,
    special: SpecialTokens,
    defaults: Defaults,
    ends: Vec<u32>,
    /// What texts begin with, where the tokenizer does not see to it.
    begin: Option<u32>,
    context: usize,
    /// Made when the first answer needs it: it takes a while, and most models never do.
    constrainer: OnceLock<Result<Constrainer, String>>,
}

/// Text, or tokens that somebody has made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt<'a> {
    /// Text, before which the tokens are put that the model wants there.
    Text(&'a str),
    /// Text that has all it needs, such as what a chat template makes.
    Rendered(&'a str),
    /// Tokens as they are.
    Tokens(&'a [u32]),
}

impl TextSide {
    /// The text side of a model with this card in this directory. What lies in the directory comes
    /// before what the card says, but for the ends of an answer, where both count.
    ///
    /// Takes a second for a large vocabulary: not for threads that serve connections.
    ///
    /// # Errors
    /// [`GenerateError::File`] and [`GenerateError::Model`] for what cannot be used, and where there
    /// is no tokenizer at all.
    pub fn open(dir: &Path, card: &GeneratorCard) -> Result<Self, GenerateError> {
        let files = Files::new(dir);
        let wrong = |what, reason| GenerateError::Model { what, reason };
        let carried = card.tokenizer.as_ref();
        let (tokenizer, begin) = match (files.tokenizer()?, carried) {
            (Some(tokenizer), _) => (tokenizer, None),
            (None, Some(json)) => {
                let tokenizer =
                    files::tokenizer(json.as_bytes()).map_err(|r| wrong("the tokenizer", r))?;
                (tokenizer, card.begin)
            }
            (None, None) => {
                let reason = "there is none: put a `tokenizer.json` beside the weights".to_owned();
                return Err(wrong("the tokenizer", reason));
            }
        };
        let vocabulary = Vocabulary::of(&tokenizer).map_err(|r| wrong("the tokenizer", r))?;
        let defaults = files.defaults()?;
        let config = files.tokenizer_config()?;
        let special = special(config.as_ref().map(|(_, config)| config), card, &vocabulary);
        let mut ends = card.ends.clone();
        ends.extend(defaults.ends());
        let named = special.get("eos_token").and_then(Json::as_str);
        ends.extend(named.and_then(|word| tokenizer.token_to_id(word)));
        ends.sort_unstable();
        ends.dedup();
        let template = template(&files, config, card)?;
        Ok(Self {
            tools: template.as_ref().and_then(|template| ToolFormat::of(template.text())),
            tokenizer,
            vocabulary,
            template,
            special,
            defaults,
            ends,
            begin,
            context: card.context,
            constrainer: OnceLock::new(),
        })
    }

    /// Its chat template, if it has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// How it calls tools, as far as its template shows.
    pub fn tools(&self) -> Option<ToolFormat> {
        self.tools
    }

    /// What templates know its special tokens by.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// How its authors would have it sampled.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// The tokens that end an answer, ascending.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Tokens that one sequence may have, prompt and answer together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many tokens it knows by name; its rows of logits may be wider.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary.len()
    }

    /// The bytes that a token stands for; nothing where there is no such token.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.vocabulary.bytes(token)
    }

    /// Whether a token has a purpose of its own and is no text.
    pub fn is_special(&self, token: u32) -> bool {
        self.vocabulary.is_special(token)
    }

    /// The text of a chat.
    ///
    /// # Errors
    /// [`GenerateError::NoTemplate`], and as [`ChatTemplate::render`].
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, GenerateError> {
        self.template.as_ref().ok_or(GenerateError::NoTemplate)?.render(chat)
    }

    /// The tokens of a prompt: at least one, and fewer than the context has room for.
    ///
    /// # Errors
    /// [`GenerateError::TooLong`] if there is no room, [`GenerateError::Field`] for a token that
    /// the model does not have or an empty prompt.
    pub fn tokens(&self, prompt: Prompt<'_>) -> Result<Vec<u32>, GenerateError> {
        let tokens = self.encode(prompt)?;
        if tokens.is_empty() {
            return Err(GenerateError::field("prompt", "is empty; give at least one character"));
        }
        if tokens.len() >= self.context {
            return Err(GenerateError::TooLong { got: tokens.len(), max: self.context });
        }
        Ok(tokens)
    }

    /// The tokens of a prompt of any length.
    ///
    /// # Errors
    /// [`GenerateError::Field`] for a token that the model does not have,
    /// [`GenerateError::TooLong`] for a text that has no chance of fitting.
    pub fn encode(&self, prompt: Prompt<'_>) -> Result<Vec<u32>, GenerateError> {
        let (text, whole) = match prompt {
            Prompt::Text(text) => (text, false),
            Prompt::Rendered(text) => (text, true),
            Prompt::Tokens(tokens) => {
                let known = self.vocabulary.len();
                if let Some(got) = tokens.iter().find(|token| **token as usize >= known) {
                    let reason = format!("has token {got}; the model has {known}, from 0");
                    return Err(GenerateError::field("prompt", reason));
                }
                return Ok(tokens.to_vec());
            }
        };
        // No token is longer than this in any use, so the text is not taken apart for nothing.
        const TOKEN_BYTES: usize = 256;
        if text.len() / TOKEN_BYTES > self.context {
            return Err(GenerateError::TooLong {
                got: text.len() / TOKEN_BYTES,
                max: self.context,
            });
        }
        let encoding = self.tokenizer.encode_fast(text, !whole);
        let encoding = encoding.map_err(|error| GenerateError::Tokenizer(error.to_string()))?;
        let ids = encoding.get_ids();
        let begin = self.begin.filter(|begin| !whole && ids.first() != Some(begin));
        Ok(begin.into_iter().chain(ids.iter().copied()).collect())
    }

    /// The text that tokens stand for, special ones left out unless they are asked for.
    pub fn decode(&self, tokens: &[u32], special: bool) -> String {
        let shown = tokens.iter().filter(|token| special || !self.is_special(**token));
        let bytes: Vec<u8> = shown.flat_map(|token| self.bytes(*token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Begins an answer of this form; `field` is where the request asks for it.
    ///
    /// Takes some milliseconds, and the first of a model up to a second: not for threads that serve
    /// connections.
    ///
    /// # Errors
    /// [`GenerateError::Field`] with what is wrong with the grammar, [`GenerateError::Model`] if the
    /// vocabulary does not do.
    pub fn constraint(&self, field: &str, grammar: &Grammar) -> Result<Constraint, GenerateError> {
        let make = || Constrainer::new(self.tokenizer.clone(), &self.vocabulary, &self.ends);
        match self.constrainer.get_or_init(make) {
            Ok(constrainer) => constrainer.begin(field, grammar),
            Err(reason) => {
                Err(GenerateError::Model { what: "the tokenizer", reason: reason.clone() })
            }
        }
    }
}

/// The special tokens by the names that templates have for them.
fn special(
    config: Option<&serde_json::Map<String, Json>>,
    card: &GeneratorCard,
    vocabulary: &Vocabulary,
) -> SpecialTokens {
    let mut special = SpecialTokens::new();
    let word = |token: u32| String::from_utf8_lossy(vocabulary.bytes(token)).into_owned();
    if let Some(begin) = card.begin {
        special.insert("bos_token".to_owned(), word(begin).into());
    }
    if let Some(end) = card.ends.first() {
        special.insert("eos_token".to_owned(), word(*end).into());
    }
    for (name, value) in config.into_iter().flatten().filter(|(name, _)| name.ends_with("_token")) {
        match value {
            Json::String(_) => special.insert(name.clone(), value.clone()),
            // An added token, written out.
            Json::Object(token) => match token.get("content") {
                Some(content) => special.insert(name.clone(), content.clone()),
                None => None,
            },
            _ => None,
        };
    }
    special
}

fn template(
    files: &Files<'_>,
    config: Option<Found>,
    card: &GeneratorCard,
) -> Result<Option<ChatTemplate>, GenerateError> {
    let in_config = || {
        let (path, mut config) = config?;
        Some((path, config.remove("chat_template").filter(|template| !template.is_null())?))
    };
    if let Some((path, template)) = files.template()?.or_else(in_config) {
        let read = ChatTemplate::of_config(&template);
        return read
            .map(Some)
            .map_err(|error| GenerateError::File { path, reason: error.to_string() });
    }
    let carried = card.chat_template.as_deref().map(ChatTemplate::new).transpose();
    carried.map_err(|error| GenerateError::Model {
        what: "the chat template",
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing;

    fn card() -> GeneratorCard {
        GeneratorCard { context: 64, ..testing::card() }
    }

    #[test]
    fn a_directory_says_how_its_model_is_spoken_to() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let tokenizer = testing::sentences();
        write("tokenizer.json", &tokenizer.to_string(false).unwrap());
        write(
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null,
                "chat_template": "{{ bos_token }}{{ messages[0].content }}"}"#,
        );
        write(
            "generation_config.json",
            r#"{"temperature": 0.6, "top_p": 0.9, "eos_token_id": [3, 9], "do_sample": true}"#,
        );
        let card = GeneratorCard { ends: vec![7, 3], ..card() };
        let side = TextSide::open(dir.path(), &card).unwrap();
        let end = tokenizer.token_to_id("</s>").unwrap();
        assert_eq!(side.ends(), [3, 7, 9, end]);
        assert_eq!(side.defaults().temperature, Some(0.6));
        let begin = tokenizer.token_to_id("<s>").unwrap();
        let text = side.tokens(Prompt::Text("hello world")).unwrap();
        assert_eq!(text[0], begin, "as the tokenizer has it");
        assert_eq!(side.tokens(Prompt::Rendered("<s>hello world")).unwrap()[0], begin);
        assert_eq!(side.decode(&text, false), " hello world");
        assert_eq!(side.decode(&text, true), "<s> hello world");
        assert_eq!(side.template().unwrap().text(), "{{ bos_token }}{{ messages[0].content }}");
        write("chat_template.jinja", "newer");
        let side = TextSide::open(dir.path(), &card).unwrap();
        assert_eq!(side.template().unwrap().text(), "newer");
    }

    #[test]
    fn a_model_file_may_carry_it_all() {
        let dir = tempfile::tempdir().unwrap();
        let side = testing::side();
        assert_eq!(side.ends(), testing::card().ends);
        let text = side.tokens(Prompt::Text("hello")).unwrap();
        assert_eq!(text[0], testing::card().begin.unwrap());
        assert_eq!(side.decode(&text, false), "hello");
        let none = GeneratorCard { tokenizer: None, ..card() };
        let error = TextSide::open(dir.path(), &none).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
        let broken = GeneratorCard { chat_template: Some("{% if".into()), ..card() };
        assert!(TextSide::open(dir.path(), &broken).unwrap_err().to_string().contains("template"));
    }

    #[test]
    fn prompts_have_bounds() {
        let side = TextSide::open(Path::new("/nonexistent"), &card()).unwrap();
        #[rustfmt::skip]
        let cases = [
            (Prompt::Tokens(&[99_999]), "99999"),
            (Prompt::Tokens(&[]),       "empty"),
            (Prompt::Rendered(""),      "empty"),
            (Prompt::Tokens(&[5; 64]),  "64 tokens"),
            (Prompt::Rendered(&"x".repeat(63 + 1)), "64 tokens"),
            (Prompt::Text(&"x".repeat(1 << 20)), "context is 64"),
        ];
        for (prompt, want) in cases {
            let got = side.tokens(prompt).unwrap_err().to_string();
            assert!(got.contains(want), "{got}");
        }
        assert_eq!(side.tokens(Prompt::Tokens(&[5; 63])).unwrap().len(), 63);
    }
}
