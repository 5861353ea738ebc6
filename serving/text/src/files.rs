//! The files of a Hugging Face style directory, as far as text needs them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use tokenizers::Tokenizer;

use crate::{Pooling, TextError};

/// Bytes that a tokenizer may have: the largest vocabularies in use take some twenty MiB.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
/// Bytes that any other file may have; they are some hundred lines at most.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A version directory.
pub(crate) struct Files<'a> {
    dir: &'a Path,
}

/// `config.json`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ModelFile {
    #[serde(default)]
    model_type: String,
    max_position_embeddings: Option<usize>,
    pub(crate) pad_token_id: Option<u32>,
    #[serde(default)]
    id2label: BTreeMap<String, String>,
}

impl ModelFile {
    /// Positions that the model has for tokens.
    pub(crate) fn tokens_max(&self) -> Option<usize> {
        let positions = self.max_position_embeddings?;
        // These count positions from after the padding token's.
        let shifted = matches!(&*self.model_type, "roberta" | "xlm-roberta" | "camembert");
        let before = self.pad_token_id.unwrap_or(1) as usize + 1;
        Some(if shifted { positions.saturating_sub(before) } else { positions })
    }

    /// Names of the classes, by their order; Hugging Face's own where the file has none.
    pub(crate) fn labels(&self, classes: Option<usize>) -> Vec<String> {
        let count = classes.unwrap_or(self.id2label.len());
        let label = |id: usize| {
            let named = self.id2label.get(&id.to_string());
            named.cloned().unwrap_or_else(|| format!("LABEL_{id}"))
        };
        (0..count).map(label).collect()
    }
}

/// `modules.json` and what it points to.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    pooling: Option<(PathBuf, PoolingFile)>,
    pub(crate) normalizes: bool,
    pub(crate) tokens_max: Option<usize>,
}

/// `1_Pooling/config.json`.
#[derive(Debug, Default, Deserialize)]
struct PoolingFile {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
}

impl Modules {
    pub(crate) fn pooling(&self) -> Result<Option<Pooling>, TextError> {
        let Some((path, file)) = &self.pooling else { return Ok(None) };
        let modes = [
            (file.pooling_mode_cls_token, Some(Pooling::Cls)),
            (file.pooling_mode_mean_tokens, Some(Pooling::Mean)),
            (file.pooling_mode_max_tokens, Some(Pooling::Max)),
            (file.pooling_mode_mean_sqrt_len_tokens, Some(Pooling::MeanSqrtLen)),
            (file.pooling_mode_lasttoken, Some(Pooling::LastToken)),
            (file.pooling_mode_weightedmean_tokens, None),
        ];
        let on: Vec<_> = modes.into_iter().filter(|(on, _)| *on).map(|(_, mode)| mode).collect();
        match on[..] {
            [] => Ok(None),
            [Some(mode)] => Ok(Some(mode)),
            _ => Err(TextError::File {
                path: path.clone(),
                reason: "expected one pooling mode, and not `weightedmean`; set \
                         `parameters { key: \"pooling\" }` in config.pbtxt to choose one"
                    .to_owned(),
            }),
        }
    }
}

/// `config_sentence_transformers.json`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Sentences {
    #[serde(default)]
    pub(crate) prompts: BTreeMap<String, String>,
    pub(crate) default_prompt_name: Option<String>,
}

impl<'a> Files<'a> {
    pub(crate) fn new(dir: &'a Path) -> Self {
        Self { dir }
    }

    pub(crate) fn tokenizer(&self) -> Result<Option<Tokenizer>, TextError> {
        let Some((path, bytes)) = self.bytes("tokenizer.json", TOKENIZER_BYTES_MAX)? else {
            return Ok(None);
        };
        let mut tokenizer = Tokenizer::from_bytes(bytes)
            .map_err(|error| wrong(&path, format!("not a tokenizer: {error}")))?;
        // Lengths are dealt with here: what is too long is an error unless it is to be cut.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| wrong(&path, error.to_string()))?;
        Ok(Some(tokenizer))
    }

    pub(crate) fn model(&self) -> Result<ModelFile, TextError> {
        Ok(self.json("config.json")?.map(|(_, file)| file).unwrap_or_default())
    }

    /// What `tokenizer_config.json` says of lengths; absurdly much stands for no bound there.
    pub(crate) fn tokenizer_tokens_max(&self) -> Result<Option<usize>, TextError> {
        #[derive(Deserialize)]
        struct TokenizerFile {
            model_max_length: Option<f64>,
        }
        let file: Option<(_, TokenizerFile)> = self.json("tokenizer_config.json")?;
        let length = file.and_then(|(_, file)| file.model_max_length);
        Ok(length.filter(|length| (1.0..1e9).contains(length)).map(|length| length as usize))
    }

    pub(crate) fn sentences(&self) -> Result<Sentences, TextError> {
        let file = self.json("config_sentence_transformers.json")?;
        Ok(file.map(|(_, file)| file).unwrap_or_default())
    }

    pub(crate) fn modules(&self) -> Result<Modules, TextError> {
        #[derive(Deserialize)]
        struct Module {
            #[serde(default)]
            path: String,
            #[serde(rename = "type")]
            kind: String,
        }
        #[derive(Deserialize)]
        struct Sentence {
            max_seq_length: Option<usize>,
        }
        let sentence: Option<(_, Sentence)> = self.json("sentence_bert_config.json")?;
        let mut modules = Modules {
            tokens_max: sentence.and_then(|(_, file)| file.max_seq_length),
            ..Modules::default()
        };
        let listed: Option<(PathBuf, Vec<Module>)> = self.json("modules.json")?;
        let Some((path, listed)) = listed else {
            modules.pooling = self.json("1_Pooling/config.json")?;
            return Ok(modules);
        };
        for module in listed {
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Normalize" => modules.normalizes = true,
                "Pooling" => {
                    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    if !module.path.chars().all(plain) {
                        let reason = format!("`{}` is not a directory beside it", module.path);
                        return Err(wrong(&path, reason));
                    }
                    modules.pooling = self.json(&format!("{}/config.json", module.path))?;
                }
                kind => {
                    let reason = format!(
                        "module `{kind}` is not offered; there is Transformer, Pooling, Normalize"
                    );
                    return Err(wrong(&path, reason));
                }
            }
        }
        Ok(modules)
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<(PathBuf, T)>, TextError> {
        let Some((path, bytes)) = self.bytes(name, FILE_BYTES_MAX)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(file) => Ok(Some((path, file))),
            Err(error) => Err(wrong(&path, error.to_string())),
        }
    }

    /// A file's bytes; `None` if there is no such file.
    fn bytes(&self, name: &str, most: u64) -> Result<Option<(PathBuf, Vec<u8>)>, TextError> {
        let path = self.dir.join(name);
        let size = match fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(&path, error.to_string())),
        };
        if size > most {
            return Err(wrong(&path, format!("it has {size} bytes; at most {most} are read")));
        }
        let bytes = fs::read(&path).map_err(|error| wrong(&path, error.to_string()))?;
        Ok(Some((path, bytes)))
    }
}

fn wrong(path: &Path, reason: String) -> TextError {
    TextError::File { path: path.to_owned(), reason }
}
