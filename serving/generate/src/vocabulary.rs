//! What each token stands for, as bytes.

use std::collections::HashMap;

use tokenizers::{DecoderWrapper, Tokenizer};

/// A token's bytes at most, where constraints look at it: what their tree of tokens can hold.
pub(crate) const BYTES_MAX: usize = 1000;
/// Tokens at most: ids fit 24 bits there, and no model has a tenth of it.
const TOKENS_MAX: usize = 4 << 20;

/// The bytes of every token. Those of an answer, one after the other, are its text in UTF-8.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    /// Where each token's bytes end; they begin where those of the one before end.
    ends: Vec<u32>,
    /// One bit each: tokens that the model has for a purpose of its own.
    special: Vec<bool>,
    /// Whether a text's tokens are those of its parts: so tokens can be forced upon a model as
    /// it would have written them itself.
    pub(crate) byte_level: bool,
}

/// How a vocabulary writes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// Each byte is a character of its own (GPT-2 and after).
    Bytes,
    /// Text, with `space` for a space, and `<0x0A>` for bytes that are no token (SentencePiece).
    Fallback { space: char },
}

impl Vocabulary {
    /// The vocabulary of a tokenizer; the reason where its decoder is not one that models which
    /// generate have.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Result<Self, String> {
        let writes = writes(tokenizer.get_decoder())?;
        let added = tokenizer.get_added_tokens_decoder();
        let mut words = tokenizer.get_vocab(true).into_iter().collect::<Vec<_>>();
        words.sort_unstable_by_key(|(_, id)| *id);
        let count = words.last().map_or(0, |(_, id)| *id as usize + 1);
        if count > TOKENS_MAX {
            return Err(format!("it has {count} tokens; expected at most {TOKENS_MAX}"));
        }
        let table = letters();
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(count));
        let mut special = vec![false; count];
        for (word, id) in words {
            // What has no token of its own is empty.
            ends.resize(id as usize, bytes.len() as u32);
            match added.get(&id) {
                Some(token) => {
                    special[id as usize] = token.special;
                    bytes.extend_from_slice(token.content.as_bytes());
                }
                None => written(&word, writes, &table, &mut bytes),
            }
            if u32::try_from(bytes.len()).is_err() {
                return Err("its tokens have more than 4 GiB".to_owned());
            }
            ends.push(bytes.len() as u32);
        }
        Ok(Self { bytes, ends, special, byte_level: writes == Writes::Bytes })
    }

    /// How many tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What a token stands for; nothing where there is no such token.
    pub(crate) fn bytes(&self, token: u32) -> &[u8] {
        let at = token as usize;
        let Some(end) = self.ends.get(at) else { return &[] };
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..*end as usize]
    }

    /// Whether the model has a token for a purpose of its own.
    pub(crate) fn is_special(&self, token: u32) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }
}

fn writes(decoder: Option<&DecoderWrapper>) -> Result<Writes, String> {
    let mut all = Vec::new();
    flatten(decoder, &mut all);
    let mut space = None;
    let mut fallback = false;
    for decoder in &all {
        match decoder {
            DecoderWrapper::ByteLevel(_) => return Ok(Writes::Bytes),
            DecoderWrapper::ByteFallback(_) => fallback = true,
            DecoderWrapper::Metaspace(metaspace) => space = Some(metaspace.get_replacement()),
            DecoderWrapper::Replace(replace) if replace.content == " " => {
                // The pattern is nobody's to see but JSON's.
                let pattern = serde_json::to_value(replace).unwrap_or_default();
                let pattern = pattern["pattern"]["String"].as_str().map(str::chars);
                space = pattern.and_then(|mut chars| chars.next()).or(space);
            }
            _ => {}
        }
    }
    if fallback || space.is_some() {
        return Ok(Writes::Fallback { space: space.unwrap_or('▁') });
    }
    Err("its decoder is neither `ByteLevel`, `ByteFallback` nor `Metaspace`, as those of models \
         that generate are"
        .to_owned())
}

fn flatten<'a>(decoder: Option<&'a DecoderWrapper>, into: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        Some(DecoderWrapper::Sequence(sequence)) => {
            sequence.get_decoders().iter().for_each(|decoder| flatten(Some(decoder), into));
        }
        Some(decoder) => into.push(decoder),
        None => {}
    }
}

fn written(word: &str, writes: Writes, table: &HashMap<char, u8>, into: &mut Vec<u8>) {
    match writes {
        Writes::Bytes => match word.chars().map(|c| table.get(&c).copied()).collect() {
            Some::<Vec<u8>>(bytes) => into.extend(bytes),
            None => into.extend_from_slice(word.as_bytes()),
        },
        Writes::Fallback { space } => {
            let hex = word.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            match hex.filter(|hex| hex.len() == 2).map(|hex| u8::from_str_radix(hex, 16)) {
                Some(Ok(byte)) => into.push(byte),
                _ => into.extend_from_slice(word.replace(space, " ").as_bytes()),
            }
        }
    }
}

/// The characters that stand for bytes in byte-level vocabularies: a byte that can be seen for
/// itself, the others in order from U+0100.
fn letters() -> HashMap<char, u8> {
    let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    let letter = |byte: u8| {
        let code = if seen(byte) {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        (char::from_u32(code).expect("below the surrogates"), byte)
    };
    (0..=255).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn tokens_are_the_bytes_they_stand_for() {
        for tokenizer in [testing::byte_level(), testing::sentences()] {
            let vocabulary = Vocabulary::of(&tokenizer).unwrap();
            for text in ["Hello world", "naïve café, 日本語 🦀\n\ttab", "{\"a\": [1, 2]}"] {
                let tokens = tokenizer.encode(text, false).unwrap();
                let bytes: Vec<u8> =
                    tokens.get_ids().iter().flat_map(|id| vocabulary.bytes(*id)).copied().collect();
                let got = String::from_utf8(bytes).unwrap();
                assert_eq!(got.strip_prefix(' ').unwrap_or(&got), text);
            }
            let end = tokenizer.token_to_id("</s>").unwrap();
            assert!(vocabulary.is_special(end) && !vocabulary.is_special(0));
            assert_eq!(vocabulary.bytes(end), b"</s>");
            assert_eq!(vocabulary.bytes(9999), b"");
        }
    }

    #[test]
    fn a_decoder_of_another_kind_is_refused() {
        let mut tokenizer = testing::byte_level();
        tokenizer.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
        assert!(Vocabulary::of(&tokenizer).unwrap_err().contains("ByteLevel"));
    }
}
