//! Which files a model's weights are in, and their bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use mizzen_runtime_api::{ModelSource, RuntimeError};
use serde::Deserialize;

pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// Names the files of a model whose weights are in several.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
const CONFIG_FILE: &str = "config.json";
/// A configuration is a few lines, an index a line a tensor; what is larger is some other file.
const JSON_BYTES_MAX: u64 = 16 << 20;

const GENERATION_FILE: &str = "generation_config.json";
/// Says that a directory is of a model for embeddings.
const MODULES_FILE: &str = "modules.json";
/// What a file of weights and all else in one ends with.
const GGUF: &str = ".gguf";
pub(crate) const GGUF_FILE: &str = "model.gguf";

/// The only GGUF file of a directory, or the one of them that has our name.
pub(crate) fn gguf(dir: &Path) -> Option<String> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut files: Vec<_> =
        names.filter(|name| name.ends_with(GGUF) && dir.join(name).is_file()).collect();
    match &files[..] {
        [_] => files.pop(),
        _ => files.into_iter().find(|name| name == GGUF_FILE),
    }
}

/// The GGUF file that a model is in, if it is in one.
pub(crate) fn gguf_path(source: &ModelSource) -> Result<Option<PathBuf>, RuntimeError> {
    match &source.file {
        Some(file) if file.ends_with(GGUF) => source.file_path(GGUF_FILE).map(Some),
        Some(_) => Ok(None),
        None if has_safetensors(&source.dir) => Ok(None),
        None => Ok(gguf(&source.dir).map(|file| source.dir.join(file))),
    }
}

/// Whether a directory has weights as Hugging Face names them.
pub(crate) fn has_safetensors(dir: &Path) -> bool {
    [WEIGHTS_FILE, INDEX_FILE].iter().any(|file| dir.join(file).is_file())
}

/// Whether a directory says that its model is for embeddings.
pub(crate) fn embeds(source: &ModelSource) -> bool {
    source.dir.join(MODULES_FILE).is_file()
}

/// The text of `generation_config.json`, where there is one.
pub(crate) fn generation_config(source: &ModelSource) -> Result<Option<String>, RuntimeError> {
    let path = source.dir.join(GENERATION_FILE);
    if path.is_file() { text(source, &path).map(Some) } else { Ok(None) }
}

/// The text of `config.json`.
pub(crate) fn config(source: &ModelSource) -> Result<String, RuntimeError> {
    text(source, &source.dir.join(CONFIG_FILE))
}

/// Every file of weights, and the one to name when they do not fit together.
pub(crate) fn weights(source: &ModelSource) -> Result<(PathBuf, Vec<PathBuf>), RuntimeError> {
    let several = source.dir.join(INDEX_FILE);
    let path = match source.file_path(WEIGHTS_FILE) {
        Err(_) if source.file.is_none() && several.is_file() => several,
        found => found?,
    };
    if !path.to_string_lossy().ends_with(".index.json") {
        return Ok((path.clone(), vec![path]));
    }
    let index = text(source, &path)?;
    let shards = shards(&index).map_err(|reason| source.failed(&path, reason))?;
    let shards = shards.iter().map(|file| source.dir.join(file)).collect();
    Ok((path, shards))
}

fn text(source: &ModelSource, path: &Path) -> Result<String, RuntimeError> {
    let failed = |reason: String| source.failed(path, reason);
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > JSON_BYTES_MAX {
        return Err(failed(format!("it has {size} bytes; at most {JSON_BYTES_MAX} are read")));
    }
    std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}

/// The files an index names, each once.
fn shards(index: &str) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_str(index).map_err(|error| error.to_string())?;
    let files: BTreeSet<_> = weight_map.into_values().collect();
    for file in &files {
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(format!("`weight_map` names `{file}`; files must lie beside the index"));
        }
    }
    if files.is_empty() {
        return Err("`weight_map` names no file".to_owned());
    }
    Ok(files)
}
