//! Models that only Python can read become ONNX in a Python of the user's, with the converters that
//! their libraries recommend (`convert.py`).

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::AtomicBool,
    time::Duration,
};

use mizzen_types::ErrorCode;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{place::stopped, source::Conversion};
use crate::failure::{Failure, Result};

const SCRIPT: &str = include_str!("convert.py");

/// Bytes of what the converter says that are shown when it fails: the end of a long trace.
const SAID_BYTES_MAX: usize = 8 << 10;
/// How long what it said may take to arrive after its end: something it started may hold the pipe.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Between two looks at whether the command is to stop.
const TICK: Duration = Duration::from_millis(100);

/// How to convert.
#[derive(Debug)]
pub(super) struct ConvertOptions<'a> {
    pub(super) python: PathBuf,
    pub(super) timeout: Duration,
    /// For the script and its files; nothing in it is kept.
    pub(super) scratch: &'a Path,
    /// The file to write.
    pub(super) out: &'a Path,
}

/// What a converted model is.
#[derive(Debug, Deserialize)]
pub(super) struct Converted {
    /// In words: `scikit-learn RandomForestClassifier`.
    pub(super) what: String,
    pub(super) labels: Option<Labels>,
}

/// The classes of an output, in its order.
#[derive(Debug, Deserialize)]
pub(super) struct Labels {
    pub(super) output: String,
    pub(super) names: Vec<String>,
}

/// What the script writes when it has an end of its own.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Report {
    Done(Converted),
    Missing { missing: String },
    Wrong { wrong: String },
}

/// Converts.
///
/// # Errors
/// Python is not there or lacks a package, the model is none that can be converted, the converter fails
/// or takes too long.
pub(super) async fn convert(
    conversion: &Conversion,
    options: &ConvertOptions<'_>,
    stop: &AtomicBool,
) -> Result<Converted> {
    let script = options.scratch.join("convert.py");
    let (request, report) = (options.scratch.join("request"), options.scratch.join("report"));
    let absolute = |path: &Path| std::path::absolute(path).map_err(Failure::from);
    let asked = json!({
        "model": absolute(&conversion.model)?, "library": conversion.library, "columns": conversion.columns,
        "out": absolute(options.out)?, "report": absolute(&report)?,
    });
    std::fs::write(&script, SCRIPT)?;
    std::fs::write(&request, asked.to_string())?;
    let python = options.python.display();
    let mut child = Command::new(&options.python)
        .args([&script, &request])
        .stdin(Stdio::null())
        // What the libraries print is talk.
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Its workers end with it, and a signal from the terminal is ours to handle.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            let message = format!(
                "cannot start `{python}` to convert the model: {e}; name a Python with --python"
            );
            Failure::new(ErrorCode::Unsupported, message)
        })?;
    let stderr = child.stderr.take().expect("it was piped");
    let said = tokio::spawn(tail(stderr));
    let ended = watched(&mut child, options.timeout, stop).await;
    end_group(&child);
    let said = timeout(LAST_WORDS, said).await.ok().and_then(|read| read.ok()).unwrap_or_default();
    let status = ended?.ok_or_else(|| {
        let message = format!(
            "the converter did not end within {} s (--convert-timeout){}",
            options.timeout.as_secs(),
            spoken(&said)
        );
        Failure::new(ErrorCode::DeadlineExceeded, message)
    })?;
    let report: Option<Value> =
        std::fs::read(&report).ok().and_then(|r| serde_json::from_slice(&r).ok());
    let model = conversion.model.display();
    match report.map(serde_json::from_value::<Report>) {
        Some(Ok(Report::Done(done))) if status.success() => Ok(done),
        Some(Ok(Report::Missing { missing })) => Err(Failure::new(
            ErrorCode::Unsupported,
            format!(
                "converting `{model}` needs the Python package `{missing}`, which `{python}` does not have: \
                 `{python} -m pip install {missing}{}`; or name another Python with --python",
                if missing == "skl2onnx" { " onnxmltools" } else { "" }
            ),
        )),
        Some(Ok(Report::Wrong { wrong })) => Err(Failure::new(
            ErrorCode::InvalidArgument,
            format!("`{model}` cannot be converted: {wrong}"),
        )),
        _ => Err(Failure::new(
            ErrorCode::InvalidArgument,
            format!("converting `{model}` failed ({status}){}", spoken(&said)),
        )),
    }
}

/// The child's end; `None` if it takes too long.
async fn watched(
    child: &mut Child,
    limit: Duration,
    stop: &AtomicBool,
) -> Result<Option<ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(Some(status?)),
            () = sleep(TICK) => stopped(stop)?,
        }
        if Instant::now() >= until {
            return Ok(None);
        }
    }
}

/// Ends the child, if it has not ended, and what it started.
fn end_group(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // A group that is gone is what is wanted.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// The last of what is said, and all of it read.
async fn tail(mut from: impl AsyncRead + Unpin) -> String {
    let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..n]);
        let over = kept.len().saturating_sub(SAID_BYTES_MAX);
        kept.drain(..over);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

fn spoken(said: &str) -> String {
    if said.is_empty() { ", without a word".to_owned() } else { format!("; it said:\n{said}") }
}
