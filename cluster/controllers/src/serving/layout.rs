//! A model directory as the model server wants it, out of whatever a `storageUri` points to.
//!
//! A layout holds links, never copies: models are large. It is complete before it gets its name,
//! so a reader sees the old model or the new one and nothing in between.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// What a `storageUri` can point to.
#[derive(Debug, PartialEq, Eq)]
enum Shape {
    /// A Triton model directory: `config.pbtxt`, or numbered version directories, or both.
    Versioned,
    /// A directory that holds the model itself.
    Bare,
    /// The model's one file.
    File,
}

/// The path of a `file://` URI or a plain absolute path.
pub(super) fn local_path(uri: &str) -> Option<PathBuf> {
    let path = match uri.split_once("://") {
        Some(("file", path)) => path,
        Some(_) => return None,
        None => uri,
    };
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// Lays `source` out as `<root>/<name>` and returns that path. An earlier layout of the name is
/// replaced in one step. `config` is the model's configuration where it brings none of its own.
///
/// # Errors
/// `NotFound` if there is nothing at `source`; else what the file system refused.
pub(super) fn lay_out(
    root: &Path,
    name: &str,
    revision: &str,
    source: &Path,
    config: Option<&str>,
) -> io::Result<PathBuf> {
    let shape = shape(source)?;
    let hidden = root.join(".layouts");
    let target = hidden.join(format!("{name}@{revision}"));
    if target.exists() {
        fs::remove_dir_all(&target)?; // left by an attempt that was cut short
    }
    fs::create_dir_all(&target)?;
    match shape {
        Shape::Versioned => {
            for entry in fs::read_dir(source)? {
                let entry = entry?;
                symlink(entry.path(), target.join(entry.file_name()))?;
            }
        }
        Shape::Bare => symlink(source, target.join("1"))?,
        Shape::File => {
            let file = source.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            // The engines look for their default name; keep the extension, which names the engine.
            let extension = Path::new(file).extension().unwrap_or_default();
            fs::create_dir(target.join("1"))?;
            symlink(source, target.join("1").join(Path::new("model").with_extension(extension)))?;
        }
    }
    let configuration = target.join("config.pbtxt");
    if let Some(config) = config.filter(|_| !configuration.exists()) {
        fs::write(&configuration, config)?;
    }
    let link = root.join(name);
    let fresh = hidden.join(format!("{name}@{revision}.link"));
    let _ = fs::remove_file(&fresh);
    symlink(&target, &fresh)?;
    fs::rename(&fresh, &link)?;
    remove_others(&hidden, name, &target)?;
    Ok(link)
}

/// Takes a layout away; what it links to stays.
pub(super) fn remove(root: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(root.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    remove_others(&root.join(".layouts"), name, Path::new(""))
}

fn remove_others(hidden: &Path, name: &str, keep: &Path) -> io::Result<()> {
    let prefix = format!("{name}@");
    let entries = match fs::read_dir(hidden) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        let ours = path.file_name().is_some_and(|f| f.to_string_lossy().starts_with(&prefix));
        if ours && path != keep {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

fn shape(source: &Path) -> io::Result<Shape> {
    if fs::metadata(source)?.is_file() {
        return Ok(Shape::File);
    }
    if source.join("config.pbtxt").is_file() {
        return Ok(Shape::Versioned);
    }
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let numbered = entry.file_name().to_str().is_some_and(|n| n.parse::<u64>().is_ok());
        if numbered && entry.path().is_dir() {
            return Ok(Shape::Versioned);
        }
    }
    Ok(Shape::Bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_source_the_layout_has_versions() {
        let dir = tempfile::tempdir().unwrap();
        let (root, at) = (dir.path().join("root"), |p: &str| dir.path().join(p));
        for file in
            ["file/net.onnx", "bare/model.onnx", "triton/config.pbtxt", "numbers/7/model.onnx"]
        {
            fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            fs::write(at(file), file).unwrap();
        }
        #[rustfmt::skip]
        let cases = [
            // what the case shows                source            found in the layout
            ("a file becomes version 1",          "file/net.onnx",  "1/model.onnx"),
            ("a bare directory is version 1",     "bare",           "1/model.onnx"),
            ("a configuration is kept",           "triton",         "config.pbtxt"),
            ("numbered versions are kept",        "numbers",        "7/model.onnx"),
        ];
        for (i, (shows, source, want)) in cases.into_iter().enumerate() {
            let link = lay_out(&root, "ns-m", &i.to_string(), &at(source), Some("given")).unwrap();
            let config = fs::read_to_string(link.join("config.pbtxt")).unwrap();
            assert_eq!(
                config == "given",
                source != "triton",
                "{shows}: its own configuration wins"
            );
            assert_eq!(link, root.join("ns-m"), "{shows}");
            assert!(link.join(want).is_file(), "{shows}");
            assert_eq!(fs::read_dir(root.join(".layouts")).unwrap().count(), 1, "{shows}");
        }
        assert_eq!(
            lay_out(&root, "x", "1", &at("nope"), None).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        remove(&root, "ns-m").unwrap();
        remove(&root, "ns-m").unwrap();
        assert!(!root.join("ns-m").exists() && at("bare/model.onnx").is_file());
    }

    #[test]
    fn a_uri_is_a_path_only_where_it_is_local() {
        let path = |uri| local_path(uri).map(|p| p.display().to_string());
        assert_eq!(path("file:///a/b").as_deref(), Some("/a/b"));
        assert_eq!(path("/a/b").as_deref(), Some("/a/b"));
        assert_eq!(path("s3://a/b"), None);
        assert_eq!(path("a/b"), None);
    }
}
