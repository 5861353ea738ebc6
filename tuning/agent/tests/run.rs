//! Trials under the agent: real commands, real files, a reporter that can be away.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use mizzen_metrics_collector::{Format, MetricRecord};
use mizzen_trial_agent::{
    AgentError, AgentOptions, End, HttpSource, ReportError, Reporter, Source, run,
};

/// Keeps what it is told; away for the first few times.
#[derive(Default)]
struct Notes {
    away: Mutex<usize>,
    taken: Mutex<Vec<String>>,
}

impl Reporter for Notes {
    fn report(&self, records: Vec<MetricRecord>) -> BoxFuture<'_, Result<(), ReportError>> {
        Box::pin(async move {
            let mut away = self.away.lock().unwrap();
            if *away > 0 {
                *away -= 1;
                return Err(ReportError::Unavailable("away".into()));
            }
            assert!(records.iter().all(|r| r.timestamp.is_some()), "each has a time");
            let text = records.iter().map(|r| format!("{}={}", r.name, r.value));
            self.taken.lock().unwrap().extend(text);
            Ok(())
        })
    }
}

fn options(source: Source, script: &str) -> AgentOptions {
    AgentOptions {
        command: ["sh", "-c", script].map(str::to_owned).into(),
        metrics: vec!["loss".into(), "acc".into()],
        source,
        interval: Duration::from_millis(5),
        patience: Duration::from_secs(20),
        mark: None,
    }
}

fn file(path: PathBuf, format: Format) -> Source {
    Source::File { path, format, filters: vec![] }
}

async fn reported(options: AgentOptions, away: usize) -> (End, Vec<String>) {
    let notes = Arc::new(Notes { away: Mutex::new(away), ..Notes::default() });
    let end = run(options, notes.clone()).await.unwrap();
    let taken = notes.taken.lock().unwrap().clone();
    (end, taken)
}

#[tokio::test]
async fn metrics_of_files_are_reported_and_the_end_is_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let begun = at("before.log");
    std::fs::write(&begun, "loss=99\n").unwrap();
    type Case<'a> = (&'a str, PathBuf, Format, &'a str, End, &'a [&'a str]);
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        // what the case shows                   file            format        script, $F being the file                      end              reported
        ("text",                                 at("a/x.log"),  Format::Text, "mkdir -p $D; echo loss=1 >$F; echo acc=2 >>$F", End::Code(0), &["loss=1", "acc=2"]),
        ("a last line without its end",          at("b.log"),    Format::Text, "printf 'loss=1' >$F; exit 3",                 End::Code(3),    &["loss=1"]),
        ("JSON: numbers, texts, a broken line",  at("c.json"),   Format::Json, r#"echo '{"loss": 0.5, "acc": "0.9"}' >$F; echo '{"loss": ' >>$F; echo '{"loss": 1}' >>$F"#, End::Code(0), &["loss=0.5", "acc=0.9", "loss=1"]),
        ("what was there before is not its own", begun,          Format::Text, "echo loss=1 >>$F",                            End::Code(0),    &["loss=1"]),
        ("a file that is never written",         at("d.log"),    Format::Text, "true",                                        End::Code(0),    &[]),
        ("death by a signal",                    at("e.log"),    Format::Text, "echo loss=1 >$F; kill -KILL $$",              End::Signal(9),  &["loss=1"]),
        ("garbage",                              at("f.log"),    Format::Text, r"head -c 3000000 /dev/zero | tr '\0' '\377' >$F; printf '\nloss=1\n' >>$F", End::Code(0), &["loss=1"]),
    ];
    for (shows, path, format, script, end, want) in cases {
        let parent = path.parent().unwrap();
        let script = format!("F={} D={}\n{script}", path.display(), parent.display());
        let got = reported(options(file(path.clone(), *format), &script), 0).await;
        assert_eq!(got, (*end, want.iter().map(|w| (*w).to_owned()).collect()), "{shows}");
    }
}

/// Goal: values are told while the trial runs. Method: it ends only once the first has been told.
#[tokio::test]
async fn metrics_come_while_the_trial_runs_and_a_file_may_begin_anew() {
    struct Live(PathBuf, Notes);
    impl Reporter for Live {
        fn report(&self, records: Vec<MetricRecord>) -> BoxFuture<'_, Result<(), ReportError>> {
            std::fs::write(&self.0, "").unwrap();
            self.1.report(records)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, told) = (dir.path().join("m.log"), dir.path().join("told"));
    let script = format!(
        "echo 'epoch 1 loss=1' >{0}; while [ ! -e {1} ]; do sleep 0.01; done; echo loss=2 >{0}; sleep 0.2",
        path.display(),
        told.display()
    );
    let live = Arc::new(Live(told, Notes::default()));
    assert_eq!(
        run(options(file(path, Format::Text), &script), live.clone()).await.unwrap(),
        End::Code(0)
    );
    assert_eq!(*live.1.taken.lock().unwrap(), ["loss=1", "loss=2"]);
}

#[tokio::test]
async fn reports_wait_for_someone_to_take_them_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.log");
    let script = format!("echo loss=1 >{0}", path.display());
    let some = reported(options(file(path.clone(), Format::Text), &script), 2).await;
    assert_eq!(some, (End::Code(0), vec!["loss=1".to_owned()]));
    std::fs::remove_file(&path).unwrap();
    let mut impatient = options(file(path, Format::Text), &script);
    impatient.patience = Duration::ZERO;
    assert_eq!(reported(impatient, usize::MAX).await, (End::Code(0), vec![]));
}

#[tokio::test]
async fn event_files_below_a_directory_are_read() {
    // One event, its loss 0.5, as TensorFlow writes it; and as a trial that runs twice would leave it.
    let event: Vec<u8> = {
        let value = [&[0x0a, 4][..], b"loss", &[0x15], &0.5f32.to_le_bytes()].concat();
        let summary = [&[0x0a, value.len() as u8][..], &value].concat();
        [&[0x09][..], &1f64.to_le_bytes(), &[0x2a, summary.len() as u8], &summary].concat()
    };
    let length = (event.len() as u64).to_le_bytes();
    let record =
        [&length[..], &crc(&length).to_le_bytes(), &event, &crc(&event).to_le_bytes()].concat();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ready"), record).unwrap();
    let (root, logs) = (dir.path().display(), dir.path().join("logs"));
    let script = format!(
        "mkdir -p {root}/logs/train; cp {root}/ready {root}/logs/train/events.out.tfevents.1.host; cp {root}/ready {root}/logs/other"
    );
    assert_eq!(reported(options(Source::Events(logs), &script), 0).await.1, ["loss=0.5"]);
}

/// CRC-32C as TensorFlow masks it, bit by bit.
fn crc(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        (0..8).for_each(|_| crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()));
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[tokio::test]
async fn a_page_is_read_while_it_is_served() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let mark = seen.clone();
    let serving = tokio::spawn(async move {
        for page in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            assert!(request[..n].starts_with(b"GET /metrics HTTP/1.0\r\n"));
            let value = if page < 2 { 1 } else { 2 };
            let answer = format!("HTTP/1.0 200 OK\r\n\r\n# TYPE loss gauge\nloss {value}\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            if page == 3 {
                std::fs::write(&mark, "").unwrap();
            }
        }
    });
    let page = HttpSource { host: "127.0.0.1".into(), port, path: "/metrics".into() };
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done", seen.display());
    let got = reported(options(Source::Http(page), &script), 0).await;
    assert_eq!(got.1, ["loss=1", "loss=2"], "a value is told once");
    serving.abort();
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_by_name_and_katibs_mark_is_left() {
    let notes: Arc<Notes> = Arc::default();
    let mut none = options(Source::None, "");
    none.command = vec![];
    assert!(matches!(run(none, notes.clone()).await, Err(AgentError::NoCommand)));
    let mut missing = options(Source::None, "");
    missing.command = vec!["mizzen-no-such-command".into()];
    let error = run(missing, notes.clone()).await.unwrap_err().to_string();
    assert_eq!(error, "cannot run `mizzen-no-such-command`");

    let dir = tempfile::tempdir().unwrap();
    let marked = AgentOptions { mark: Some(dir.path().into()), ..options(Source::None, "true") };
    run(marked, notes).await.unwrap();
    let marks = marks(dir.path());
    assert_eq!(marks.len(), 1);
    assert_eq!(std::fs::read_to_string(&marks[0]).unwrap(), "completed\n");
}

fn marks(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}
