//! Traces of single requests, written to a file as Triton writes them.
//!
//! Every so many requests of a model leave the times at which they were received, queued, run and
//! answered. Clients may change how many and which; where they go is for who starts the server,
//! since a file written at a client's word is a way into the machine. With no file, or tracing off,
//! a request costs one look at a flag.
//!
//! The file is one JSON array at every moment: a trace is written over the closing bracket and
//! followed by another.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mizzen_types::ErrorCode;

use crate::{
    ServeError,
    settings::{SettingValue, SettingValues, unknown, wrong},
    stats::Parts,
};

/// How requests are traced at start: Triton's `--trace-config`, with its defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceOptions {
    /// Where traces go (`triton,file`); `None` is nowhere.
    pub file: Option<PathBuf>,
    /// Whether requests are traced at all (`level=TIMESTAMPS`).
    pub timestamps: bool,
    /// One of so many requests is (`rate`), 1 or more.
    pub rate: u32,
    /// How many are, -1 without end (`count`).
    pub count: i64,
    /// Traces in one file, after which another is begun, its number behind its name; 0 is one file
    /// for all (`triton,log-frequency`).
    pub log_frequency: u32,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self { file: None, timestamps: false, rate: 1000, count: -1, log_frequency: 0 }
    }
}

impl TraceOptions {
    /// Takes one value of `--trace-config`: `triton,file=…`, `triton,log-frequency=…`, `level=…`,
    /// `rate=…` or `count=…`.
    ///
    /// # Errors
    /// `InvalidArgument` for a setting that is none or has no such value.
    pub fn take(&mut self, flag: &str) -> Result<(), ServeError> {
        let setting = flag.strip_prefix("triton,").unwrap_or(flag);
        let bad = |want: &str| {
            let message = format!("`--trace-config {flag}` is not usable; expected {want}");
            ServeError::new(ErrorCode::InvalidArgument, message)
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(bad("`setting=value`"));
        };
        match (name, value) {
            ("mode", "triton") => {}
            ("file", path) if !path.is_empty() => self.file = Some(PathBuf::from(path)),
            ("level", "OFF") => self.timestamps = false,
            ("level", "TIMESTAMPS") => self.timestamps = true,
            ("rate", value) => {
                let rate = value.parse().ok().filter(|rate| *rate > 0);
                self.rate = rate.ok_or_else(|| bad("a number of requests, 1 or more"))?;
            }
            ("count", value) => {
                let count = value.parse().ok().filter(|count| *count >= -1);
                self.count = count.ok_or_else(|| bad("a number of traces, or -1 for all"))?;
            }
            ("log-frequency" | "log_frequency", value) => {
                self.log_frequency = value.parse().map_err(|_| bad("a number of traces"))?;
            }
            _ => {
                return Err(bad(
                    "`triton,file=FILE`, `triton,log-frequency=N`, `level=TIMESTAMPS` or `OFF`, `rate=N` or `count=N`",
                ));
            }
        }
        Ok(())
    }
}

/// Which requests are traced; a setting that is `None` is taken from above.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Change {
    timestamps: Option<bool>,
    rate: Option<u32>,
    count: Option<i64>,
    log_frequency: Option<u32>,
}

/// The same with nothing left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Setting {
    timestamps: bool,
    rate: u32,
    count: i64,
    log_frequency: u32,
}

impl Change {
    fn over(self, below: Setting) -> Setting {
        Setting {
            timestamps: self.timestamps.unwrap_or(below.timestamps),
            rate: self.rate.unwrap_or(below.rate),
            count: self.count.unwrap_or(below.count),
            log_frequency: self.log_frequency.unwrap_or(below.log_frequency),
        }
    }
}

/// A setting at work: which request is next, and how many traces are left.
#[derive(Debug, Clone, Copy, Default)]
struct Sampler {
    change: Change,
    seen: u64,
    taken: i64,
}

impl Sampler {
    fn sample(&mut self, setting: Setting) -> bool {
        if !setting.timestamps {
            return false;
        }
        self.seen += 1;
        let due = self.seen.is_multiple_of(u64::from(setting.rate.max(1)));
        let left = setting.count < 0 || self.taken < setting.count;
        self.taken += i64::from(due && left);
        due && left
    }

    /// How many are left to trace, as Triton shows it.
    fn left(&self, setting: Setting) -> i64 {
        if setting.count < 0 { -1 } else { (setting.count - self.taken).max(0) }
    }
}

/// Decides which requests are traced and writes their traces.
pub(crate) struct Tracer {
    start: Setting,
    path: Option<PathBuf>,
    /// Whether any request may be traced.
    on: AtomicBool,
    samplers: Mutex<Samplers>,
    writer: Mutex<Writer>,
    /// One moment by both clocks.
    epoch: (Instant, Duration),
}

#[derive(Default)]
struct Samplers {
    global: Sampler,
    models: BTreeMap<String, Sampler>,
    next_id: u64,
}

#[derive(Default)]
struct Writer {
    file: Option<File>,
    in_file: u32,
    index: u32,
}

/// A request that is traced.
pub(crate) struct Traced {
    tracer: Arc<Tracer>,
    id: u64,
    request_id: String,
    log_frequency: u32,
}

/// When a request was where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    pub(crate) arrived: Instant,
    pub(crate) started: Instant,
    /// When its answer, or the last of them, was there to be sent.
    pub(crate) answered: Instant,
    pub(crate) parts: Parts,
}

impl Tracer {
    pub(crate) fn new(options: &TraceOptions) -> Arc<Self> {
        let start = Setting {
            timestamps: options.timestamps,
            rate: options.rate,
            count: options.count,
            log_frequency: options.log_frequency,
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Arc::new(Self {
            start,
            path: options.file.clone(),
            on: AtomicBool::new(options.timestamps && options.file.is_some()),
            samplers: Mutex::default(),
            writer: Mutex::default(),
            epoch: (Instant::now(), since),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Samplers> {
        self.samplers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next request of this model is traced.
    pub(crate) fn sample(self: &Arc<Self>, model: &str, request_id: &str) -> Option<Box<Traced>> {
        if !self.on.load(Ordering::Relaxed) {
            return None;
        }
        let samplers = &mut *self.lock();
        let global = samplers.global.change.over(self.start);
        let (setting, sampler) = match samplers.models.get_mut(model) {
            Some(own) => (own.change.over(global), own),
            None => (global, &mut samplers.global),
        };
        if !sampler.sample(setting) {
            return None;
        }
        samplers.next_id += 1;
        let (id, request_id) = (samplers.next_id, request_id.to_owned());
        let log_frequency = setting.log_frequency;
        Some(Box::new(Traced { tracer: self.clone(), id, request_id, log_frequency }))
    }

    /// The settings of a model, or the global ones, by Triton's names.
    pub(crate) fn show(&self, model: Option<&str>) -> Vec<(&'static str, SettingValue)> {
        let samplers = self.lock();
        let global = samplers.global.change.over(self.start);
        let own = model.and_then(|model| samplers.models.get(model));
        let (setting, sampler) =
            own.map_or((global, &samplers.global), |own| (own.change.over(global), own));
        let text = |text: String| SettingValue::Text(text);
        let level = if setting.timestamps { "TIMESTAMPS" } else { "OFF" };
        let file = self.path.as_ref().map(|path| path.display().to_string());
        vec![
            ("trace_level", SettingValue::List(vec![level.to_owned()])),
            ("trace_rate", text(setting.rate.to_string())),
            ("trace_count", text(sampler.left(setting).to_string())),
            ("log_frequency", text(setting.log_frequency.to_string())),
            ("trace_file", text(file.unwrap_or_default())),
            ("trace_mode", text("triton".to_owned())),
        ]
    }

    /// Changes the settings of a model, or the global ones; nothing if any is wrong.
    ///
    /// # Errors
    /// `InvalidArgument` naming the setting, `Unsupported` for what is not for clients to set,
    /// `FailedPrecondition` for tracing without a file to write to.
    pub(crate) fn update(
        &self,
        model: Option<&str>,
        values: &SettingValues,
    ) -> Result<(), ServeError> {
        let mut samplers = self.lock();
        let own = model.map(|model| samplers.models.get(model).copied().unwrap_or_default());
        let mut change = own.unwrap_or(samplers.global).change;
        for (name, value) in values {
            change_one(&mut change, name, value)?;
        }
        if change.timestamps == Some(true) && self.path.is_none() {
            let message = "there is no file for traces; start the server with `--trace-config triton,file=FILE`";
            return Err(ServeError::new(ErrorCode::FailedPrecondition, message));
        }
        let sampler = Sampler { change, ..Sampler::default() };
        match model {
            None => samplers.global = sampler,
            // A model without a setting of its own counts with all others.
            Some(model) if change == Change::default() => drop(samplers.models.remove(model)),
            Some(model) => drop(samplers.models.insert(model.to_owned(), sampler)),
        }
        let global = samplers.global.change.over(self.start);
        let mut all = samplers.models.values().map(|own| own.change.over(global)).chain([global]);
        self.on.store(self.path.is_some() && all.any(|s| s.timestamps), Ordering::Relaxed);
        Ok(())
    }

    fn ns(&self, moment: Instant) -> u64 {
        let (instant, since) = self.epoch;
        let at = match moment.checked_duration_since(instant) {
            Some(after) => since.saturating_add(after),
            None => since.saturating_sub(instant.duration_since(moment)),
        };
        u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
    }

    fn append(&self, entries: &[String], log_frequency: u32) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if log_frequency > 0 && writer.in_file >= log_frequency {
            *writer = Writer { index: writer.index + 1, ..Writer::default() };
        }
        let first = writer.file.is_none();
        if first {
            let mut name = path.clone().into_os_string();
            if log_frequency > 0 {
                name.push(format!(".{}", writer.index));
            }
            writer.file = Some(File::create(name)?);
        }
        writer.in_file += 1;
        let Some(file) = &mut writer.file else { return Ok(()) };
        let text = entries.join(",");
        if first {
            return write!(file, "[{text}]");
        }
        file.seek(SeekFrom::End(-1))?;
        write!(file, ",{text}]")
    }
}

fn change_one(change: &mut Change, name: &str, value: &SettingValue) -> Result<(), ServeError> {
    let cleared = *value == SettingValue::Clear || *value == SettingValue::List(Vec::new());
    let number = |want: &str, least: i64, most: i64| match value.number() {
        _ if cleared => Ok(None),
        Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(wrong(name, want, value)),
    };
    let small = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    match name {
        "trace_file" => {
            let words = "trace file location can not be updated through network protocol; it is set by `--trace-config triton,file=FILE`";
            return Err(ServeError::new(ErrorCode::Unsupported, words));
        }
        "trace_level" if cleared => change.timestamps = None,
        "trace_level" => {
            let texts = value.texts().unwrap_or_default();
            change.timestamps = match &texts[..] {
                ["OFF"] => Some(false),
                [_, ..] if texts.iter().all(|text| *text == "TIMESTAMPS") => Some(true),
                _ => {
                    return Err(wrong(
                        name,
                        "`OFF` or `TIMESTAMPS`; tensors are not traced",
                        value,
                    ));
                }
            };
        }
        "trace_rate" => {
            let most = u32::MAX.into();
            change.rate = small(number("a number of requests, 1 or more", 1, most)?);
        }
        "trace_count" => {
            change.count = number("a number of traces, or -1 for all", -1, i32::MAX.into())?;
        }
        "log_frequency" => {
            let most = u32::MAX.into();
            change.log_frequency = small(number("a number of traces, 0 for one file", 0, most)?);
        }
        "trace_mode" => {
            let words = "trace mode can not be updated through network protocol; it is set by `--trace-config mode=MODE`";
            return Err(ServeError::new(ErrorCode::Unsupported, words));
        }
        _ => {
            let known = "`trace_level`, `trace_rate`, `trace_count` or `log_frequency`";
            return Err(unknown(name, known));
        }
    }
    Ok(())
}

impl Traced {
    /// Writes the trace of a request that has just been answered.
    pub(crate) fn write(&self, model: &str, version: u64, moments: &Moments) {
        let Moments { arrived, started, answered, parts } = *moments;
        let [input, infer, output] = fitting(parts, answered.saturating_duration_since(started));
        let stamps = [
            ("REQUEST_START", arrived),
            ("QUEUE_START", arrived),
            ("COMPUTE_START", started),
            ("COMPUTE_INPUT_END", started + input),
            ("COMPUTE_OUTPUT_START", started + input + infer),
            ("COMPUTE_END", started + input + infer + output),
            ("REQUEST_END", answered),
        ];
        let stamps: Vec<_> = stamps
            .into_iter()
            .map(|(name, at)| serde_json::json!({ "name": name, "ns": self.tracer.ns(at) }))
            .collect();
        let (id, request_id) = (self.id, &self.request_id);
        let entries = [
            serde_json::json!({ "id": id, "model_name": model, "model_version": version, "request_id": request_id }),
            serde_json::json!({ "id": id, "timestamps": stamps }),
        ];
        let written =
            self.tracer.append(&entries.map(|entry| entry.to_string()), self.log_frequency);
        if let Err(error) = written {
            tracing::warn!(%error, "a trace could not be written");
        }
    }
}

/// The parts as they fit into the time that has passed. Those of a request that ran in pieces side
/// by side add up to more; they are shown in proportion, so that moments stay in order.
fn fitting(parts: Parts, passed: Duration) -> Parts {
    let sum: Duration = parts.iter().sum();
    if sum <= passed {
        return parts;
    }
    let share = passed.as_secs_f64() / sum.as_secs_f64();
    // Rounding each down keeps the sum within.
    parts.map(|part| Duration::from_nanos((part.as_nanos() as f64 * share) as u64))
}

#[cfg(test)]
mod tests {
    use mizzen_types::Coded;

    use super::*;

    fn tracer(flags: &[&str]) -> Arc<Tracer> {
        let mut options = TraceOptions::default();
        flags.iter().for_each(|flag| options.take(flag).unwrap());
        Tracer::new(&options)
    }

    fn values(of: &[(&str, &str)]) -> SettingValues {
        let value = |text: &str| match text {
            "" => SettingValue::Clear,
            text => SettingValue::List(vec![text.to_owned()]),
        };
        of.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect()
    }

    fn sampled(tracer: &Arc<Tracer>, model: &str, requests: usize) -> usize {
        (0..requests).filter(|_| tracer.sample(model, "").is_some()).count()
    }

    fn shown(tracer: &Tracer, model: Option<&str>, name: &str) -> String {
        let value = tracer.show(model).into_iter().find(|(n, _)| *n == name).unwrap().1;
        value.texts().unwrap().join(",")
    }

    #[test]
    fn as_many_are_traced_as_asked_for() {
        let tracer = tracer(&["triton,file=/nowhere/t", "level=TIMESTAMPS", "rate=10", "count=3"]);
        assert_eq!(sampled(&tracer, "a", 9), 0);
        assert_eq!(sampled(&tracer, "b", 1), 1, "models count together");
        assert_eq!(shown(&tracer, None, "trace_count"), "2");
        assert_eq!(sampled(&tracer, "a", 100), 2, "and then no more");
        tracer.update(None, &values(&[("trace_count", "-1")])).unwrap();
        assert_eq!(sampled(&tracer, "a", 100), 10, "an update counts anew");
    }

    #[test]
    fn a_model_has_its_own_settings_until_they_are_cleared() {
        let tracer = tracer(&["triton,file=/nowhere/t", "rate=100"]);
        assert_eq!(sampled(&tracer, "a", 100), 0, "off");
        tracer
            .update(Some("a"), &values(&[("trace_level", "TIMESTAMPS"), ("trace_rate", "1")]))
            .unwrap();
        assert_eq!((sampled(&tracer, "a", 5), sampled(&tracer, "b", 500)), (5, 0));
        assert_eq!(shown(&tracer, Some("a"), "trace_rate"), "1");
        assert_eq!(shown(&tracer, Some("b"), "trace_rate"), "100");
        tracer
            .update(None, &values(&[("trace_level", "TIMESTAMPS"), ("trace_rate", "50")]))
            .unwrap();
        tracer.update(Some("a"), &values(&[("trace_rate", "")])).unwrap();
        assert_eq!(shown(&tracer, Some("a"), "trace_rate"), "50", "as the global one");
        tracer.update(None, &values(&[("trace_rate", ""), ("trace_level", "")])).unwrap();
        assert_eq!(shown(&tracer, None, "trace_rate"), "100", "as at start");
        assert_eq!(shown(&tracer, None, "trace_level"), "OFF");
        tracer.update(Some("a"), &values(&[("trace_level", "")])).unwrap();
        assert!(!tracer.on.load(Ordering::Relaxed));
    }

    #[test]
    fn settings_that_cannot_be_had_change_nothing() {
        let with_file = tracer(&["triton,file=/nowhere/t"]);
        let before = with_file.show(None);
        #[rustfmt::skip]
        let cases = [
            // what the case shows  setting          value       words
            ("the file",            "trace_file",    "/etc/x",   "can not be updated through network protocol"),
            ("tensors",             "trace_level",   "TENSORS",  "tensors are not traced"),
            ("no rate",             "trace_rate",    "0",        "`trace_rate` must be a number of requests, 1 or more; got [\"0\"]"),
            ("beyond a count",      "trace_count",   "-2",       "or -1 for all"),
            ("no number",           "log_frequency", "often",    "must be a number of traces"),
            ("no such setting",     "trace_colour",  "blue",     "`trace_colour` is not a setting"),
        ];
        for (shows, name, value, words) in cases {
            let values = values(&[("trace_level", "TIMESTAMPS"), (name, value)]);
            let error = with_file.update(None, &values).unwrap_err();
            assert!(error.to_string().contains(words), "{shows}: {error}");
            assert_eq!(with_file.show(None), before, "{shows}");
        }
        let error =
            tracer(&[]).update(None, &values(&[("trace_level", "TIMESTAMPS")])).unwrap_err();
        assert_eq!(error.code(), ErrorCode::FailedPrecondition);
        assert!(error.to_string().contains("--trace-config triton,file="), "{error}");
    }

    #[test]
    fn a_file_is_one_array_at_every_moment_and_begins_anew_when_full() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.json");
        let flag = format!("triton,file={}", path.display());
        let entries = |path: &std::path::Path| -> Vec<serde_json::Value> {
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let write = |tracer: &Arc<Tracer>| {
            let arrived = Instant::now();
            let parts = [1, 20, 3].map(Duration::from_millis);
            let [started, answered] = [5, 30].map(|ms| arrived + Duration::from_millis(ms));
            let moments = Moments { arrived, started, answered, parts };
            tracer.sample("m", "r").unwrap().write("m", 3, &moments);
        };
        let one = tracer(&[&flag, "level=TIMESTAMPS", "rate=1"]);
        for traces in 1..=3 {
            write(&one);
            assert_eq!(entries(&path).len(), 2 * traces);
        }
        let all = entries(&path);
        assert_eq!(
            all[0],
            serde_json::json!({"id": 1, "model_name": "m", "model_version": 3, "request_id": "r"})
        );
        let stamps = all[1]["timestamps"].as_array().unwrap();
        let ns: Vec<u64> = stamps.iter().map(|stamp| stamp["ns"].as_u64().unwrap()).collect();
        let after = |at: usize| (ns[at] - ns[0]) / 1_000_000;
        assert_eq!([1, 2, 3, 4, 5, 6].map(after), [0, 5, 6, 26, 29, 30]);

        let many = tracer(&[&flag, "level=TIMESTAMPS", "rate=1", "triton,log-frequency=2"]);
        (0..3).for_each(|_| write(&many));
        assert_eq!(entries(&dir.path().join("trace.json.0")).len(), 4);
        assert_eq!(entries(&dir.path().join("trace.json.1")).len(), 2);
    }

    #[test]
    fn what_ran_side_by_side_is_shown_within_the_time_that_passed() {
        let ms = |parts: [u64; 3]| parts.map(Duration::from_millis);
        let passed = Duration::from_millis(30);
        assert_eq!(fitting(ms([1, 20, 9]), passed), ms([1, 20, 9]), "one after the other");
        assert_eq!(fitting(ms([10, 40, 10]), passed), ms([5, 20, 5]), "two at a time");
        assert_eq!(fitting(ms([1, 1, 1]), Duration::ZERO), ms([0, 0, 0]));
        let odd = fitting([7, 11, 13].map(Duration::from_nanos), Duration::from_nanos(29));
        assert!(odd.iter().sum::<Duration>() <= Duration::from_nanos(29), "{odd:?}");
    }

    #[test]
    fn a_flag_that_is_none_says_what_it_may_be() {
        let mut options = TraceOptions::default();
        for (flag, words) in [
            ("rate=0", "1 or more"),
            ("count=-2", "-1 for all"),
            ("level=TENSORS", "`level=TIMESTAMPS` or `OFF`"),
            ("triton,file=", "`triton,file=FILE`"),
            ("fast", "`setting=value`"),
        ] {
            let error = options.take(flag).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.to_string().contains(words), "{flag}: {error}");
        }
    }
}
