//! What is to be imported: which files, for which engine, and what is known of its signature.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use mizzen_types::ErrorCode;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    config::TensorSpec,
    format::{self, Format, foreign},
    mlflow,
};
use crate::failure::{Failure, Result};

/// A model as it was found.
#[derive(Debug)]
pub(super) struct Source {
    /// What it is, for people.
    pub(super) what: String,
    /// The engine that is to serve it, as `config.pbtxt` names it.
    pub(super) backend: &'static str,
    /// Where the files of the version come from.
    pub(super) files: Files,
    /// Inputs and outputs, where something beside the model says them.
    pub(super) inputs: Vec<TensorSpec>,
    pub(super) outputs: Vec<TensorSpec>,
}

/// Where the files of a version come from.
#[derive(Debug)]
pub(super) enum Files {
    /// Each as it is, by its path below the version's directory.
    Copied(BTreeMap<PathBuf, PathBuf>),
    /// `model.onnx`, made by a converter.
    Converted(Conversion),
}

/// What a converter is to do.
#[derive(Debug)]
pub(super) struct Conversion {
    pub(super) model: PathBuf,
    /// The library whose own format it is; of a pickle its classes tell.
    pub(super) library: Option<&'static str>,
    /// Reading it runs what whoever made it put in.
    pub(super) runs_code: bool,
    /// Names and types of inputs, where something beside the model says them.
    pub(super) columns: Vec<mlflow::Column>,
}

const ONNX: &str = "onnxruntime";
pub(super) const TORCH: &str = "pytorch";
const CANDLE: &str = "candle";

/// Bytes of a file of JSON that is read here.
const JSON_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a file beside the weights that comes along: the largest tokenizers take some twenty MiB.
const COMPANION_BYTES_MAX: u64 = 128 << 20;
/// Files beside the weights that may matter to an engine or a tokenizer.
const COMPANIONS: &[&str] = &["json", "txt", "model", "jinja"];

/// Looks at a path.
///
/// # Errors
/// It is not there, cannot be read, or is nothing that is served; `backend` chooses where a directory
/// holds the model for more than one engine.
pub(super) fn find(path: &Path, backend: Option<&str>) -> Result<Source> {
    let metadata = fs::metadata(path)
        .map_err(|e| Failure::from(e).context(format!("cannot read `{}`", path.display())))?;
    let source = if metadata.is_dir() { directory(path, backend)? } else { file(path)? };
    match backend {
        Some(wanted) if !answers_to(source.backend, wanted) => Err(Failure::new(
            ErrorCode::InvalidArgument,
            format!(
                "--backend {wanted}: `{}` is {}, which `{}` serves",
                path.display(),
                source.what,
                source.backend
            ),
        )),
        _ => Ok(source),
    }
}

fn answers_to(backend: &str, wanted: &str) -> bool {
    match backend {
        ONNX => matches!(wanted, "onnxruntime" | "onnxruntime_onnx" | "onnx"),
        TORCH => matches!(wanted, "pytorch" | "pytorch_libtorch" | "torch"),
        other => other == wanted,
    }
}

impl Source {
    fn copied(
        what: impl Into<String>,
        backend: &'static str,
        files: BTreeMap<PathBuf, PathBuf>,
    ) -> Self {
        let (inputs, outputs) = (Vec::new(), Vec::new());
        Self { what: what.into(), backend, files: Files::Copied(files), inputs, outputs }
    }

    fn one(what: &str, backend: &'static str, name: &str, path: &Path) -> Self {
        Self::copied(what, backend, BTreeMap::from([(name.into(), path.to_owned())]))
    }
}

/// A single file.
pub(super) fn file(path: &Path) -> Result<Source> {
    let kind = format::of(path)?;
    let converted = |library, runs_code| {
        let columns = Vec::new();
        let files =
            Files::Converted(Conversion { model: path.to_owned(), library, runs_code, columns });
        let (inputs, outputs) = (Vec::new(), Vec::new());
        Ok(Source { what: kind.name().to_owned(), backend: ONNX, files, inputs, outputs })
    };
    match &kind {
        Format::Onnx(external) => onnx(path, external, "ONNX"),
        Format::TorchScript => Ok(Source::one("TorchScript", TORCH, "model.pt", path)),
        Format::Gguf => Ok(Source::one("GGUF", CANDLE, "model.gguf", path)),
        Format::Safetensors => match path.parent() {
            Some(dir) if beside(dir).join("config.json").is_file() => {
                hugging_face(beside(dir), Weights::Safetensors(path.to_owned()))
            }
            _ => Err(Failure::new(
                ErrorCode::InvalidArgument,
                format!(
                    "`{}` is safetensors, weights alone: expected a `config.json` beside it that says what they are the weights of \
                     (docs/guides/candle.md lists the architectures)",
                    path.display()
                ),
            )),
        },
        Format::Pickle => converted(None, true),
        Format::Xgboost => converted(Some("xgboost"), false),
        Format::Lightgbm => converted(Some("lightgbm"), false),
    }
}

/// The directory that a file of no directory is in.
fn beside(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

fn onnx(path: &Path, external: &BTreeSet<String>, what: &str) -> Result<Source> {
    let mut files = BTreeMap::from([(PathBuf::from("model.onnx"), path.to_owned())]);
    let dir = beside(path.parent().unwrap_or(Path::new(".")));
    for name in external {
        let wrong = |reason: String| {
            let message = format!(
                "`{}`: its weights are in `{}`, {reason}",
                path.display(),
                name.escape_debug()
            );
            Failure::new(ErrorCode::InvalidArgument, message)
        };
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || name.is_empty() || name.contains('\0') {
            return Err(wrong(
                "which is not a path below the model's directory; save the model again".into(),
            ));
        }
        if Path::new(name) == Path::new("model.onnx") {
            return Err(wrong(
                "which is the name that the model itself gets; save them under another".into(),
            ));
        }
        let from = dir.join(name);
        if !from.is_file() {
            return Err(wrong(format!(
                "and there is no file `{}`; copy it beside the model",
                from.display()
            )));
        }
        files.insert(name.into(), from);
    }
    Ok(Source::copied(what, ONNX, files))
}

/// The weights of a Hugging Face directory.
enum Weights {
    Safetensors(PathBuf),
    Index(PathBuf),
    Onnx(PathBuf, BTreeSet<String>),
}

fn directory(dir: &Path, backend: Option<&str>) -> Result<Source> {
    let has = |name: &str| dir.join(name).is_file();
    if has("MLmodel") {
        return mlflow::find(dir);
    }
    if has("saved_model.pb") {
        let way_out = format!(
            "`python -m tf2onnx.convert --saved-model {} --output model.onnx`",
            dir.display()
        );
        return Err(foreign(dir, "a SavedModel of TensorFlow", &way_out));
    }
    if has("config.pbtxt") {
        let message = format!(
            "`{}` is a model of a repository already; copy it as it is, or serve the directory it is in",
            dir.display()
        );
        return Err(Failure::new(ErrorCode::InvalidArgument, message));
    }
    let mut found = Vec::new();
    let wants = |engine: &str| backend.is_none_or(|wanted| answers_to(engine, wanted));
    // Where optimum and sentence-transformers put it, after where `serve` looks.
    let mut models: Vec<PathBuf> =
        ["model.onnx", "onnx/model.onnx"].map(|name| dir.join(name)).into();
    models.retain(|path| path.is_file());
    if models.is_empty() {
        // One of another name, if there is no doubt which.
        models = with_extension(dir, "onnx")?;
        if models.len() > 1 {
            return Err(several(dir, &models));
        }
    }
    if let Some(path) = models.into_iter().next().filter(|_| wants(ONNX)) {
        match format::of(&path)? {
            Format::Onnx(external) => found.push(Weights::Onnx(path, external)),
            other => return Err(misnamed(&path, other.name())),
        }
    }
    if wants(CANDLE) && has("config.json") {
        if has("model.safetensors") {
            found.push(Weights::Safetensors(dir.join("model.safetensors")));
        } else if has("model.safetensors.index.json") {
            found.push(Weights::Index(dir.join("model.safetensors.index.json")));
        }
    }
    if let Some(weights) = found.into_iter().next() {
        return hugging_face(dir, weights);
    }
    let others = ["gguf", "pt", "safetensors"];
    let single: Vec<_> =
        others.iter().map(|kind| with_extension(dir, kind)).collect::<Result<Vec<_>>>()?.concat();
    match &single[..] {
        [only] => file(only),
        [] => Err(nothing(dir)),
        _ => Err(several(dir, &single)),
    }
}

fn misnamed(path: &Path, what: &str) -> Failure {
    let message = format!(
        "`{}`: expected ONNX, as its name says, got {what}; import that file alone",
        path.display()
    );
    Failure::new(ErrorCode::InvalidArgument, message)
}

fn several(dir: &Path, files: &[PathBuf]) -> Failure {
    let names: Vec<_> = files.iter().map(|f| format!("`{}`", f.display())).collect();
    let message = format!(
        "`{}` has several models: {}; name the one to import",
        dir.display(),
        names.join(", ")
    );
    Failure::new(ErrorCode::InvalidArgument, message)
}

fn nothing(dir: &Path) -> Failure {
    if dir.join("pytorch_model.bin").is_file() {
        return foreign(
            dir,
            "a Hugging Face directory of pickled weights (`pytorch_model.bin`)",
            "save it anew: `model.save_pretrained(DIR, safe_serialization=True)`, or export it: `optimum-cli export onnx`",
        );
    }
    Failure::new(
        ErrorCode::InvalidArgument,
        format!(
            "`{}`: expected a directory with `MLmodel`, with `config.json` and `model.safetensors` (or its index, or \
             `model.onnx`), or with one model file, got none of these",
            dir.display()
        ),
    )
}

fn with_extension(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files: Vec<_> = entries(dir)?
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    files.retain(|path| path.is_file());
    Ok(files)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |e| Failure::from(e).context(format!("cannot read `{}`", dir.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(cannot)? {
        paths.push(entry.map_err(cannot)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Weights with what lies beside them: configuration, tokenizer, labels, the modules of
/// sentence-transformers.
fn hugging_face(dir: &Path, weights: Weights) -> Result<Source> {
    let mut source = match weights {
        Weights::Onnx(path, external) => onnx(&path, &external, "ONNX")?,
        Weights::Safetensors(path) => {
            Source::one("safetensors", CANDLE, "model.safetensors", &path)
        }
        Weights::Index(path) => {
            let mut files =
                BTreeMap::from([(PathBuf::from("model.safetensors.index.json"), path.clone())]);
            for shard in shards(&path)? {
                files.insert(PathBuf::from(&shard), dir.join(&shard));
            }
            Source::copied("safetensors in shards", CANDLE, files)
        }
    };
    let Files::Copied(files) = &mut source.files else { return Ok(source) };
    let before = files.len();
    companions(dir, Path::new(""), files)?;
    for module in entries(dir)?.into_iter().filter(|path| path.join("config.json").is_file()) {
        // `1_Pooling`, `2_Normalize`, as `modules.json` names them.
        let name = module.file_name().unwrap_or_default().to_owned();
        if name.to_string_lossy().starts_with(|c: char| c.is_ascii_digit()) {
            companions(&module, Path::new(&name), files)?;
        }
    }
    if files.len() > before && dir.join("config.json").is_file() {
        source.what = format!("a Hugging Face directory, {}", source.what);
    }
    Ok(source)
}

fn companions(dir: &Path, below: &Path, files: &mut BTreeMap<PathBuf, PathBuf>) -> Result<()> {
    for path in entries(dir)? {
        let Some(name) = path.file_name() else { continue };
        let known = path.extension().is_some_and(|e| COMPANIONS.iter().any(|known| e == *known));
        let hidden = name.to_string_lossy().starts_with('.');
        let small =
            fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= COMPANION_BYTES_MAX);
        // An index names weights of an engine that may not be the one.
        if known && !hidden && small && !name.to_string_lossy().ends_with(".index.json") {
            files.entry(below.join(name)).or_insert(path);
        }
    }
    Ok(())
}

/// The files that an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = json(index)?;
    let files: BTreeSet<_> = weight_map.into_values().collect();
    for file in &files {
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        let there = index.with_file_name(file).is_file();
        if !plain || !there {
            let (index, file) = (index.display(), file.escape_debug());
            let reason = if plain {
                "which is not there; download it, too"
            } else {
                "which is not a file beside it"
            };
            return Err(Failure::new(
                ErrorCode::InvalidArgument,
                format!("`{index}` names `{file}`, {reason}"),
            ));
        }
    }
    Ok(files)
}

/// A file of JSON, of a size that is sane.
fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&bytes(path, JSON_BYTES_MAX)?).map_err(|error| {
        Failure::new(ErrorCode::InvalidArgument, format!("`{}`: {error}", path.display()))
    })
}

/// A file's bytes, if they are no more than these.
pub(super) fn bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let cannot = |e| Failure::from(e).context(format!("cannot read `{}`", path.display()));
    let size = fs::metadata(path).map_err(cannot)?.len();
    if size > most {
        let message = format!("`{}` has {size} bytes; at most {most} are read", path.display());
        return Err(Failure::new(ErrorCode::InvalidArgument, message));
    }
    fs::read(path).map_err(cannot)
}
