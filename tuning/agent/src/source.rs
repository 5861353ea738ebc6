//! Where metrics are: files, directories of event files, a page. Looked at again and again, on a thread
//! of its own.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use mizzen_metrics_collector::{
    Collector, CollectorError, CollectorOptions, EventFile, Format, MetricRecord, Pages,
};
use tokio::sync::mpsc::Sender;

/// Where metrics are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file that the trial writes.
    File {
        /// The file.
        path: PathBuf,
        /// How metrics are written.
        format: Format,
        /// What finds them in text; Katib's default filter if empty.
        filters: Vec<String>,
    },
    /// In TensorFlow's event files below a directory.
    Events(PathBuf),
    /// On a page in Prometheus' text format that the trial serves.
    Http(HttpSource),
    /// Nowhere: somebody else reports them.
    None,
}

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// Name or address of the host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path, with its `/`.
    pub path: String,
}

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// The largest page that is read.
const PAGE_BYTES_MAX: u64 = 8 << 20;
/// How long a page may take.
const PAGE_WAIT: Duration = Duration::from_secs(5);
/// How deep below the directory event files are looked for, and how many of them.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 1000;

/// Reads a source from where it is when this is made.
pub(crate) enum Reader {
    File { path: PathBuf, options: CollectorOptions, collector: Collector, at: u64 },
    Events { dir: PathBuf, metrics: Vec<String>, files: HashMap<PathBuf, (u64, EventFile)> },
    Http { page: HttpSource, pages: Pages },
    None,
}

impl Source {
    pub(crate) fn reader(&self, metrics: &[String]) -> Result<Reader, CollectorError> {
        Ok(match self {
            Self::File { path, format, filters } => {
                let (metrics, filters) = (metrics.to_vec(), filters.clone());
                let options = CollectorOptions { metrics, filters, format: *format };
                let collector = Collector::new(options.clone())?;
                let at = fs::metadata(path).map_or(0, |m| m.len());
                Reader::File { path: path.clone(), options, collector, at }
            }
            Self::Events(dir) => {
                let mut files = HashMap::new();
                for path in event_files(dir) {
                    let at = fs::metadata(&path).map_or(0, |m| m.len());
                    let file = event_file(metrics, &path);
                    files.insert(path, (at, file));
                }
                Reader::Events { dir: dir.clone(), metrics: metrics.to_vec(), files }
            }
            Self::Http(page) => Reader::Http { page: page.clone(), pages: Pages::new(metrics) },
            Self::None => Reader::None,
        })
    }
}

/// Looks every `interval` until told to end, then once more. What is found waits for room in the queue.
pub(crate) fn read(
    mut reader: Reader,
    interval: Duration,
    end: &Receiver<()>,
    queue: &Sender<Vec<MetricRecord>>,
) {
    let mut found = |records: Vec<MetricRecord>| {
        if !records.is_empty() {
            let _ = queue.blocking_send(records); // refused only once reporting was given up
        }
    };
    while end.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        reader.look(&mut found);
    }
    reader.look(&mut found);
    if let Reader::File { collector, .. } = &mut reader {
        found(collector.finish());
        tell(collector);
    }
}

/// Says what of a file could not be read.
fn tell(collector: &Collector) {
    let skipped = collector.skipped();
    if let Some((line, why)) = &skipped.first {
        let lines = skipped.lines;
        eprintln!(
            "mizzen agent: {lines} lines are not JSON objects, the first is line {line}: {why}"
        );
    }
    if skipped.cut > 0 {
        eprintln!("mizzen agent: {} lines were too long to be read whole", skipped.cut);
    }
}

type Found<'a> = &'a mut dyn FnMut(Vec<MetricRecord>);

impl Reader {
    fn look(&mut self, found: Found<'_>) {
        match self {
            Self::File { path, options, collector, at } => {
                let length = fs::metadata(&*path).map_or(0, |m| m.len());
                if length < *at {
                    // It was begun anew.
                    found(collector.finish());
                    *at = 0;
                    if let Ok(new) = Collector::new(options.clone()) {
                        *collector = new;
                    }
                }
                *at = rest(path, *at, |bytes| found(collector.feed(bytes)));
            }
            Self::Events { dir, metrics, files } => {
                for path in event_files(dir) {
                    let new = || (0, event_file(metrics, &path));
                    let (at, file) = files.entry(path.clone()).or_insert_with(new);
                    *at = rest(&path, *at, |bytes| found(file.feed(bytes)));
                }
            }
            Self::Http { page, pages } => {
                // One that does not answer yet, or no more, has nothing to say.
                if let Some(text) = page.get() {
                    found(pages.read(&text));
                }
            }
            Self::None => {}
        }
    }
}

/// Hands over a file's bytes from `at` on; returns where it ended. A file that is not there is empty.
fn rest(path: &Path, mut at: u64, mut chunk: impl FnMut(&[u8])) -> u64 {
    let Ok(mut file) = File::open(path) else { return at };
    if file.seek(SeekFrom::Start(at)).is_err() {
        return at;
    }
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = file.read(&mut buffer) {
        chunk(&buffer[..n]);
        at += n as u64;
    }
    at
}

fn event_file(metrics: &[String], path: &Path) -> EventFile {
    EventFile::new(metrics, &path.parent().unwrap_or(path).to_string_lossy())
}

/// Event files below a directory, in the order of their names; links to directories are not followed.
fn event_files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![(dir.to_owned(), 0)]);
    while let Some((dir, depth)) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let is_events = entry.file_name().to_string_lossy().contains("tfevents");
            if kind.is_dir() && depth < DEPTH_MAX && dirs.len() < FILES_MAX {
                dirs.push((entry.path(), depth + 1));
            } else if kind.is_file() && is_events && found.len() < FILES_MAX {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

impl HttpSource {
    /// The page, by HTTP/1.0, which has no chunks.
    fn get(&self) -> Option<String> {
        let address = (self.host.as_str(), self.port).to_socket_addrs().ok()?.next()?;
        let mut stream = TcpStream::connect_timeout(&address, PAGE_WAIT).ok()?;
        stream.set_read_timeout(Some(PAGE_WAIT)).ok()?;
        stream.set_write_timeout(Some(PAGE_WAIT)).ok()?;
        let Self { host, port, path } = self;
        let accept = "text/plain;version=0.0.4,*/*;q=0.1";
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
        let status = answer.get(9..12)?;
        (status == b"200").then(|| String::from_utf8_lossy(&answer[end + 4..]).into_owned())
    }
}
