//! What is shown of an experiment while it runs: lines of text, as a function of what is known, the time
//! and the room there is.

use std::collections::BTreeMap;

use mizzen_crds::{Experiment, ExperimentStatus, Trial, TrialPhase};

use super::{assignment, shortened};

/// Rows of trials where the terminal says nothing of its height.
const ROWS: usize = 12;
/// The widest cell; names and values longer than this are cut.
const CELL_MAX: usize = 26;

/// What is known of an experiment.
#[derive(Default)]
pub(super) struct Board {
    name: String,
    metric: String,
    parameters: Vec<String>,
    parallel: usize,
    trials_max: Option<u64>,
    status: ExperimentStatus,
    running: BTreeMap<(i64, String), Running>,
    /// Milliseconds that ended trials took together, and how many they are.
    spent: (i64, i64),
    /// The widest each column has been: it does not become narrower, so that nothing jumps.
    widths: Vec<usize>,
}

struct Running {
    uid: String,
    since_ms: Option<i64>,
    value: String,
    given: Vec<String>,
}

impl Board {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Takes up what an experiment has come to.
    pub(super) fn experiment(&mut self, experiment: &Experiment) {
        let spec = &experiment.spec;
        self.metric = spec.objective().objective_metric_name;
        self.parameters = spec.parameters.iter().map(|p| p.name.clone()).collect();
        self.parallel = spec.parallel();
        self.trials_max = spec.max_trial_count.and_then(|n| u64::try_from(n).ok());
        self.status = experiment.status.clone().unwrap_or_default();
    }

    /// Takes up what a trial has come to; `ended` if this is the first that is heard of its end.
    pub(super) fn trial(&mut self, name: &str, trial: &Trial, ended: bool) {
        let status = trial.status.clone().unwrap_or_default();
        let since_ms = status.start_time.as_ref().map(|t| t.0.as_millisecond());
        // The oldest first: a trial's name says nothing of its order.
        let made = trial.metadata.creation_timestamp.as_ref().map(|t| t.0.as_second());
        let key = (made.unwrap_or(i64::MAX), name.to_owned());
        if status.phase() == TrialPhase::Running {
            let given = self.parameters.iter().map(|p| assignment(trial, p)).collect();
            let uid = trial.metadata.uid.clone().unwrap_or_default();
            let value = self.running.remove(&key).map(|r| r.value).unwrap_or_default();
            self.running.insert(key, Running { uid, since_ms, value, given });
            return;
        }
        self.running.remove(&key);
        let end = status.completion_time.map(|t| t.0.as_millisecond());
        if let (true, Some(since), Some(end)) = (ended, since_ms, end) {
            self.spent = (self.spent.0 + (end - since).max(0), self.spent.1 + 1);
        }
    }

    /// Uids of the trials that run, the first `most` of them.
    pub(super) fn running(&self, most: usize) -> Vec<String> {
        self.running.values().take(most).map(|r| r.uid.clone()).collect()
    }

    /// The newest value of the objective in a running trial.
    pub(super) fn newest(&mut self, uid: &str, value: &str) {
        if let Some(running) = self.running.values_mut().find(|r| r.uid == uid) {
            running.value = shortened(value);
        }
    }

    /// The name of the objective's metric.
    pub(super) fn metric(&self) -> &str {
        &self.metric
    }

    /// The lines to show, none longer than `width`, at most `height`.
    pub(super) fn lines(&mut self, now_ms: i64, (width, height): (usize, usize)) -> Vec<String> {
        let mut lines = vec![self.head(now_ms, width), self.counts()];
        lines.extend(self.best());
        let room = if height == 0 { ROWS } else { height.saturating_sub(lines.len() + 3) };
        lines.extend(self.table(now_ms, width, room.max(1)));
        // One column stays free: some terminals wrap when the last is written.
        lines.into_iter().map(|line| cut(&line, width.saturating_sub(1))).collect()
    }

    fn head(&self, now_ms: i64, width: usize) -> String {
        let (done, of) = (self.done(), self.trials_max);
        let count = of.map_or_else(|| format!("{done} trials"), |of| format!("{done}/{of} trials"));
        let elapsed = self.started_ms().map(|s| time((now_ms - s) / 1000)).unwrap_or_default();
        let left = match self.left_ms(now_ms) {
            Some(ms) => format!(", about {} left", time(ms.div_euclid(1000).max(1))),
            None => String::new(),
        };
        let bar = of.map(|of| bar(done, of, (width / 5).clamp(8, 28))).unwrap_or_default();
        format!("{}  {bar}{count}  {elapsed}{left}", cut(&self.name, width / 3))
    }

    fn counts(&self) -> String {
        let status = &self.status;
        let counts = [
            (status.trials_succeeded, "succeeded"),
            (status.trials_early_stopped, "stopped early"),
            (status.trials_failed, "failed"),
            (status.trials_killed, "killed"),
            (status.trial_metrics_unavailable, "without metrics"),
            (status.trials_running, "running"),
            (status.trials_pending, "pending"),
        ];
        let shown = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}"));
        let words = shown.collect::<Vec<_>>().join(", ");
        if words.is_empty() { "no trials yet".into() } else { words }
    }

    fn best(&self) -> Option<String> {
        let best = self.status.current_optimal_trial.as_ref()?;
        let value = best.best_objective.as_deref().map(shortened)?;
        let given = best.parameter_assignments.iter();
        let given = given.map(|a| format!("{}={}", a.name, shortened(&a.value)));
        let given = given.collect::<Vec<_>>().join(" ");
        Some(format!("best {} {value}  {}  {given}", self.metric, best.best_trial_name))
    }

    /// The running trials, as many columns and rows as there is room for.
    fn table(&mut self, now_ms: i64, width: usize, room: usize) -> Vec<String> {
        if self.running.is_empty() {
            return Vec::new();
        }
        let mut header = vec!["TRIAL".to_owned(), "TIME".into(), self.metric.to_uppercase()];
        header.extend(self.parameters.iter().map(|p| p.to_uppercase()));
        let shown = if self.running.len() > room { room.saturating_sub(1) } else { room };
        let mut rows = vec![header];
        for ((_, name), running) in self.running.iter().take(shown) {
            let age = running.since_ms.map(|s| time((now_ms - s) / 1000)).unwrap_or_default();
            let mut row = vec![name.clone(), age, running.value.clone()];
            row.extend(running.given.iter().cloned());
            rows.push(row);
        }
        let columns = rows[0].len();
        self.widths.resize(columns, 0);
        for row in &mut rows {
            for (cell, widest) in row.iter_mut().zip(&mut self.widths) {
                *cell = cut(cell, CELL_MAX);
                *widest = (*widest).max(cell.chars().count());
            }
        }
        let mut used = 0;
        let fits = self.widths.iter().take_while(|w| {
            used += **w + 2;
            used < width
        });
        let fits = fits.count().max(1);
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&self.widths).take(fits);
            let cells: Vec<String> = cells.map(|(cell, w)| format!("{cell:<w$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        let mut lines = vec![String::new()];
        lines.extend(rows.iter().map(line));
        let hidden = self.running.len().saturating_sub(shown);
        if hidden > 0 {
            lines.push(format!("… and {hidden} more"));
        }
        lines
    }

    fn done(&self) -> u64 {
        let s = &self.status;
        let done = s.trials_succeeded
            + s.trials_failed
            + s.trials_killed
            + s.trials_early_stopped
            + s.trial_metrics_unavailable;
        u64::try_from(done).unwrap_or(0)
    }

    fn started_ms(&self) -> Option<i64> {
        self.status.start_time.as_ref().map(|t| t.0.as_millisecond())
    }

    /// What is left if trials go on taking as long as they did: what running ones still need and all that
    /// have not begun, shared by those that run at once.
    fn left_ms(&self, now_ms: i64) -> Option<i64> {
        let (spent, ended) = self.spent;
        let (mean, max) = (spent.checked_div(ended)?, self.trials_max?);
        let age = |r: &Running| r.since_ms.map_or(0, |s| now_ms - s);
        let running: i64 = self.running.values().map(|r| (mean - age(r)).max(0)).sum();
        let begun = self.done() + self.running.len() as u64;
        let waiting = i64::try_from(max.saturating_sub(begun)).ok()?;
        let work = running.checked_add(mean.checked_mul(waiting)?)?;
        let at_once = (waiting + self.running.len() as i64).min(self.parallel.max(1) as i64).max(1);
        // No share of the work is done before its longest part.
        let longest = if waiting > 0 {
            mean
        } else {
            self.running.values().map(|r| (mean - age(r)).max(0)).max()?
        };
        (begun > 0).then_some((work / at_once).max(longest))
    }
}

fn bar(done: u64, of: u64, width: usize) -> String {
    let share = done as f64 / of.max(1) as f64;
    let full = ((share * width as f64) as usize).min(width);
    format!("{}{}  ", "━".repeat(full), "─".repeat(width - full))
}

/// Seconds for people, in few characters.
pub(super) fn time(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=99 => format!("{s} s"),
        s @ 100..=5_999 => format!("{} min {:02} s", s / 60, s % 60),
        s => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

/// The beginning of a text that fits, with an ellipsis where something was left off. Signs that would move
/// the cursor are left out.
fn cut(text: &str, room: usize) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    if plain.chars().count() <= room {
        return plain;
    }
    let kept: String = plain.chars().take(room.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(running: usize, value: &str) -> Board {
        let experiment: Experiment = serde_json::from_value(json!({
            "apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": { "name": "digits" },
            "spec": { "maxTrialCount": 40, "parallelTrialCount": running,
                "objective": { "type": "maximize", "objectiveMetricName": "accuracy" },
                "parameters": (0..6).map(|n| json!({ "name": format!("parameter-{n}"), "parameterType": "double" })).collect::<Vec<_>>() },
            "status": { "startTime": "1970-01-01T00:00:00Z", "trialsSucceeded": 10, "trialsRunning": running, "trialsFailed": 1,
                "currentOptimalTrial": { "bestTrialName": "digits-3", "bestObjective": "0.98", "observation": {},
                    "parameterAssignments": [{ "name": "parameter-0", "value": "0.12345678901234" }] } },
        })).unwrap();
        let mut board = Board::new("digits");
        board.experiment(&experiment);
        for n in 0..running {
            let name = format!("digits-{n}");
            board.trial(&name, &trial(&name, value, None), false);
            board.newest(&name, "0.5");
        }
        board
    }

    fn trial(name: &str, value: &str, ended: Option<&str>) -> Trial {
        let type_ = if ended.is_some() { "Succeeded" } else { "Running" };
        serde_json::from_value(json!({
            "apiVersion": "kubeflow.org/v1beta1", "kind": "Trial", "metadata": { "name": name, "uid": name },
            "spec": { "parameterAssignments": [{ "name": "parameter-0", "value": value }] },
            "status": { "startTime": "1970-01-01T00:00:10Z", "completionTime": ended,
                "conditions": [{ "type": type_, "status": "True" }] },
        })).unwrap()
    }

    #[test]
    fn lines_never_exceed_the_terminal_whatever_its_size() {
        for running in [0, 1, 30] {
            for width in [1, 10, 40, 80, 120, 300] {
                for height in [0, 1, 6, 24, 60] {
                    let mut board = of(
                        running,
                        "\u{1b}[2J a value\nof two lines that is far too long for a cell",
                    );
                    let lines = board.lines(70_000, (width, height));
                    assert!(lines.iter().all(|l| l.chars().count() < width.max(2)), "{lines:?}");
                    assert!(lines.iter().all(|l| !l.contains(char::is_control)), "{lines:?}");
                    assert!(
                        height < 8 || lines.len() < height,
                        "{} lines of {height}",
                        lines.len()
                    );
                }
            }
        }
    }

    #[test]
    fn it_tells_what_runs_what_is_best_and_how_long_it_takes() {
        let mut board = of(2, "0.25");
        // One trial that took 20 s; two run since 5 s; 27 have not begun: (2 · 15 + 27 · 20) / 2 s are left.
        board.trial("digits-9", &trial("digits-9", "1", Some("1970-01-01T00:00:30Z")), true);
        let text = board.lines(15_000, (110, 24)).join("\n");
        for words in [
            "11/40 trials",
            "15 s, about 4 min 45 s left",
            "10 succeeded, 1 failed, 2 running",
            "best accuracy 0.98  digits-3  parameter-0=0.123457",
            "digits-1",
            "ACCURACY",
            "0.5",
            "0.25",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
        let lines = of(30, "1").lines(15_000, (80, 12)).join("\n");
        assert!(lines.contains("… and 25 more"), "{lines}");
    }
}
