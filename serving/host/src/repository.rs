//! Triton model repositories on disk: `<repository>/<model>/<version>/<file>`.
//!
//! Names that come from a client are checked before they touch a path: none has a separator or
//! climbs. Symbolic links are followed, as those who lay out a repository expect.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use mizzen_serving_core::config::{Parsed, read_json, read_pbtxt};
use mizzen_types::ErrorCode;
use tempfile::TempDir;

use crate::{ModelHost, ServeError};

/// The configuration file of a model.
const CONFIG: &str = "config.pbtxt";

/// How deep a fingerprint looks below a model's directory.
const FINGERPRINT_DEPTH: usize = 4;

/// Where a model's files are.
#[derive(Debug, Clone)]
pub(crate) struct ModelDir {
    pub(crate) path: PathBuf,
    /// Whether the directory's own name is the model's, and a configuration has to agree.
    pub(crate) named: bool,
    /// Files that are to go when the last version that uses them has gone.
    pub(crate) files: Option<Arc<TempDir>>,
}

/// Refuses a model name that is no plain file name.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_name(name: &str) -> Result<(), ServeError> {
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control);
    if plain {
        return Ok(());
    }
    let message =
        format!("`{}` is not a model name; expected a plain directory name", name.escape_debug());
    Err(ServeError::new(ErrorCode::InvalidArgument, message))
}

impl ModelHost {
    /// Refuses what no repository can have a model by: a name is a plain directory name.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn check_name(name: &str) -> Result<(), ServeError> {
        check_name(name)
    }
}

/// Every model directory of the repositories, by name; the first repository that has a name wins.
///
/// # Errors
/// `FailedPrecondition` for a repository that cannot be read.
pub(crate) fn scan(repositories: &[PathBuf]) -> Result<BTreeMap<String, ModelDir>, ServeError> {
    let mut models = BTreeMap::new();
    for repository in repositories {
        let unreadable = |e: io::Error| {
            let message =
                format!("model repository `{}` cannot be read: {e}", repository.display());
            ServeError::new(ErrorCode::FailedPrecondition, message)
        };
        for entry in fs::read_dir(repository).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if check_name(&name).is_ok() && entry.path().is_dir() {
                models.entry(name).or_insert_with(|| ModelDir {
                    path: entry.path(),
                    named: true,
                    files: None,
                });
            }
        }
    }
    Ok(models)
}

/// The directory of one model, if a repository has it.
pub(crate) fn find(repositories: &[PathBuf], name: &str) -> Option<ModelDir> {
    check_name(name).ok()?;
    let paths = repositories.iter().map(|repository| repository.join(name));
    paths.into_iter().find(|p| p.is_dir()).map(|path| ModelDir { path, named: true, files: None })
}

/// A model's version directories. A directory that has none and is not in a repository is itself
/// version 1.
///
/// # Errors
/// `FailedPrecondition` for a directory that cannot be read.
pub(crate) fn versions(dir: &ModelDir) -> Result<BTreeMap<u64, PathBuf>, ServeError> {
    let unreadable = |e: io::Error| {
        let message = format!("`{}` cannot be read: {e}", dir.path.display());
        ServeError::new(ErrorCode::FailedPrecondition, message)
    };
    let mut versions = BTreeMap::new();
    for entry in fs::read_dir(&dir.path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(number) = version_number(&name).filter(|_| entry.path().is_dir()) {
            versions.insert(number, entry.path());
        }
    }
    if versions.is_empty() && !dir.named {
        versions.insert(1, dir.path.clone());
    }
    Ok(versions)
}

/// The version that a directory's name stands for: a number from 1, without leading zeros.
fn version_number(name: &str) -> Option<u64> {
    let number: u64 = name.parse().ok()?;
    (number > 0 && number.to_string() == name).then_some(number)
}

/// A model's configuration: the override if there is one, else the file of this name in `configs`
/// if there is one, else `config.pbtxt`, else nothing.
///
/// # Errors
/// `InvalidArgument` with file, line and field.
pub(crate) fn config(
    dir: &ModelDir,
    json: Option<&str>,
    custom: Option<&str>,
) -> Result<Parsed, ServeError> {
    if let Some(json) = json {
        return read_json("parameter `config`", json).map_err(|e| ServeError::from_coded(&e));
    }
    let custom = custom.map(|name| dir.path.join("configs").join(format!("{name}.pbtxt")));
    let path = custom.filter(|path| path.exists()).unwrap_or_else(|| dir.path.join(CONFIG));
    let name = path.display().to_string();
    match fs::read_to_string(&path) {
        Ok(text) => read_pbtxt(&name, &text).map_err(|e| ServeError::from_coded(&e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Parsed::default()),
        Err(e) => {
            let message = format!("{name}: expected a readable text file, got: {e}");
            Err(ServeError::new(ErrorCode::FailedPrecondition, message))
        }
    }
}

/// Writes the files of a load call, by `<version>/<path>`, to a directory of their own.
///
/// # Errors
/// `InvalidArgument` for a path that is not below a version or leads through another file,
/// `StorageFull` if they cannot be written.
pub(crate) fn write_files(files: &BTreeMap<String, Bytes>) -> Result<ModelDir, ServeError> {
    let failed = |e: io::Error| {
        let message = format!("the files of the load call cannot be written: {e}");
        let code = match e.kind() {
            io::ErrorKind::InvalidFilename => ErrorCode::InvalidArgument, // too long
            _ => ErrorCode::StorageFull,
        };
        ServeError::new(code, message)
    };
    let root = TempDir::with_prefix("mizzen-model-").map_err(failed)?;
    for (name, data) in files {
        let path = checked_path(name)?;
        let above = path.ancestors().skip(1).filter_map(Path::to_str);
        if let Some(file) = above.into_iter().find(|above| files.contains_key(*above)) {
            let message = format!(
                "`{}` cannot be a file of the model, since `{}` is one and no directory",
                name.escape_debug(),
                file.escape_debug()
            );
            return Err(ServeError::new(ErrorCode::InvalidArgument, message));
        }
        let path = root.path().join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::write(&path, data).map_err(failed)?;
    }
    Ok(ModelDir { path: root.path().to_owned(), named: true, files: Some(Arc::new(root)) })
}

fn checked_path(name: &str) -> Result<&Path, ServeError> {
    let path = Path::new(name);
    // Each part is written out, so that no two names are of one file.
    let plain = name.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && path.components().all(|c| matches!(c, Component::Normal(_)));
    let version = name.split('/').next().and_then(version_number);
    if plain && !name.contains(['\\', '\0']) && version.is_some() && path.components().count() > 1 {
        return Ok(path);
    }
    let message = format!(
        "`{}` is not a file of a model; expected `<version>/<path>` without `..`",
        name.escape_debug()
    );
    Err(ServeError::new(ErrorCode::InvalidArgument, message))
}

/// A number that changes when a file of the model does, as far as names, sizes and times tell.
pub(crate) fn fingerprint(dir: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash_dir(dir, FINGERPRINT_DEPTH, &mut hasher);
    hasher.finish()
}

fn hash_dir(dir: &Path, depth: usize, hasher: &mut DefaultHasher) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
        path.hash(hasher);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && depth > 0 {
            hash_dir(&path, depth - 1, hasher);
        } else {
            metadata.len().hash(hasher);
            metadata.modified().ok().hash(hasher);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_types::Coded;

    #[test]
    fn names_that_climb_or_nest_are_refused() {
        for name in ["", ".", "..", "a/b", "../a", "a\\b", "/etc", ".hidden", "a\0b", "a\nb"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "a.b", "модель", "a b", "a-1_2"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn files_are_below_a_version() {
        for name in [
            "1", "1/../2", "../1/x", "/1/x", "x/y", "1/x\\y", "01/x", "0/x", "", "1/./../x",
            "1//x", "1/x/",
        ] {
            assert!(checked_path(name).is_err(), "{name:?}");
        }
        for name in ["1/model.onnx", "12/a/b"] {
            assert!(checked_path(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_file_that_would_be_a_directory_is_the_callers_mistake() {
        let files =
            |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), Bytes::new())).collect();
        let error = write_files(&files(&["1/a", "1/a.b", "1/a/b"])).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.message().contains("`1/a/b`") && error.message().contains("`1/a` is one"));
        let long = format!("1/{}", "x".repeat(300));
        assert_eq!(write_files(&files(&[&long])).unwrap_err().code(), ErrorCode::InvalidArgument);
        assert!(write_files(&files(&["1/a/b", "1/a/c"])).is_ok());
    }
}
