//! `mizzen tune`

use std::{collections::BTreeMap, io::Write, path::PathBuf};

use clap::Args;
use kube::{Api, Client, runtime::watcher};
use mizzen_crds::{Experiment, LABEL_EXPERIMENT, Suggestion, Trial, TrialPhase, has_condition};
use mizzen_types::ErrorCode;
use serde_json::{Value, json};

use crate::{
    connect::Target,
    failure::{Failure, Result},
    follow::{Progress, took, watch},
    global::{Global, Output, block_on},
    stack::{self, Parts, Session, Signals},
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
pub(crate) struct Tune {
    /// Experiment (YAML or JSON); `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
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
    target: Target,
}

impl Tune {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("warn")?;
        let experiment = self.read()?;
        block_on(0, async {
            let signals = Signals::catch()?;
            let session = Session::open(global, &self.target, Parts::Tuning).await?;
            let result = tokio::select! {
                result = self.follow(&session.client, experiment, out) => result,
                () = signals.first() => Err(session.interrupted_message("experiment")),
            };
            session.close().await;
            result
        })
    }

    fn read(&self) -> Result<Value> {
        let text = stack::read_file(&self.file)?;
        let mut object: Value = stack::parse_yaml(&self.file, &text)?;
        let kind = object["kind"].as_str().unwrap_or_default();
        if kind != "Experiment" {
            let message = format!(
                "`{}`: field `kind` is `{kind}`; expected `Experiment`",
                self.file.display()
            );
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
        let mut progress = Progress::new(name, None);
        let mut shown = BTreeMap::new();
        loop {
            tokio::select! {
                Some(change) = trials.recv() => {
                    if let (trial_name, Some(trial)) = change? {
                        show_trial(&mut progress, &mut shown, &trial_name, &trial);
                    }
                }
                Some(change) = experiments.recv() => {
                    let (_, Some(experiment)) = change? else {
                        return Err(Failure::new(ErrorCode::NotFound, format!("experiment `{name}` was deleted")));
                    };
                    if show_experiment(&progress, &experiment) {
                        drain(&mut trials, &mut progress, &mut shown);
                        if let Some(words) = chosen(client, namespace, &experiment).await {
                            progress.say(&words);
                        }
                        progress.finish();
                        return Ok(experiment);
                    }
                }
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

    /// All trials, best first, then the best one's parameters.
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
        table::print(out, &header, &rows)
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

/// What a trial is, in one line: its assignments and what was observed.
fn show_trial(
    progress: &mut Progress,
    shown: &mut BTreeMap<String, TrialPhase>,
    name: &str,
    trial: &Trial,
) {
    let status = trial.status.clone().unwrap_or_default();
    let phase = status.phase();
    let metrics = status.observation.iter().flat_map(|o| &o.metrics);
    let metrics: Vec<String> = metrics.map(|m| format!("{}={}", m.name, m.latest)).collect();
    let given: Vec<String> = trial
        .spec
        .parameter_assignments
        .iter()
        .map(|a| format!("{}={}", a.name, shortened(&a.value)))
        .collect();
    let before = shown.insert(name.to_owned(), phase);
    if phase.is_over() {
        if before != Some(phase) {
            let time = took(status.start_time.map(|t| t.0), status.completion_time.map(|t| t.0));
            let line =
                format!("{name}  {phase:?}  {}  {}  {time}", metrics.join(" "), given.join(" "));
            progress.ended(name, line.trim_end());
        }
    } else if phase == TrialPhase::Running {
        progress.running(name, &format!("{}  {}", given.join(" "), metrics.join(" ")));
    }
}

/// Updates the bar; whether the experiment has ended.
fn show_experiment(progress: &Progress, experiment: &Experiment) -> bool {
    let status = experiment.status.clone().unwrap_or_default();
    let done = status.trials_succeeded
        + status.trials_failed
        + status.trials_killed
        + status.trials_early_stopped
        + status.trial_metrics_unavailable;
    let total = experiment.spec.max_trial_count.unwrap_or(status.trials);
    let best = status.current_optimal_trial.and_then(|t| t.best_objective);
    let word =
        best.map(|b| format!("best {}={b}", experiment.spec.objective().objective_metric_name));
    let count = |n: i32| u64::try_from(n).unwrap_or(0);
    progress.advance(count(done), count(total), &word.unwrap_or_default());
    has_condition(&status.conditions, "Succeeded") || has_condition(&status.conditions, "Failed")
}

/// Shows the trials whose end was still on its way when the experiment's arrived.
fn drain(
    trials: &mut tokio::sync::mpsc::Receiver<Result<(String, Option<Trial>)>>,
    progress: &mut Progress,
    shown: &mut BTreeMap<String, TrialPhase>,
) {
    while let Ok(Ok((name, Some(trial)))) = trials.try_recv() {
        show_trial(progress, shown, &name, &trial);
    }
}
