//! `mizzen models import`

mod check;
mod config;
mod convert;
mod format;
mod mlflow;
mod onnx;
mod place;
mod source;

use std::{
    fmt::Write as _,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use mizzen_loadgen::ShapeOverride;
use mizzen_serving_host::ModelHost;
use mizzen_serving_text::Task;
use mizzen_types::ErrorCode;
use serde_json::{Value, json};

use self::{
    check::{Answer, Checked},
    config::{Config, TensorSpec},
    convert::{ConvertOptions, Labels, convert},
    mlflow::Column,
    place::{Staging, There, stopped, there},
    source::{Conversion, Files, Source},
};
use crate::{
    bench::parse_shape,
    failure::{Failure, Result},
    get::rest_escape,
    global::Output,
    stack::Signals,
    table,
};

/// Put a model into a repository, with its configuration, and ask it once
///
/// What PATH is shows in its bytes: an ONNX file (with the files its weights are in), TorchScript, GGUF,
/// safetensors with the `config.json` beside it, a Hugging Face directory, a pickle (or joblib) of
/// scikit-learn, XGBoost or LightGBM, a model file of XGBoost or LightGBM, or an MLflow model. It is copied to
/// `<repository>/<name>/<version>`, never linked; `config.pbtxt` is written with the whole signature, for
/// you to edit; then the model is loaded as `mizzen serve` loads it and asked once with made-up inputs. Only
/// if that works is the model in the repository: whatever fails leaves nothing behind.
///
/// Models of scikit-learn, XGBoost and LightGBM become ONNX, in a Python of yours that has their package,
/// skl2onnx and onnxmltools. A pickle runs what whoever made it put in, so that one is only read with
/// --trust-pickle.
///
/// A server that runs on the repository takes the model up by itself under `--model-control-mode=poll`, or
/// on `mizzen models load NAME`.
///
/// Exits 2 for what is no model or does not load, 3 if PATH is not there, 4 if the version is there already,
/// 5 for a pickle without --trust-pickle and for a repository that may not be written, 7 if a conversion
/// takes too long, 8 for kinds of models that are known and not served and for packages that are missing,
/// 9 if the disk is full.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mizzen models import resnet50.onnx
  mizzen models import ~/models/all-MiniLM-L6-v2 --name minilm
  mizzen models import scripted.pt --input-tensor image:FP32:3,224,224 --output-tensor scores:FP32:1000 --max-batch-size 8
  mizzen models import detector.onnx --shape x:3,480,640 --model-version 2
  mizzen models import classifier.joblib --trust-pickle --python .venv/bin/python
  mizzen models import speech.onnx --shape input:512 --value sr=16000")]
pub(super) struct Import {
    /// What to import: a file or a directory
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Its name in the repository [default: the file's or directory's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Directory of models to put it into; made if it is not there
    #[arg(
        long,
        visible_alias = "model-store",
        value_name = "DIR",
        env = "MIZZEN_MODEL_REPOSITORY",
        default_value = "models"
    )]
    model_repository: PathBuf,
    /// Version that it becomes; others stay beside it [default: 1]
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    model_version: Option<u64>,
    /// Engine, where a directory has the model for several: `onnxruntime`, `pytorch`, `candle`
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Replace the version if it is there already
    #[arg(long)]
    force: bool,
    /// The most rows of a batch, 0 for a model without a batch dimension [default: what the model allows]
    #[arg(long, value_name = "ROWS")]
    max_batch_size: Option<u32>,
    /// An input, where the model does not say it itself (TorchScript): sizes without the batch dimension, -1
    /// for any; once per input
    #[arg(long, value_name = "NAME:TYPE:D1,D2")]
    input_tensor: Vec<TensorSpec>,
    /// An output, likewise
    #[arg(long, value_name = "NAME:TYPE:D1,D2")]
    output_tensor: Vec<TensorSpec>,
    /// Use this `config.pbtxt` as it is, and write none
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input_tensor", "output_tensor", "max_batch_size"])]
    model_config: Option<PathBuf>,
    /// Sizes of an input's free dimensions for the one prediction, batch dimension excluded [default: 1 each]
    #[arg(long, value_name = "INPUT:D1,D2", value_parser = parse_shape)]
    shape: Vec<ShapeOverride>,
    /// What an input holds in the one prediction, as `sr=16000`; once per input [default: fractions, ones,
    /// words]
    #[arg(long, value_name = "INPUT=VALUE", value_parser = parse_value)]
    value: Vec<(String, String)>,
    /// Neither load nor ask it: for models of engines that this machine lacks
    #[arg(long)]
    no_check: bool,
    /// Read pickles, which runs what is in them: only for files of people you trust
    #[arg(long)]
    trust_pickle: bool,
    /// Python that converts pickles and models of XGBoost and LightGBM [default: .venv/bin/python, else
    /// python3]
    #[arg(long, value_name = "FILE", env = "MIZZEN_PYTHON")]
    python: Option<PathBuf>,
    /// Seconds that a conversion may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    convert_timeout: u64,
    /// ONNX Runtime's library, in place of the search that `mizzen doctor` shows
    #[arg(long, value_name = "FILE", env = "MIZZEN_ONNXRUNTIME_LIB")]
    onnxruntime: Option<PathBuf>,
}

/// Bytes that a `config.pbtxt` may have.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// The file of labels, where a model has them.
const LABELS: &str = "labels.txt";
/// Values of an input that fit into a command line.
const CURL_VALUES_MAX: usize = 32;

/// What was done.
struct Imported {
    name: String,
    version: u64,
    source: Source,
    bytes: u64,
    target: PathBuf,
    /// Unless it was left out.
    checked: Option<(Checked, Answer)>,
}

impl Import {
    pub(super) async fn run(&self, output: Output, out: &mut dyn Write) -> Result<()> {
        let signals = Signals::catch()?;
        let stop = Arc::new(AtomicBool::new(false));
        let raised = stop.clone();
        let told = tokio::spawn(async move {
            signals.first().await;
            raised.store(true, Ordering::Relaxed);
        });
        let imported = self.import(&stop, told).await?;
        match output {
            Output::Json => writeln!(out, "{:#}", imported.json()?)?,
            Output::Text => imported.print(&self.model_repository, out)?,
        }
        Ok(())
    }

    async fn import(
        &self,
        stop: &Arc<AtomicBool>,
        told: tokio::task::JoinHandle<()>,
    ) -> Result<Imported> {
        let name = self.name()?;
        let repository = self.repository()?;
        let version = self.model_version.unwrap_or(1);
        let there = there(repository, &name, version);
        self.check_there(repository, &name, version, &there)?;
        let mut source = source::find(&self.path, self.backend.as_deref())?;
        self.check_trust(&source)?;
        let staging = Arc::new(Staging::new(repository, &name, version)?);
        let (bytes, labels) = self.bring(&mut source, &staging, stop).await?;

        // What is there already is the user's; it is looked at and left where it is.
        let keeps = there.config && !self.says_config();
        let borrowed = if there.model { staging.borrow(keeps)? } else { Vec::new() };
        let given = self.model_config.as_deref().map(config_text).transpose()?;
        let draft = self.draft(&source);
        if !keeps {
            staging.write("config.pbtxt", &given.clone().unwrap_or_else(|| draft.text()))?;
        }
        let mut checked = None;
        if !self.no_check {
            let loaded = Checked::load(staging.repository(), &name, self.onnxruntime.clone()).await;
            let mut model = loaded.map_err(|failure| self.advised(failure, &source))?;
            stopped(stop)?;
            if !keeps && given.is_none() {
                let mut config = Config::completed(&model.config()?);
                if let Some(labels) = labels {
                    config.label(&labels.output, LABELS);
                    staging.write(LABELS, &(labels.names.join("\n") + "\n"))?;
                }
                staging.write("config.pbtxt", &config.text())?;
                model.again().await?;
            }
            stopped(stop)?;
            let answer = tokio::select! {
                answer = model.ask(&self.shape, &self.value) => answer?,
                _ = told => return Err(stopped(stop).err().unwrap_or_else(|| Failure::new(ErrorCode::Cancelled, "stopped"))),
            };
            checked = Some((model, answer));
        }
        staging.give_back(&borrowed)?;
        stopped(stop)?;
        let target = staging.target();
        let staging = Arc::into_inner(staging).expect("what copied has ended");
        blocking(move || staging.commit()).await?;
        Ok(Imported { name, version, source, bytes, target, checked })
    }

    /// A pickle is only read by those who said so.
    fn check_trust(&self, source: &Source) -> Result<()> {
        let Files::Converted(Conversion { model, runs_code: true, .. }) = &source.files else {
            return Ok(());
        };
        if self.trust_pickle {
            return Ok(());
        }
        let message = format!(
            "`{}` is a pickle: reading it runs whatever code its maker put in, as you; if you trust them, say --trust-pickle. \
             ONNX runs no code: `skl2onnx.to_onnx(model, X[:1])` makes it where the model is made",
            model.display()
        );
        Err(Failure::new(ErrorCode::PermissionDenied, message))
    }

    /// Has the version's files in their place: copied or converted. Returns their bytes, and the labels
    /// that a conversion came upon.
    async fn bring(
        &self,
        source: &mut Source,
        staging: &Arc<Staging>,
        stop: &Arc<AtomicBool>,
    ) -> Result<(u64, Option<Labels>)> {
        let into = staging.version_dir();
        let conversion = match &mut source.files {
            Files::Copied(files) => {
                let (files, raised) = (files.clone(), stop.clone());
                let bytes = blocking(move || place::copy(&files, &into, &raised)).await?;
                return Ok((bytes, None));
            }
            Files::Converted(conversion) => conversion,
        };
        if !self.input_tensor.is_empty() {
            conversion.columns = self.input_tensor.iter().map(Column::from).collect();
        }
        let out = into.join("model.onnx");
        let options = ConvertOptions {
            python: self.python.clone().unwrap_or_else(python),
            timeout: Duration::from_secs(self.convert_timeout),
            scratch: staging.repository(),
            out: &out,
        };
        let done = convert(conversion, &options, stop).await?;
        source.what = format!("{} as ONNX", source.what.replace("pickle", &done.what));
        Ok((std::fs::metadata(&out)?.len(), done.labels))
    }

    /// The name, by the flag or by the path.
    fn name(&self) -> Result<String> {
        let name = self.name.clone().unwrap_or_else(|| name_of(&self.path));
        ModelHost::check_name(&name).map_err(|e| {
            let failure = Failure::from(e);
            if self.name.is_some() {
                failure.context("--name")
            } else {
                failure.context("choose one with --name")
            }
        })?;
        Ok(name)
    }

    fn repository(&self) -> Result<&Path> {
        let path = self.model_repository.to_string_lossy();
        if path.contains("://") || path.contains(',') {
            let message = format!(
                "--model-repository: expected one directory, got `{}`",
                path.escape_debug()
            );
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        Ok(&self.model_repository)
    }

    /// Whether the command line has a word on what goes into `config.pbtxt`.
    fn says_config(&self) -> bool {
        self.model_config.is_some()
            || self.max_batch_size.is_some()
            || !self.input_tensor.is_empty()
            || !self.output_tensor.is_empty()
    }

    fn check_there(
        &self,
        repository: &Path,
        name: &str,
        version: u64,
        there: &There,
    ) -> Result<()> {
        let at = repository.join(name);
        if there.version && !self.force {
            let next = there.last.unwrap_or(version).saturating_add(1);
            let message = format!(
                "`{}` has version {version} already: --model-version {next} puts this one beside it, --force replaces it, \
                 --name imports it under another name",
                at.display()
            );
            return Err(Failure::new(ErrorCode::AlreadyExists, message));
        }
        if there.config && self.says_config() && !self.force {
            let message = format!(
                "`{}` has a `config.pbtxt`, which all its versions share: leave out --max-batch-size, --input-tensor, --output-tensor \
                 and --model-config to keep it, or replace it with --force",
                at.display()
            );
            return Err(Failure::new(ErrorCode::AlreadyExists, message));
        }
        if there.model && !at.is_dir() {
            let message = format!("`{}` is in the way: it is not a directory", at.display());
            return Err(Failure::new(ErrorCode::AlreadyExists, message));
        }
        Ok(())
    }

    /// What the command line says; the rest is the model's to say.
    fn draft(&self, source: &Source) -> Config {
        let max_batch_size = self.max_batch_size.map(u64::from);
        let or = |given: &[TensorSpec], known: &[TensorSpec]| match &source.files {
            // A converter was told already.
            Files::Converted(_) => Vec::new(),
            Files::Copied(_) if given.is_empty() => known.to_vec(),
            Files::Copied(_) => given.to_vec(),
        };
        Config {
            backend: source.backend.to_owned(),
            max_batch_size,
            inputs: or(&self.input_tensor, &source.inputs),
            outputs: or(&self.output_tensor, &source.outputs),
            dynamic_batching: max_batch_size.is_some_and(|rows| rows > 1),
            ..Config::default()
        }
    }

    /// A model that does not load, with what may help.
    fn advised(&self, failure: Failure, source: &Source) -> Failure {
        let silent = source.backend == source::TORCH
            && self.model_config.is_none()
            && (self.input_tensor.is_empty() || self.output_tensor.is_empty());
        let advice = if failure.code() == ErrorCode::Unsupported {
            "--no-check imports it all the same"
        } else if silent {
            "say them with --input-tensor NAME:TYPE:D1,D2 and --output-tensor NAME:TYPE:D1,D2"
        } else {
            return failure;
        };
        Failure::new(failure.code(), format!("{failure}; {advice}"))
    }
}

/// The Python that people work with here.
fn python() -> PathBuf {
    let own = PathBuf::from(".venv/bin/python");
    if own.is_file() { own } else { "python3".into() }
}

fn parse_value(text: &str) -> std::result::Result<(String, String), String> {
    let (input, value) =
        text.rsplit_once('=').ok_or_else(|| format!("expected INPUT=VALUE, got `{text}`"))?;
    Ok((input.to_owned(), value.to_owned()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Failure::new(ErrorCode::Internal, e.to_string()))?
}

/// What a path is called: `resnet50` of `resnet50.onnx`; of `digits/model.onnx`, `digits`.
fn name_of(path: &Path) -> String {
    let text =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    // `.` and `..` have a name, too.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if path.is_dir() {
        return text(path.file_name());
    }
    let stem = text(path.file_stem());
    let parent = text(path.parent().and_then(Path::file_name));
    if stem == "model" && !parent.is_empty() && parent.parse::<u64>().is_err() {
        parent
    } else {
        stem
    }
}

fn config_text(path: &Path) -> Result<String> {
    let bytes = source::bytes(path, CONFIG_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|_| {
        let message = format!(
            "--model-config: expected text, got bytes that are none in `{}`",
            path.display()
        );
        Failure::new(ErrorCode::InvalidArgument, message)
    })
}

impl Imported {
    fn json(&self) -> Result<Value> {
        let mut done = json!({
            "name": self.name, "version": self.version, "path": self.target, "backend": self.source.backend,
            "what": self.source.what, "bytes": self.bytes,
        });
        if let Some((model, answer)) = &self.checked {
            let metadata = model.metadata()?;
            let tensors = |specs: &[mizzen_runtime_api::TensorSpec]| -> Value {
                let one = |s: &mizzen_runtime_api::TensorSpec| json!({ "name": &*s.name, "datatype": s.dtype, "shape": s.shape.0 });
                specs.iter().map(one).collect()
            };
            done["inputs"] = tensors(&metadata.inputs);
            done["outputs"] = tensors(&metadata.outputs);
            done["load_ms"] = json!(model.load.as_secs_f64() * 1e3);
            done["predict_ms"] = json!(answer.took.as_secs_f64() * 1e3);
            let each = answer.outputs.iter().map(|o| {
                let values = check::elements(&o.tensor, CURL_VALUES_MAX);
                json!({ "name": &*o.name, "shape": o.tensor.shape().dims(), "first_values": values })
            });
            done["answer"] = each.collect();
        }
        Ok(done)
    }

    fn print(&self, repository: &Path, out: &mut dyn Write) -> Result<()> {
        let size = indicatif::HumanBytes(self.bytes);
        writeln!(
            out,
            "imported {}: {}, {size}, into {}",
            self.name,
            self.source.what,
            self.target.display()
        )?;
        if let Some((model, answer)) = &self.checked {
            let metadata = model.metadata()?;
            let row = |kind: &str,
                       spec: &mizzen_runtime_api::TensorSpec,
                       given: &[mizzen_types::NamedTensor]| {
                let asked = given.iter().find(|t| t.name == spec.name);
                let (shape, values) = asked.map_or_else(Default::default, |t| {
                    (t.tensor.shape().to_string(), check::shown(&t.tensor))
                });
                vec![
                    kind.to_owned(),
                    spec.name.to_string(),
                    spec.dtype.to_string(),
                    spec.shape.to_string(),
                    shape,
                    values,
                ]
            };
            let inputs = metadata.inputs.iter().map(|s| row("input", s, &answer.inputs));
            let outputs = metadata.outputs.iter().map(|s| row("output", s, &answer.outputs));
            let rows: Vec<_> = inputs.chain(outputs).collect();
            let header = ["", "NAME", "TYPE", "SHAPE", "ASKED ONCE", "VALUES"].map(str::to_owned);
            writeln!(out)?;
            table::print(out, &header, &rows)?;
            writeln!(out, "loaded in {:.2?}, answered in {:.2?}", model.load, answer.took)?;
        }
        writeln!(
            out,
            "\nnext:\n  mizzen serve --model-repository {}",
            shell(&repository.to_string_lossy())
        )?;
        writeln!(out, "  {}", self.curl()?)?;
        writeln!(
            out,
            "a server that has this repository takes it up by itself under --model-control-mode=poll, else on\n  mizzen models load {}",
            shell(&self.name)
        )?;
        Ok(())
    }

    /// How to ask it, in a line.
    fn curl(&self) -> Result<String> {
        let base = "http://127.0.0.1:8000";
        let metadata = format!("curl {base}/v2/models/{}", rest_escape(&self.name));
        let Some((model, answer)) = &self.checked else { return Ok(metadata) };
        let body = |path: &str, body: Value| {
            format!(
                "curl {base}/{path} -H 'content-type: application/json' -d {}",
                shell(&body.to_string())
            )
        };
        if let Some(text) = model.text() {
            let name = &self.name;
            return Ok(match text.model().task() {
                Task::Embed { .. } => {
                    body("v1/embeddings", json!({ "model": name, "input": "a few words" }))
                }
                Task::Classify { labels } if labels.len() == 1 => body(
                    "rerank",
                    json!({ "model": name, "query": "a question", "texts": ["an answer"] }),
                ),
                Task::Classify { .. } => {
                    body("predict", json!({ "model": name, "inputs": "a few words" }))
                }
            });
        }
        if model.config()?["model_transaction_policy"]["decoupled"] == true {
            // Its answers come one by one, which the route for one answer does not take.
            let first = |tensor| check::elements(tensor, 1).into_iter().next();
            let inputs =
                answer.inputs.iter().map(|i| (i.name.to_string(), first(&i.tensor).into()));
            let path = format!("v2/models/{}/generate_stream", rest_escape(&self.name));
            return Ok(body(&path, inputs.collect::<serde_json::Map<_, _>>().into()));
        }
        let values: usize = answer.inputs.iter().map(|i| i.tensor.shape().elements()).sum();
        if values > CURL_VALUES_MAX {
            let mut shapes = String::new();
            for input in &answer.inputs {
                // Sizes that the model leaves open have to be said to `bench`, too.
                let _ = write!(shapes, " {}={}", input.name, input.tensor.shape());
            }
            return Ok(format!("{metadata}   # asked with{shapes}"));
        }
        let inputs = answer.inputs.iter().map(|i| {
            let data = check::elements(&i.tensor, CURL_VALUES_MAX);
            json!({ "name": &*i.name, "datatype": i.tensor.dtype(), "shape": i.tensor.shape().dims(), "data": data })
        });
        let path = format!("v2/models/{}/infer", rest_escape(&self.name));
        Ok(body(&path, json!({ "inputs": inputs.collect::<Value>() })))
    }
}

/// A word as a shell takes it.
fn shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_come_from_paths() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("digits/1")).unwrap();
        for file in ["digits/model.onnx", "digits/1/model.onnx", "a.b.onnx"] {
            fs::write(root.join(file), "").unwrap();
        }
        for (path, name) in [
            ("a.b.onnx", "a.b"),
            ("digits/model.onnx", "digits"),
            ("digits/1/model.onnx", "model"),
            ("digits", "digits"),
            ("digits/1/..", "digits"),
        ] {
            assert_eq!(name_of(&root.join(path)), name, "{path}");
        }
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell("models/a-b"), "models/a-b");
        assert_eq!(shell("a b"), "'a b'");
        assert_eq!(shell("it's"), r"'it'\''s'");
    }
}
