//! `mizzen tune`

mod board;
mod describe;
mod font;
mod read;
mod report;
mod screen;

use std::{collections::BTreeMap, io::Write, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use kube::{Api, Client, runtime::watcher};
use mizzen_crds::{Experiment, LABEL_EXPERIMENT, Suggestion, Trial, TrialPhase, has_condition};
use mizzen_types::ErrorCode;
use serde_json::{Value, json};

pub(crate) use read::SeriesApi;

use self::{board::Board, read::Reader, screen::Screen};
use crate::{
    connect::Target,
    failure::{Failure, Result},
    follow::{took, watch},
    global::{Global, Output, block_on},
    stack::{self, NodeFlags, Parts, Session, Signals},
    table,
};

/// Run a Katib Experiment until it ends, and print the best parameters
///
/// Needs no server: without --server or --context it runs in the data directory, in this process, and
/// carries on an experiment that was cut off before. Trials run as processes of this machine, in parallel
/// as `parallelTrialCount` says. Progress goes to stderr; the result goes to stdout.
///
/// Exits 0 if the experiment succeeded, 1 if it failed, 2 if the file is not usable.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Tune {
    #[command(subcommand)]
    command: Option<TuneCommand>,
    /// Experiment (YAML or JSON); `-` reads stdin
    #[arg(value_name = "FILE", required = true)]
    file: Option<PathBuf>,
    /// Another name for the experiment, to run it anew
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Most trials in all, in place of the file's `maxTrialCount`
    #[arg(long, value_name = "N")]
    max_trials: Option<i32>,
    /// Trials at once, in place of the file's `parallelTrialCount`
    #[arg(long, value_name = "N")]
    parallel: Option<i32>,
    /// How to print the result
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    node: NodeFlags,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum TuneCommand {
    Report(report::TuneReport),
}

impl Tune {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        if let Some(TuneCommand::Report(report)) = &self.command {
            return report.run(global, out);
        }
        global.init_logs("warn")?;
        let experiment = self.read()?;
        block_on(0, async {
            let signals = Signals::catch()?;
            let session = Session::open(global, &self.target, Parts::Tuning, self.node).await?;
            let result = tokio::select! {
                result = self.follow(&session.client, experiment, out) => result,
                () = signals.first() => Err(session.interrupted_message("experiment")),
            };
            session.close().await;
            result
        })
    }

    fn read(&self) -> Result<Value> {
        let file = self.file.as_deref().expect("required where no subcommand is given");
        let text = stack::read_file(file)?;
        let mut object: Value = stack::parse_yaml(file, &text)?;
        let kind = object["kind"].as_str().unwrap_or_default();
        if kind != "Experiment" {
            let message =
                format!("`{}`: field `kind` is `{kind}`; expected `Experiment`", file.display());
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        if let Some(name) = &self.name {
            object["metadata"]["name"] = json!(name);
        }
        if let Some(trials) = self.max_trials {
            object["spec"]["maxTrialCount"] = json!(trials);
        }
        if let Some(parallel) = self.parallel {
            object["spec"]["parallelTrialCount"] = json!(parallel);
        }
        object["metadata"]["namespace"] = json!(self.target.namespace);
        Ok(object)
    }

    async fn follow(&self, client: &Client, experiment: Value, out: &mut dyn Write) -> Result<()> {
        let name =
            stack::create_or_carry_on::<Experiment>(client, &self.target.namespace, &experiment)
                .await?;
        let ended = self.watch(client, &name).await?;
        self.print(client, &ended, out).await
    }

    /// Shows progress until the experiment ends; returns it as it ended.
    async fn watch(&self, client: &Client, name: &str) -> Result<Experiment> {
        let namespace = &self.target.namespace;
        let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let of_it = watcher::Config::default().labels(&format!("{LABEL_EXPERIMENT}={name}"));
        let mut experiments = watch::<Experiment>(client, namespace, one);
        let mut trials = watch::<Trial>(client, namespace, of_it);
        let mut view = View::open(client, name);
        let mut tick = tokio::time::interval(REDRAW);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(change) = trials.recv() => {
                    if let (trial_name, Some(trial)) = change? {
                        view.trial(&trial_name, &trial);
                    }
                }
                Some(change) = experiments.recv() => {
                    let (_, Some(experiment)) = change? else {
                        return Err(Failure::new(ErrorCode::NotFound, format!("experiment `{name}` was deleted")));
                    };
                    view.board.experiment(&experiment);
                    if has_ended(&experiment) {
                        // Trials whose end was still on its way when the experiment's arrived.
                        while let Ok(Ok((name, Some(trial)))) = trials.try_recv() {
                            view.trial(&name, &trial);
                        }
                        if let Some(words) = chosen(client, namespace, &experiment).await {
                            view.say(&words);
                        }
                        return Ok(experiment);
                    }
                }
                _ = tick.tick(), if view.screen.is_some() => view.redraw().await,
                else => return Err(Failure::new(ErrorCode::Unavailable, "lost the server")),
            }
        }
    }

    async fn print(
        &self,
        client: &Client,
        experiment: &Experiment,
        out: &mut dyn Write,
    ) -> Result<()> {
        let status = experiment.status.clone().unwrap_or_default();
        let name = experiment.metadata.name.clone().unwrap_or_default();
        let failed = status.conditions.iter().find(|c| c.type_ == "Failed" && c.status == "True");
        let best = status.current_optimal_trial.clone().unwrap_or_default();
        if self.output == Output::Json {
            let result = json!({
                "experiment": name,
                "succeeded": failed.is_none(),
                "trials": status.trials,
                "trialsSucceeded": status.trials_succeeded,
                "trialsEarlyStopped": status.trials_early_stopped,
                "trialsFailed": status.trials_failed,
                "trialMetricsUnavailable": status.trial_metrics_unavailable,
                "currentOptimalTrial": best,
            });
            writeln!(out, "{result}")?;
        } else if !best.best_trial_name.is_empty() {
            self.print_table(client, experiment, out).await?;
        }
        match failed {
            Some(condition) => {
                let words = condition.message.clone().unwrap_or_default();
                Err(Failure::new(
                    ErrorCode::Internal,
                    format!("experiment `{name}` failed: {words}"),
                ))
            }
            None => Ok(()),
        }
    }

    /// The best trials, and where to see the others.
    async fn print_table(
        &self,
        client: &Client,
        experiment: &Experiment,
        out: &mut dyn Write,
    ) -> Result<()> {
        let name = experiment.metadata.name.clone().unwrap_or_default();
        let api: Api<Trial> = Api::namespaced(client.clone(), &self.target.namespace);
        let of_it = kube::api::ListParams::default().labels(&format!("{LABEL_EXPERIMENT}={name}"));
        let mut trials =
            api.list(&of_it).await.map_err(|e| Failure::kube("cannot list the trials", e))?.items;
        let objective = experiment.spec.objective();
        let value = |t: &Trial| {
            t.status
                .as_ref()
                .and_then(|s| s.observation.as_ref())
                .and_then(|o| objective.value_text(o))
                .map(str::to_owned)
        };
        let rank = |t: &Trial| {
            value(t)
                .and_then(|v| v.parse::<f64>().ok())
                .map_or(f64::INFINITY, |v| if objective.maximize() { -v } else { v })
        };
        trials.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        let parameters: Vec<String> =
            experiment.spec.parameters.iter().map(|p| p.name.clone()).collect();
        let mut header = vec![
            "TRIAL".to_owned(),
            "STATUS".to_owned(),
            objective.objective_metric_name.to_uppercase(),
        ];
        header.extend(parameters.iter().map(|p| p.to_uppercase()));
        let rows: Vec<Vec<String>> = trials
            .iter()
            .take(ROWS_MAX)
            .map(|t| {
                let phase = t.status.as_ref().map(|s| s.phase()).unwrap_or(TrialPhase::Pending);
                let mut row = vec![
                    t.metadata.name.clone().unwrap_or_default(),
                    format!("{phase:?}"),
                    value(t).unwrap_or_default(),
                ];
                row.extend(parameters.iter().map(|p| assignment(t, p)));
                row
            })
            .collect();
        table::print(out, &header, &rows)?;
        out.flush()?;
        let more = trials.len().saturating_sub(rows.len());
        if more > 0 {
            say(&format!("… and {more} more trials"));
        }
        say(&format!("plots and all trials: mizzen tune report {name}{}", self.where_it_is()));
        Ok(())
    }

    /// The flags by which another command finds the same experiment.
    fn where_it_is(&self) -> String {
        let mut flags = String::new();
        for (flag, value) in
            [("--server", &self.target.server), ("--context", &self.target.context)]
        {
            if let Some(value) = value {
                flags.push_str(&format!(" {flag} {value}"));
            }
        }
        if self.target.namespace != "default" {
            flags.push_str(&format!(" --namespace {}", self.target.namespace));
        }
        flags
    }
}

/// Where `auto` took the last points from, in its words; none for algorithms that do not choose.
async fn chosen(client: &Client, namespace: &str, experiment: &Experiment) -> Option<String> {
    experiment.spec.algorithm.as_ref().filter(|a| a.algorithm_name == "auto")?;
    let api: Api<Suggestion> = Api::namespaced(client.clone(), namespace);
    let suggestion = api.get(experiment.metadata.name.as_deref()?).await.ok()?;
    let conditions = suggestion.status?.conditions;
    let words = conditions.into_iter().find(|c| c.type_ == "Running")?.message?;
    Some(format!("`auto` suggested last by: {words}"))
}

fn assignment(trial: &Trial, parameter: &str) -> String {
    let found = trial.spec.parameter_assignments.iter().find(|a| a.name == parameter);
    found.map(|a| shortened(&a.value)).unwrap_or_default()
}

/// Long decimals cut to what fits a table; anything else as it is.
fn shortened(value: &str) -> String {
    match value.parse::<f64>() {
        Ok(number) if value.contains('.') && value.len() > 9 => format!("{number:.6}"),
        _ => value.to_owned(),
    }
}

/// How often the table is drawn: often enough for seconds to pass one by one.
const REDRAW: Duration = Duration::from_millis(500);
/// Running trials whose newest value is asked for; more do not fit most terminals.
const VALUES_MAX: usize = 60;
/// How many drawings pass between two questions for newest values.
const VALUES_EVERY: u32 = 3;
/// Trials in the table at the end.
const ROWS_MAX: usize = 20;

/// What is seen of an experiment under way: a table where there is a terminal, a line for each trial
/// that ended elsewhere.
struct View {
    board: Board,
    screen: Option<Screen>,
    reader: Option<Reader>,
    shown: BTreeMap<String, TrialPhase>,
    ticks: u32,
}

impl View {
    fn open(client: &Client, name: &str) -> Self {
        Self {
            board: Board::new(name),
            screen: Screen::open(),
            reader: Some(Reader::of(client.clone())),
            shown: BTreeMap::new(),
            ticks: 0,
        }
    }

    fn trial(&mut self, name: &str, trial: &Trial) {
        let phase = trial.phase();
        let before = self.shown.insert(name.to_owned(), phase);
        let ended = phase.is_over() && before != Some(phase);
        self.board.trial(name, trial, ended);
        let good = matches!(phase, TrialPhase::Succeeded | TrialPhase::EarlyStopped);
        // On a terminal, what went well is in the counts and in the table at the end.
        if ended && (!good || self.screen.is_none()) {
            self.say(&ended_line(name, trial));
        }
    }

    /// A line that stays.
    fn say(&mut self, line: &str) {
        match &mut self.screen {
            Some(screen) => screen.say(line),
            None => say(line),
        }
    }

    async fn redraw(&mut self) {
        if self.ticks.is_multiple_of(VALUES_EVERY) {
            self.ask_for_values().await;
        }
        self.ticks = self.ticks.wrapping_add(1);
        if let Some(screen) = &mut self.screen {
            let now = jiff::Timestamp::now().as_millisecond();
            screen.draw(self.board.lines(now, screen.size()));
        }
    }

    /// Newest values come from the series; where the server gives out none, they are left out.
    async fn ask_for_values(&mut self) {
        let Some(reader) = &self.reader else { return };
        let uids = self.board.running(VALUES_MAX);
        let asked = uids.iter().map(|uid| reader.newest(uid));
        for (uid, answer) in uids.iter().zip(futures::future::join_all(asked).await) {
            match answer {
                Ok(Some(metrics)) => {
                    let newest = metrics.get(self.board.metric()).and_then(|values| values.last());
                    if let Some(value) = newest {
                        self.board.newest(uid, value);
                    }
                }
                Ok(None) => return self.reader = None,
                Err(_) => {} // the next one may come through; the watch tells if the server is gone
            }
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.clear();
        }
    }
}

/// A trial that ended, in one line: what it was given, what was observed, and why it failed.
fn ended_line(name: &str, trial: &Trial) -> String {
    let status = trial.status.clone().unwrap_or_default();
    let phase = status.phase();
    let metrics = status.observation.iter().flat_map(|o| &o.metrics);
    let metrics: Vec<String> = metrics.map(|m| format!("{}={}", m.name, m.latest)).collect();
    let given = trial.spec.parameter_assignments.iter();
    let given: Vec<String> = given.map(|a| format!("{}={}", a.name, shortened(&a.value))).collect();
    let time = took(status.start_time.map(|t| t.0), status.completion_time.map(|t| t.0));
    let line = format!("{name}  {phase:?}  {}  {}  {time}", metrics.join(" "), given.join(" "));
    line.trim_end().to_owned()
}

fn has_ended(experiment: &Experiment) -> bool {
    let conditions =
        experiment.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    has_condition(conditions, "Succeeded") || has_condition(conditions, "Failed")
}

/// Talk goes to stderr.
fn say(words: &str) {
    let _ = writeln!(mizzen_telemetry::stderr(), "{words}");
}
