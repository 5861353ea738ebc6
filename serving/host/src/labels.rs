//! Files of labels: `label_filename` of an output, in the model's directory.

use std::{
    fs,
    path::{Component, Path},
};

use mizzen_serving_core::{classification::Labels, config::ModelConfig};
use mizzen_types::ErrorCode;

use crate::ServeError;

/// Bytes a file of labels may have: a million classes of a word each. It is read into memory as it is.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The labels that a configuration names.
///
/// # Errors
/// A file that is not there, is not text, is too large or lies outside the model's directory.
pub(crate) fn labels(dir: &Path, config: &ModelConfig) -> Result<Labels, ServeError> {
    let mut labels = Labels::default();
    for output in config.outputs.iter().filter(|o| !o.label_filename.is_empty()) {
        let text = read(dir, Path::new(&output.label_filename)).map_err(|reason| {
            let message = format!(
                "field `output[].label_filename` of `{}`: `{}` {reason}",
                output.name, output.label_filename
            );
            ServeError::new(ErrorCode::InvalidArgument, message)
        })?;
        labels.insert(&output.name, &text);
    }
    Ok(labels)
}

fn read(dir: &Path, file: &Path) -> Result<String, String> {
    if !file.components().all(|c| matches!(c, Component::Normal(_))) {
        return Err("must be a file in the model's directory, by its relative path".into());
    }
    let path = dir.join(file);
    let cannot = |e: std::io::Error| format!("cannot be read: {e}");
    let bytes = fs::metadata(&path).map_err(cannot)?.len();
    if bytes > BYTES_MAX {
        return Err(format!("has {bytes} bytes; labels may have {BYTES_MAX}"));
    }
    fs::read_to_string(&path).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_from_the_models_directory_alone() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        fs::write(model.join("labels.txt"), "a\nb\n").unwrap();
        fs::write(model.join("bytes"), [0xff, 0xfe]).unwrap();
        assert_eq!(read(&model, Path::new("labels.txt")).unwrap(), "a\nb\n");
        for (shows, file, word) in [
            ("a way out", "../secret", "directory"),
            ("an absolute path", "/etc/hostname", "directory"),
            ("nothing there", "absent", "cannot be read"),
            ("no text", "bytes", "UTF-8"),
        ] {
            let reason = read(&model, Path::new(file)).unwrap_err();
            assert!(reason.contains(word), "{shows}: {reason}");
        }
    }
}
