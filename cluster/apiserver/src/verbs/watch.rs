//! watch: objects as they are, then each change, one JSON line each.
//!
//! A stream ends (and its client resumes at the last version it saw) when its time is up, when the
//! server stops, or when the client reads too slowly for the fan-out's bound.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use crate::{
    ApiError,
    http::{self as wire, Reply, media::Form},
    present::View,
    select::Selection,
    server::{Call, Server},
    state::{Event, EventKind, Note, Object, Scope, Start, Watch},
};

/// Lines are sent together up to this size when several are ready; none waits for others.
const CHUNK_BYTES: usize = 64 << 10;

/// Set on the bookmark that ends the initial objects of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

impl Server {
    pub(crate) fn watch(&self, call: &Call) -> Result<Reply, ApiError> {
        let resource = &call.target.resource;
        let selection = Selection::of(&call.params, resource)?;
        let bookmarks = call.params.flag("allowWatchBookmarks")?;
        let initial = call.params.flag("sendInitialEvents")?;
        let version = call.params.number("resourceVersion")?.unwrap_or(0);
        let scope = Scope {
            namespace: call.target.namespace.clone(),
            name: selection.name().map(str::to_owned),
        };
        let start = if initial || version == 0 { Start::Everything } else { Start::After(version) };
        // With `sendInitialEvents=false` and no version, only what happens from now on is wanted.
        let start = match (start, call.params.get("sendInitialEvents")) {
            (Start::Everything, Some("false")) => Start::After(self.state.version()),
            (start, _) => start,
        };
        let limits = self.state.limits();
        let timeout = call.params.number("timeoutSeconds")?.filter(|s| *s > 0);
        let timeout = timeout.map_or(limits.watch_timeout, Duration::from_secs);
        let watch = match self.state.watch(&resource.table, scope, start) {
            Ok(watch) => watch,
            // Clients look for 410 in the stream: a refusal of the watch itself they only retry.
            Err(error @ ApiError::Expired(_)) => return Ok(one_error(&error)),
            Err(error) => return Err(error),
        };
        let every = limits.bookmark_every;
        let stream = WatchStream {
            view: View::of(call)?,
            selection,
            lines: Lines::default(),
            initial: watch.initial.iter().cloned().collect(),
            backlog: watch.backlog.iter().cloned().map(Note::Event).collect(),
            end_of_initial: initial.then_some(watch.version),
            bookmarks: bookmarks.then(|| tokio::time::interval_at(Instant::now() + every, every)),
            deadline: Instant::now() + timeout,
            stopping: call.stopping.clone().unwrap_or_default(),
            watch,
        };
        let chunks = stream::unfold(stream, |mut stream| async move {
            let chunk = stream.next().await?;
            Some((Ok::<_, std::convert::Infallible>(chunk), stream))
        });
        Ok(wire::typed(StatusCode::OK, "application/json", wire::streamed(chunks)))
    }
}

fn one_error(error: &ApiError) -> Reply {
    let line = json!({"type": "ERROR", "object": error.status()}).to_string() + "\n";
    wire::json(StatusCode::OK, line)
}

struct WatchStream {
    view: View,
    selection: Selection,
    lines: Lines,
    initial: VecDeque<Arc<Object>>,
    backlog: VecDeque<Note>,
    /// The version of the initial objects, until the bookmark that ends them is sent.
    end_of_initial: Option<u64>,
    bookmarks: Option<Interval>,
    deadline: Instant,
    stopping: CancellationToken,
    watch: Watch,
}

/// Whether a table's columns were sent already.
#[derive(Default)]
struct Lines {
    columns_sent: bool,
}

impl WatchStream {
    /// The next lines, at least one; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let mut chunk = BytesMut::new();
        loop {
            while chunk.len() < CHUNK_BYTES
                && let Some(line) = self.ready()
            {
                if chunk.is_empty() && !self.more_ready() {
                    return Some(line);
                }
                chunk.extend_from_slice(&line);
            }
            if !chunk.is_empty() {
                return Some(chunk.freeze());
            }
            self.wait().await?;
        }
    }

    fn more_ready(&self) -> bool {
        !self.initial.is_empty() || !self.backlog.is_empty() || !self.watch.notes.is_empty()
    }

    /// A line that can be sent without waiting.
    fn ready(&mut self) -> Option<Bytes> {
        while let Some(object) = self.initial.pop_front() {
            if self.selection.matches(&object) {
                return Some(self.line(EventKind::Added, &object));
            }
        }
        if let Some(version) = self.end_of_initial.take() {
            return Some(self.bookmark(version, true));
        }
        loop {
            let note = match self.backlog.pop_front() {
                Some(note) => note,
                None => self.watch.notes.try_recv().ok()?,
            };
            match note {
                Note::Bookmark(version) => return Some(self.bookmark(version, false)),
                Note::Event(event) => {
                    if let Some(line) = self.event(&event) {
                        return Some(line);
                    }
                }
            }
        }
    }

    /// Waits until something may be ready; `None` if nothing will be any more.
    async fn wait(&mut self) -> Option<()> {
        let note = tokio::select! {
            note = self.watch.notes.recv() => note?,
            () = tick(&mut self.bookmarks) => {
                self.watch.request_bookmark();
                return Some(());
            }
            () = tokio::time::sleep_until(self.deadline) => return None,
            () = self.stopping.cancelled() => return None,
        };
        self.backlog.push_back(note);
        Some(())
    }

    /// The line for a change, as the selection sees it: an object that comes to match is added, one
    /// that ceases to is deleted.
    fn event(&mut self, event: &Arc<Event>) -> Option<Bytes> {
        let now = event.kind != EventKind::Deleted && self.selection.matches(&event.object);
        let before = match &event.old {
            Some(old) => self.selection.matches(old),
            None => false,
        };
        let kind = match (before, now) {
            (false, true) => EventKind::Added,
            (true, true) => EventKind::Modified,
            (true, false) => EventKind::Deleted,
            (false, false) => return None,
        };
        if kind == event.kind && self.view.is_verbatim(&event.object) {
            let line = event.line.get_or_init(|| verbatim(kind, &event.object.json));
            return Some(line.clone());
        }
        Some(self.line(kind, &event.object))
    }

    fn line(&mut self, kind: EventKind, object: &Object) -> Bytes {
        if self.view.is_verbatim(object) {
            return verbatim(kind, &object.json);
        }
        let with_columns = !std::mem::replace(&mut self.lines.columns_sent, true);
        let json = self.view.at(Timestamp::now()).json(object, with_columns);
        verbatim(kind, &json)
    }

    fn bookmark(&self, version: u64, ends_initial: bool) -> Bytes {
        let resource = &self.view.resource;
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if ends_initial {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let meta = || "meta.k8s.io/v1".to_owned();
        let (kind, api_version) = match self.view.form {
            Form::Table => ("Table", meta()),
            Form::Metadata => ("PartialObjectMetadata", meta()),
            _ => (resource.kind.as_str(), resource.api_version()),
        };
        let object: Value = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        Bytes::from(json!({"type": "BOOKMARK", "object": object}).to_string() + "\n")
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn verbatim(kind: EventKind, json: &[u8]) -> Bytes {
    let kind = kind.as_str();
    let mut line = BytesMut::with_capacity(json.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(json);
    line.extend_from_slice(b"}\n");
    line.freeze()
}
