//! Doors into the checks of names and paths for fuzzing; no part of this crate's API.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use mizzen_types::Coded;

use crate::repository;

/// Where a model of this name would be looked for below `root`.
///
/// # Errors
/// What the client would be told.
pub fn model_path(root: &Path, name: &str) -> Result<PathBuf, String> {
    repository::check_name(name).map(|()| root.join(name)).map_err(|e| e.message())
}

/// Writes the files of a load call, and gives what then lies below the directory that is theirs.
/// The directory is gone once this returns.
///
/// # Errors
/// What the client would be told.
pub fn written(files: &BTreeMap<String, Bytes>) -> Result<BTreeMap<PathBuf, Vec<u8>>, String> {
    let dir = repository::write_files(files).map_err(|e| e.message())?;
    let mut found = BTreeMap::new();
    let mut open = vec![dir.path.clone()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).map_err(|e| e.to_string())? {
            let path = entry.map_err(|e| e.to_string())?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let below = path.strip_prefix(&dir.path).map_err(|e| e.to_string())?.to_owned();
                found.insert(below, std::fs::read(&path).map_err(|e| e.to_string())?);
            }
        }
    }
    Ok(found)
}
