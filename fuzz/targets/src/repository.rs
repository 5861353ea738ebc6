//! Names and paths that lead into a repository, and load calls, which carry both.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use bytes::Bytes;
use mizzen_serving_core::config::read_json;

use crate::{bounded::bounded, config::round_trip};

/// A load call's body.
pub(crate) fn load(data: &[u8]) -> bool {
    let read = bounded(data.len(), || mizzen_serving_http::fuzzing::load(data));
    let Ok(overrides) = read else { return false };
    if let Some(json) = &overrides.config
        && let Ok(parsed) = bounded(json.len(), || read_json("parameter `config`", json))
    {
        round_trip(&parsed.config);
    }
    files(&overrides.files)
}

/// A model's name, and a file's path on each of the lines after it.
pub(crate) fn path(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let name = lines.next().unwrap_or_default();
    let root = Path::new("/repository");
    if let Ok(path) = mizzen_serving_host::fuzzing::model_path(root, name) {
        below(&path, root, 1);
    }
    let named = lines.enumerate().map(|(at, name)| (name.to_owned(), Bytes::from(at.to_string())));
    files(&named.collect())
}

/// The path of a REST call.
pub(crate) fn route(data: &[u8]) -> bool {
    let Ok(path) = std::str::from_utf8(data) else { return false };
    let found = bounded(data.len(), || mizzen_serving_http::fuzzing::route(path));
    let Ok(found) = found else { return false };
    let Some((name, version)) = found else { return true };
    assert!(!name.is_empty(), "a call without a model's name");
    assert!(version.is_none_or(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit())));
    let root = Path::new("/repository");
    if let Ok(path) = mizzen_serving_host::fuzzing::model_path(root, &name) {
        below(&path, root, 1);
    }
    true
}

/// Files that are taken are all there, each below a version of their own directory, with its bytes.
fn files(files: &BTreeMap<String, Bytes>) -> bool {
    let Ok(written) = mizzen_serving_host::fuzzing::written(files) else { return false };
    for (path, bytes) in &written {
        let root = Path::new("/root");
        below(&root.join(path), root, 2);
        let sent = files.iter().find(|(name, _)| Path::new(name) == path);
        let (_, sent) = sent.unwrap_or_else(|| panic!("nobody sent {path:?}"));
        assert_eq!(sent, bytes, "{path:?}");
    }
    assert_eq!(written.len(), files.len(), "a file was lost");
    true
}

/// A path stays below `root`, at least so many names deep, and climbs nowhere.
fn below(path: &Path, root: &Path, depth: usize) {
    let rest = path.strip_prefix(root).unwrap_or_else(|_| panic!("{path:?} is outside {root:?}"));
    assert!(rest.components().all(|c| matches!(c, Component::Normal(_))), "{path:?} climbs");
    assert!(rest.components().count() >= depth, "{path:?} is not deep enough");
}
