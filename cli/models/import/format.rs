//! What a file is, by its bytes: names and extensions are not believed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufReader, Read as _},
    path::Path,
};

use mizzen_types::ErrorCode;

use super::onnx::{self, Scan};
use crate::failure::{Failure, Result};

/// A file that can be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// With the files that its tensors name.
    Onnx(BTreeSet<String>),
    TorchScript,
    Safetensors,
    Gguf,
    /// Python's, with or without compression: reading it runs code.
    Pickle,
    /// XGBoost's own, in JSON or UBJSON.
    Xgboost,
    /// LightGBM's own text.
    Lightgbm,
}

impl Format {
    /// What people call it.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Onnx(_) => "ONNX",
            Self::TorchScript => "TorchScript",
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
            Self::Pickle => "pickle",
            Self::Xgboost => "XGBoost",
            Self::Lightgbm => "LightGBM",
        }
    }
}

/// Formats that are known and not served: where the mark is, the mark, what it is, and the way out.
#[rustfmt::skip]
const FOREIGN: &[(usize, &[u8], &str, &str)] = &[
    (0, b"version https://git-lfs", "a pointer of Git LFS and not the file itself", "fetch the file: `git lfs pull`"),
    (0, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", "a PyTorch checkpoint, weights without the code that uses them", CHECKPOINT),
    (0, b"\x89HDF\r\n\x1a\n", "Keras or other HDF5", "in Keras 3: `model.export(\"model.onnx\", format=\"onnx\")`"),
    (4, b"TFL3", "TensorFlow Lite", "`python -m tf2onnx.convert --tflite FILE --output model.onnx`"),
    (0, b"CBM1", "CatBoost", "`model.save_model(\"model.onnx\", format=\"onnx\")`"),
    (0, b"\x93NUMPY", "an array of NumPy", "import the model that uses it"),
];

const CHECKPOINT: &str = "in PyTorch: `torch.onnx.export(model, inputs, \"model.onnx\")` or \
                          `torch.jit.script(model).save(\"model.pt\")`";

/// How compressed pickles of joblib begin. Other things do, too, so that their names have to agree.
const COMPRESSED: &[&[u8]] = &[
    b"\x1f\x8b",
    b"\x78\x01",
    b"\x78\x5e",
    b"\x78\x9c",
    b"\x78\xda",
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x04\x22\x4d\x18",
];

/// Bytes of a file that are looked at for marks.
const HEAD_BYTES: u64 = 4096;
/// The safetensors format's own bound on its header.
const SAFETENSORS_HEADER_BYTES_MAX: u64 = 100_000_000;

/// What a file is.
///
/// # Errors
/// It cannot be read; it is of another kind, with the way out where there is one.
pub(super) fn of(path: &Path) -> Result<Format> {
    let cannot = |e| Failure::from(e).context(format!("cannot read `{}`", path.display()));
    // Before it is opened: opening a pipe waits for its other end.
    let metadata = fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        let message = format!("`{}` is neither a file nor a directory", path.display());
        return Err(Failure::new(ErrorCode::InvalidArgument, message));
    }
    let mut file = File::open(path).map_err(cannot)?;
    let mut head = Vec::new();
    (&mut file).take(HEAD_BYTES).read_to_end(&mut head).map_err(cannot)?;
    let marked = |at: usize, mark: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(mark));
    if let Some((_, _, what, way_out)) = FOREIGN.iter().find(|(at, mark, ..)| marked(*at, mark)) {
        return Err(foreign(path, what, way_out));
    }
    if marked(0, b"PK\x03\x04") {
        return zip(path, file);
    }
    if marked(0, b"GGUF") {
        return Ok(Format::Gguf);
    }
    if is_safetensors(&head, metadata.len()) {
        return Ok(Format::Safetensors);
    }
    // Protocols 2 to 5; those before have no mark and are twenty years old.
    if head.first() == Some(&0x80) && head.get(1).is_some_and(|protocol| (2..=5).contains(protocol))
    {
        return Ok(Format::Pickle);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let says_pickle = [".joblib", ".pkl", ".pickle"].iter().any(|part| name.contains(part));
    if says_pickle && COMPRESSED.iter().any(|mark| marked(0, mark)) {
        return Ok(Format::Pickle);
    }
    if marked(0, b"tree\nversion=") {
        return Ok(Format::Lightgbm);
    }
    let learner = b"learner";
    if marked(0, b"{") && head.windows(learner.len()).take(64).any(|part| part == learner) {
        return Ok(Format::Xgboost);
    }
    match onnx::scan(path).map_err(cannot)? {
        Scan::Model(external) => Ok(Format::Onnx(external)),
        Scan::CutShort => Err(Failure::new(
            ErrorCode::InvalidArgument,
            format!(
                "`{}` is ONNX, but cut short: it ends after {} bytes, in the middle of the model; copy it again",
                path.display(),
                metadata.len()
            ),
        )),
        Scan::Other => Err(unknown(path, &head)),
    }
}

fn unknown(path: &Path, head: &[u8]) -> Failure {
    let start: String =
        head.iter().take(8).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    let got = if head.is_empty() {
        "an empty file".to_owned()
    } else {
        format!("a file that starts with `{start}`")
    };
    Failure::new(
        ErrorCode::InvalidArgument,
        format!(
            "`{}`: expected ONNX, TorchScript, safetensors, GGUF, a pickle of scikit-learn, XGBoost or LightGBM, \
             a model file of XGBoost or LightGBM, a Hugging Face directory or an MLflow model, got {got}",
            path.display()
        ),
    )
}

/// The failure of one that is known and not served.
pub(super) fn foreign(path: &Path, what: &str, way_out: &str) -> Failure {
    let message = format!("`{}` is {what}, which no engine here reads; {way_out}", path.display());
    Failure::new(ErrorCode::Unsupported, message)
}

/// Eight bytes of length, then that much JSON.
fn is_safetensors(head: &[u8], len: u64) -> bool {
    let Some((size, json)) = head.split_first_chunk::<8>() else { return false };
    let size = u64::from_le_bytes(*size);
    (2..=SAFETENSORS_HEADER_BYTES_MAX).contains(&size)
        && size.checked_add(8).is_some_and(|end| end <= len)
        && json.first() == Some(&b'{')
}

/// PyTorch writes several things as zip archives.
fn zip(path: &Path, file: File) -> Result<Format> {
    let archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| {
        let message = format!(
            "`{}` begins as a zip archive (TorchScript is one) and is damaged or cut short: {error}; copy it again",
            path.display()
        );
        Failure::new(ErrorCode::InvalidArgument, message)
    })?;
    let names: Vec<_> = archive.file_names().flatten().collect();
    // All but the first part of the names, which is the archive's own.
    let has = |what: &str| {
        names
            .iter()
            .any(|name| name.split_once('/').is_some_and(|(_, rest)| rest.starts_with(what)))
    };
    let exact = |what: &str| names.iter().any(|name| name == what);
    if has("code/") && (has("data.pkl") || has("constants.pkl")) {
        return Ok(Format::TorchScript);
    }
    let (what, way_out) =
        if has("archive_format") || has("models/") || exact("serialized_exported_program.json") {
            ("an exported program (PT2) of PyTorch", CHECKPOINT)
        } else if has("data.pkl") {
            ("a PyTorch checkpoint, weights without the code that uses them", CHECKPOINT)
        } else if exact("model.weights.h5") {
            ("Keras", "`model.export(\"model.onnx\", format=\"onnx\")`")
        } else {
            ("a zip archive and not TorchScript", "unpack it and import what is inside")
        };
    Err(foreign(path, what, way_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_bytes(name: &str, bytes: &[u8]) -> std::result::Result<Format, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        of(&path).map_err(|failure| failure.to_string())
    }

    #[test]
    fn files_are_told_by_their_bytes() {
        let safetensors = [&8u64.to_le_bytes()[..], b"{      }"].concat();
        #[rustfmt::skip]
        let cases: &[(&str, &[u8], Format)] = &[
            ("a.bin",        b"GGUF\x03\0\0\0",                 Format::Gguf),
            ("a.onnx",       &safetensors,                      Format::Safetensors),
            ("a",            b"\x80\x04\x95",                   Format::Pickle),
            ("a.joblib.gz",  b"\x1f\x8b\x08",                   Format::Pickle),
            ("a",            b"{\"learner\":{}}",               Format::Xgboost),
            ("a",            b"{L\0\0\0\0\0\0\0\x07learner{",   Format::Xgboost),
            ("a",            b"tree\nversion=v4\n",             Format::Lightgbm),
        ];
        for (name, bytes, want) in cases {
            assert_eq!(of_bytes(name, bytes).as_ref(), Ok(want), "{name}: {bytes:?}");
        }
    }

    #[test]
    fn what_is_refused_says_what_it_is_and_the_way_out() {
        let short = [&9u64.to_le_bytes()[..], b"{      }"].concat();
        #[rustfmt::skip]
        let cases: &[(&[u8], &str)] = &[
            (b"",                                   "got an empty file"),
            (b"hello\n",                            "starts with `hello\\n`"),
            (b"version https://git-lfs.github.com", "git lfs pull"),
            (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "torch.onnx.export"),
            (b"\x89HDF\r\n\x1a\n",                  "Keras"),
            (b"\x1c\0\0\0TFL3",                     "tf2onnx"),
            (b"PK\x03\x04",                         "damaged"),
            (b"\x1f\x8b\x08",                       "expected ONNX"),
            (&short,                                "expected ONNX"),
        ];
        for (bytes, words) in cases {
            let message = of_bytes("model", bytes).unwrap_err();
            assert!(message.contains(words), "{bytes:?}: {message}");
        }
    }
}
