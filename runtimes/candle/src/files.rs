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

/// The text of `config.json`.
pub(crate) fn config(source: &ModelSource) -> Result<String, RuntimeError> {
    text(source, &source.dir.join(CONFIG_FILE))
}

/// The bytes of every file of weights, and the file to name when they do not fit together.
pub(crate) fn weights(source: &ModelSource) -> Result<(PathBuf, Vec<Vec<u8>>), RuntimeError> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| source.failed(path, error));
    let several = source.dir.join(INDEX_FILE);
    let path = match source.file_path(WEIGHTS_FILE) {
        Err(_) if source.file.is_none() && several.is_file() => several,
        found => found?,
    };
    if !path.to_string_lossy().ends_with(".index.json") {
        let bytes = read(&path)?;
        return Ok((path, vec![bytes]));
    }
    let index = text(source, &path)?;
    let shards = shards(&index).map_err(|reason| source.failed(&path, reason))?;
    let shards = shards.iter().map(|file| read(&source.dir.join(file)));
    Ok((path.clone(), shards.collect::<Result<_, _>>()?))
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
