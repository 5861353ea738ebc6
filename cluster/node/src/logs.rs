//! `kubectl logs`: what a container printed, from its file.
//!
//! Knows nothing but the node's directory, so it answers before a node has started and while none
//! runs. Processes write their files directly, so lines carry no times: `timestamps` is refused, and
//! `sinceSeconds` gives all of a log that was written to since, or nothing of one that was not. Of a log
//! that passed its bound the middle is missing (see `cut`), and a line says so.

mod cut;
mod keeper;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use mizzen_apiserver::{ApiError, LogRequest, LogStream, PodLogs};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, SeekFrom},
};

use self::cut::Cut;
pub(crate) use self::keeper::{Keeper, last_look};
use crate::paths::{PodPaths, RunPaths, is_plain_name};

/// Reads the logs of the pods under a node's directory.
#[derive(Debug, Clone)]
pub struct NodeLogs {
    dir: PathBuf,
}

impl NodeLogs {
    /// Of the node that works, has worked or will work in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }
}

impl PodLogs for NodeLogs {
    fn open(&self, request: LogRequest) -> BoxFuture<'static, Result<LogStream, ApiError>> {
        let dir = self.dir.clone();
        async move { open(&dir, &request).await }.boxed()
    }
}

async fn open(dir: &Path, request: &LogRequest) -> Result<LogStream, ApiError> {
    if request.timestamps {
        return Err(ApiError::bad_request(
            "`timestamps` is not available: processes write their logs directly, without times; leave it out",
        ));
    }
    let run = find(dir, request)?;
    let failed = |e: io::Error| ApiError::Internal(format!("the log cannot be read: {e}"));
    let mut file = match File::open(run.log()).await {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(not_started(request)),
        Err(e) => return Err(failed(e)),
    };
    let at = start(&mut file, &run, request).await.map_err(failed)?;
    file.seek(SeekFrom::Start(at)).await.map_err(failed)?;
    let left = request.limit_bytes.unwrap_or(u64::MAX);
    let follow = request.follow;
    let tail = Tail { file, run, follow, at, line_open: false, left, idle: IDLE_MIN };
    Ok(stream::unfold(tail, |mut tail| async move { Some((tail.next().await?, tail)) }).boxed())
}

/// The run that is asked for: the latest, or the one before.
fn find(dir: &Path, request: &LogRequest) -> Result<RunPaths, ApiError> {
    let LogRequest { namespace, pod, .. } = request;
    let paths = PodPaths::find(dir, namespace, pod).ok_or_else(|| not_started(request))?;
    let container = match &request.container {
        Some(container) if is_plain_name(container) => container.clone(),
        Some(container) => {
            let text = format!("container {container} is not valid for pod {pod}");
            return Err(ApiError::bad_request(text));
        }
        None => only_container(&paths, request)?,
    };
    let runs = paths.runs(&container);
    let latest = runs.checked_sub(1).ok_or_else(|| not_started(request))?;
    if !request.previous {
        return Ok(paths.run(&container, latest));
    }
    let before = latest.checked_sub(1).ok_or_else(|| {
        ApiError::bad_request(format!(
            "previous terminated container \"{container}\" in pod \"{pod}\" not found"
        ))
    })?;
    Ok(paths.run(&container, before))
}

fn only_container(paths: &PodPaths, request: &LogRequest) -> Result<String, ApiError> {
    let mut containers = paths.containers();
    match containers.len() {
        0 => Err(not_started(request)),
        1 => Ok(containers.remove(0)),
        _ => {
            containers.sort();
            Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                request.pod,
                containers.join(" ")
            )))
        }
    }
}

/// Kubernetes's words, which clients wait on.
fn not_started(request: &LogRequest) -> ApiError {
    let container = request.container.as_deref().unwrap_or("");
    let pod = &request.pod;
    ApiError::bad_request(format!(
        "container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating"
    ))
}

/// Where in the file the answer starts.
async fn start(file: &mut File, run: &RunPaths, request: &LogRequest) -> io::Result<u64> {
    let meta = file.metadata().await?;
    if let Some(seconds) = request.since_seconds {
        let since = SystemTime::now().checked_sub(Duration::from_secs(seconds));
        if since.is_some_and(|since| meta.modified().is_ok_and(|modified| modified < since)) {
            return Ok(meta.len());
        }
    }
    match request.tail_lines {
        Some(lines) => tail_start(file, meta.len(), Cut::read(run), lines).await,
        None => Ok(0),
    }
}

/// Where the last `lines` lines of the first `len` bytes start, reading backwards. A last line that
/// has no end yet counts as one, and so does the one that stands for what is gone.
async fn tail_start(file: &mut File, len: u64, cut: Option<Cut>, lines: u64) -> io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    if lines == 0 {
        return Ok(len);
    }
    let (mut end, mut seen) = (len, 0);
    while end > 0 {
        let behind = cut.filter(|cut| end >= cut.end);
        if let Some(cut) = behind
            && end == cut.end
        {
            // A line starts here, and its start shows by nothing that is still there.
            seen += 1;
            if seen == lines {
                return Ok(end);
            }
            end = cut.start;
            continue;
        }
        let start = end.saturating_sub(BLOCK).max(behind.map_or(0, |cut| cut.end));
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block).await?;
        for (position, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + position as u64 + 1;
            // The newline that ends the last line starts no line of its own.
            if after == len {
                continue;
            }
            seen += 1;
            if seen == lines {
                return Ok(after);
            }
        }
        end = start;
    }
    Ok(0)
}

/// A log that is read to its end, and beyond it while its container runs.
struct Tail {
    file: File,
    run: RunPaths,
    follow: bool,
    /// The position that is read next.
    at: u64,
    /// Whether the last line that was given has no end yet.
    line_open: bool,
    left: u64,
    idle: Duration,
}

/// Between two looks at a file that did not grow: at first as short as a line takes to print, then
/// doubling up to what a person does not notice.
const IDLE_MIN: Duration = Duration::from_millis(2);
const IDLE_MAX: Duration = Duration::from_millis(100);
const CHUNK: usize = 64 * 1024;

impl Tail {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        while self.left > 0 {
            // Looked at before reading: what was written before the end is then read for certain.
            let ended = !self.follow || self.run.exit().exists() || !self.run.dir().exists();
            match self.read().await {
                Err(error) => {
                    self.left = 0;
                    return Some(Err(error));
                }
                Ok(chunk) if !chunk.is_empty() => {
                    self.idle = IDLE_MIN;
                    return Some(Ok(self.limited(chunk).into()));
                }
                Ok(_) if ended => return None,
                Ok(_) => {
                    tokio::time::sleep(self.idle).await;
                    self.idle = (self.idle * 2).min(IDLE_MAX);
                }
            }
        }
        None
    }

    /// What comes next of what is still there, or the line that stands for what is not.
    async fn read(&mut self) -> io::Result<Vec<u8>> {
        if let Some(cut) = Cut::read(&self.run).filter(|cut| self.is_in(*cut)) {
            return self.jump(cut).await;
        }
        let mut chunk = vec![0; CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK))];
        let n = self.file.read(&mut chunk).await?;
        chunk.truncate(n);
        // A cut is told before it is made, so what none of them covers now was still there.
        if let Some(cut) = Cut::read(&self.run) {
            if self.is_in(cut) {
                return self.jump(cut).await;
            }
            if self.at < cut.start {
                let until = usize::try_from(cut.start - self.at).unwrap_or(usize::MAX);
                chunk.truncate(until);
                self.file.seek(SeekFrom::Start(self.at + chunk.len() as u64)).await?;
            }
        }
        self.at += chunk.len() as u64;
        self.line_open = chunk.last().map_or(self.line_open, |byte| *byte != b'\n');
        Ok(chunk)
    }

    fn is_in(&self, cut: Cut) -> bool {
        (cut.start..cut.end).contains(&self.at)
    }

    async fn jump(&mut self, cut: Cut) -> io::Result<Vec<u8>> {
        let open = if self.line_open { "\n" } else { "" };
        let line = format!("{open}{}\n", cut.line(self.at));
        (self.at, self.line_open) = (cut.end, false);
        self.file.seek(SeekFrom::Start(self.at)).await?;
        Ok(line.into_bytes())
    }

    fn limited(&mut self, mut chunk: Vec<u8>) -> Vec<u8> {
        chunk.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= chunk.len() as u64;
        chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn request() -> LogRequest {
        LogRequest { namespace: "ns".into(), pod: "p".into(), ..LogRequest::default() }
    }

    /// A pod whose container printed this.
    fn printed(dir: &Path, container: &str, run: u32, text: &str) -> RunPaths {
        let paths = PodPaths::new(dir, "ns", "u");
        paths.create("p").unwrap();
        let run = paths.run(container, run);
        fs::create_dir_all(run.dir()).unwrap();
        fs::write(run.log(), text).unwrap();
        run
    }

    async fn read(dir: &Path, request: LogRequest) -> Result<String, String> {
        let logs = NodeLogs::new(dir.into());
        let stream = logs.open(request).await.map_err(|e| e.to_string())?;
        let chunks: Vec<_> = stream.map(|chunk| chunk.unwrap()).collect().await;
        Ok(String::from_utf8(chunks.concat()).unwrap())
    }

    #[tokio::test]
    async fn the_end_of_a_log_is_found_by_lines() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(100_000);
        #[rustfmt::skip]
        let cases = [
            // what the case shows        log                       lines     answer
            ("all",                       "a\nb\nc\n".to_owned(),   None,     "a\nb\nc\n".to_owned()),
            ("the last",                  "a\nb\nc\n".to_owned(),   Some(1),  "c\n".into()),
            ("an unfinished last",        "a\nb\nc".to_owned(),     Some(2),  "b\nc".into()),
            ("more than there are",       "a\nb\n".to_owned(),      Some(9),  "a\nb\n".into()),
            ("none",                      "a\nb\n".to_owned(),      Some(0),  String::new()),
            ("empty lines count",         "a\n\n\n".to_owned(),     Some(2),  "\n\n".into()),
            ("beyond one block",          format!("a\n{long}\nb\n"), Some(2), format!("{long}\nb\n")),
            ("an empty log",              String::new(),            Some(3),  String::new()),
        ];
        for (shows, log, lines, want) in cases {
            printed(dir.path(), "c", 0, &log);
            let request = LogRequest { tail_lines: lines, ..request() };
            assert_eq!(read(dir.path(), request).await, Ok(want), "{shows}");
        }
        printed(dir.path(), "c", 0, "abcdef");
        let limited = LogRequest { limit_bytes: Some(4), ..request() };
        assert_eq!(read(dir.path(), limited).await, Ok("abcd".into()));
        let since = LogRequest { since_seconds: Some(3600), ..request() };
        assert_eq!(read(dir.path(), since).await, Ok("abcdef".into()));
    }

    #[tokio::test]
    async fn a_followed_log_ends_with_its_container_and_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let run = printed(dir.path(), "c", 0, "first\n");
        let logs = NodeLogs::new(dir.path().into());
        let mut stream = logs.open(LogRequest { follow: true, ..request() }).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "first\n");
        fs::write(run.log(), "first\nsecond\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "second\n");
        fs::write(run.log(), "first\nsecond\nlast\n").unwrap();
        fs::write(run.exit(), "0\n").unwrap();
        let rest: Vec<_> = stream.map(|chunk| chunk.unwrap()).collect().await;
        assert_eq!(rest.concat(), b"last\n");
    }

    #[tokio::test]
    async fn what_is_gone_of_a_log_is_said_in_its_place() {
        const BOUND: u64 = 1 << 16;
        let dir = tempfile::tempdir().unwrap();
        let line = |n: u64| format!("line {n:010}\n");
        let lines = |n: std::ops::Range<u64>| n.map(line).collect::<String>();
        let run = printed(dir.path(), "c", 0, &lines(0..8));
        let logs = NodeLogs::new(dir.path().into());
        let mut behind = logs.open(LogRequest { follow: true, ..request() }).await.unwrap();
        assert_eq!(behind.next().await.unwrap().unwrap(), lines(0..8));
        let all = 4 * BOUND / 16;
        fs::write(run.log(), lines(0..all)).unwrap();
        let cut = cut::trim(&run, BOUND).unwrap().cut.unwrap();
        fs::write(run.exit(), "0\n").unwrap();
        let (first, last) = (cut.start / 16, cut.end / 16);
        let said = |position| cut.line(position) + "\n";
        let whole = lines(0..first) + &said(cut.start) + &lines(last..all);
        assert_eq!(read(dir.path(), request()).await.unwrap(), whole);
        let rest: Vec<_> = behind.map(|chunk| chunk.unwrap()).collect().await;
        let rest = String::from_utf8(rest.concat()).unwrap();
        assert_eq!(rest, lines(8..first) + &said(cut.start) + &lines(last..all));
        let tail = |tail_lines| LogRequest { tail_lines: Some(tail_lines), ..request() };
        #[rustfmt::skip]
        let cases = [
            // what the case shows        lines                 answer
            ("within the end",            2,                    lines(all - 2..all)),
            ("all of the end",            all - last,           lines(last..all)),
            ("the line between",          all - last + 1,       said(cut.start) + &lines(last..all)),
            ("some of the beginning",     all - last + 3,       lines(first - 2..first) + &said(cut.start) + &lines(last..all)),
            ("more than there are",       u64::MAX,             whole.clone()),
        ];
        for (shows, lines, want) in cases {
            assert_eq!(read(dir.path(), tail(lines)).await.unwrap(), want, "{shows}");
        }
        let limited = LogRequest { limit_bytes: Some(cut.start + 7), ..request() };
        assert!(read(dir.path(), limited).await.unwrap().ends_with("\nmizzen:"));
    }

    #[tokio::test]
    async fn a_follower_that_a_cut_overtakes_is_told_how_much_it_missed() {
        const BOUND: u64 = 1 << 16;
        let dir = tempfile::tempdir().unwrap();
        let run = printed(dir.path(), "c", 0, &"a".repeat(20_000));
        let logs = NodeLogs::new(dir.path().into());
        let mut stream = logs.open(LogRequest { follow: true, ..request() }).await.unwrap();
        let read = stream.next().await.unwrap().unwrap().len() as u64;
        fs::write(run.log(), "a".repeat(200_000)).unwrap();
        let cut = cut::trim(&run, BOUND).unwrap().cut.unwrap();
        assert!(cut.start < read, "it is in the middle of what is gone");
        fs::write(run.exit(), "0\n").unwrap();
        let rest: Vec<_> = stream.map(|chunk| chunk.unwrap()).collect().await;
        let rest = String::from_utf8(rest.concat()).unwrap();
        let said = format!("\n{}\n", cut.line(read));
        assert!(rest.starts_with(&said), "{}", &rest[..200]);
        assert_eq!(rest.len() as u64, said.len() as u64 + 200_000 - cut.end);
    }

    #[tokio::test]
    async fn what_cannot_be_answered_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = read(dir.path(), request()).await.unwrap_err();
        assert!(nothing.contains("waiting to start"), "{nothing}");
        printed(dir.path(), "a", 0, "old");
        printed(dir.path(), "a", 1, "new");
        let of = |container: &str, previous| LogRequest {
            container: Some(container.into()),
            previous,
            ..request()
        };
        assert_eq!(read(dir.path(), of("a", false)).await, Ok("new".into()));
        assert_eq!(read(dir.path(), of("a", true)).await, Ok("old".into()));
        printed(dir.path(), "b", 0, "other");
        #[rustfmt::skip]
        let cases = [
            // what the case shows       request                                       the error names
            ("which of two",             request(),                                    "[a b]"),
            ("no such container",        of("c", false),                               "waiting to start"),
            ("no run before",            of("b", true),                                "previous terminated"),
            ("climbing out",             of("../x", false),                            "not valid"),
            ("times",                    LogRequest { timestamps: true, ..request() }, "timestamps"),
        ];
        for (shows, request, names) in cases {
            let error = read(dir.path(), request).await.unwrap_err();
            assert!(error.contains(names), "{shows}: {error}");
        }
    }
}
