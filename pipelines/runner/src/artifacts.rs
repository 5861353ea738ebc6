//! What lies in a task's directory: outputs read, data put in place, content hashed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use mizzen_pipeline_engine::{TaskError, Values, collect, local_path, output_file, parameter_file};
use mizzen_pipeline_spec::Component;
use sha2::{Digest, Sha256};

use crate::name::hex;

/// Bytes of an output file or parameter that are read: values belong in artifacts long before.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Makes the places that a step expects to exist. What is there already stays: the step may have
/// run before a restart.
pub(crate) fn prepare(component: &Component, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let parameters = component.outputs.parameters.keys();
    let files = parameters.map(|name| parameter_file(&directory.to_string_lossy(), name));
    let places: BTreeSet<_> = files.filter_map(|f| Some(Path::new(&f).parent()?.into())).collect();
    places.iter().try_for_each(|place: &PathBuf| fs::create_dir_all(place))
}

/// Reads what a step gave, puts data it wrote elsewhere in its place, and hashes its artifacts.
pub(crate) fn outputs(component: &Component, directory: &Path) -> Result<Values, TaskError> {
    let directory = directory.to_string_lossy();
    let written = text(Path::new(&output_file(&directory))).map_err(TaskError::new)?;
    let parameter =
        |name: &str| text(Path::new(&parameter_file(&directory, name))).map_err(TaskError::new);
    let mut collected = collect(component, &directory, written.as_deref(), parameter)?;
    for (from, uri) in &collected.copies {
        put(Path::new(from), Path::new(&local_path(uri)))
            .map_err(|e| TaskError::new(format!("cannot copy `{from}` to `{uri}`: {e}")))?;
    }
    add_digests(&mut collected.outputs)
        .map_err(|e| TaskError::new(format!("cannot read the step's artifacts: {e}")))?;
    Ok(collected.outputs)
}

/// Hashes every artifact whose data is at hand.
pub(crate) fn add_digests(values: &mut Values) -> io::Result<()> {
    for artifact in values.artifacts.values_mut().flatten() {
        artifact.digest = match local(&artifact.uri) {
            Some(path) => digest(&path)?,
            None => None,
        };
    }
    Ok(())
}

/// Whether all local artifacts are still where they were.
pub(crate) fn exist(values: &Values) -> bool {
    values.artifacts.values().flatten().all(|artifact| {
        // An artifact that was hashed had data; one that never had any is no worse than before.
        artifact.digest.is_none() || local(&artifact.uri).is_none_or(|path| path.exists())
    })
}

/// The local path of a URI; none for a remote one.
pub(crate) fn local(uri: &str) -> Option<PathBuf> {
    match uri.strip_prefix("file://") {
        Some(path) => Some(PathBuf::from(path)),
        None => uri.starts_with('/').then(|| PathBuf::from(uri)),
    }
}

/// SHA-256 over a file's bytes, or over a directory's sorted entries and their digests; none where
/// there is nothing.
pub(crate) fn digest(path: &Path) -> io::Result<Option<String>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut hash = Sha256::new();
    if metadata.is_dir() {
        for entry in entries(path)? {
            // Of a link inside a directory the target's name counts, so that circles end.
            let inside = match fs::symlink_metadata(&entry)?.is_symlink() {
                true => Some(fs::read_link(&entry)?.to_string_lossy().into_owned()),
                false => digest(&entry)?,
            };
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            hash.update(format!("{name}\0{}\0", inside.unwrap_or_default()));
        }
    } else {
        io::copy(&mut fs::File::open(path)?, &mut HashWriter(&mut hash))?;
    }
    Ok(Some(hex(&hash.finalize())))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries =
        fs::read_dir(directory)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

/// The text of a file, or nothing where there is none.
fn text(path: &Path) -> Result<Option<String>, String> {
    let problem = |e: io::Error| format!("cannot read `{}`: {e}", path.display());
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(problem(e)),
    };
    if length > TEXT_BYTES_MAX {
        return Err(format!(
            "`{}` has {length} bytes, and output values may have {TEXT_BYTES_MAX}; write an artifact instead",
            path.display()
        ));
    }
    fs::read_to_string(path).map(Some).map_err(problem)
}

fn put(from: &Path, to: &Path) -> io::Result<()> {
    if from == to {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::metadata(from)?.is_dir() {
        fs::create_dir_all(to)?;
        for entry in entries(from)? {
            put(&entry, &to.join(entry.file_name().unwrap_or_default()))?;
        }
        return Ok(());
    }
    fs::copy(from, to).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_follow_content_and_names_inside_not_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, file: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(file), text).unwrap();
            digest(&path).unwrap()
        };
        let first = make("a", "x", "1");
        assert_eq!(make("b", "x", "1"), first, "the same content elsewhere");
        assert_ne!(make("c", "x", "2"), first, "other content");
        assert_ne!(make("d", "y", "1"), first, "another name inside");
        assert_eq!(digest(&dir.path().join("gone")).unwrap(), None);
        std::os::unix::fs::symlink(".", dir.path().join("a/loop")).unwrap();
        assert_ne!(digest(&dir.path().join("a")).unwrap(), first, "a circle ends");
    }
}
