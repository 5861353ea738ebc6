//! Any sampler by name over lines of JSON, for benchmarks in other languages.
//!
//! ```text
//! cargo build -p mizzen-samplers --example ask_tell
//! ```
//!
//! Each line on standard input is one object, and is answered by one line on standard output:
//!
//! * `{"space": [parameters as in an Experiment], "algorithm": "tpe", "settings": {}, "seed": 1,
//!   "maximize": false, "budget": 100, "parallel": 5, "history": [[{"name": "text"}, 1.5]]}` begins a
//!   search, forgetting the one before, with trials that have ended already: `{}`
//! * `{"ask": 3}` suggests: `{"points": [{"name": "text"}], "ids": [0], "seconds": 0.001,
//!   "reason": "…"}`; seconds are what the call took, the reason is what the sampler explains
//! * `{"tell": [[0, 1.5], [1, null]]}` ends trials by id, null as a failure: `{}`
//!
//! A mistake is answered by `{"error": "…"}`.

use mizzen_samplers::by_name;
use mizzen_tuning_api::{
    History, Objective, ParameterSpec, Plan, Sampler, SearchSpace, Settings, SuggestRequest, Trial,
    TrialState,
};
use serde_json::{Map, Value, json};
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::time::Instant;

struct Search {
    space: SearchSpace,
    sampler: Box<dyn Sampler>,
    history: History,
    objective: Objective,
    seed: u64,
    plan: Plan,
}

fn main() -> io::Result<()> {
    let mut search = None;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let reply = answer(&mut search, &line?).unwrap_or_else(|e| json!({"error": said(&*e)}));
        writeln!(out, "{reply}")?;
        out.flush()?;
    }
    Ok(())
}

fn answer(search: &mut Option<Search>, line: &str) -> Result<Value, Box<dyn Error>> {
    let message: Map<String, Value> = serde_json::from_str(line)?;
    if let Some(space) = message.get("space") {
        *search = Some(begin(space, &message)?);
        return Ok(json!({}));
    }
    let search = search.as_mut().ok_or("begin a search first")?;
    if let Some(count) = message.get("ask").and_then(Value::as_u64) {
        return search.ask(count as usize);
    }
    for pair in message.get("tell").and_then(Value::as_array).ok_or("neither ask nor tell")? {
        let id = pair[0].as_u64().ok_or("an id is a number")? as usize;
        let trial = search.history.trials.get_mut(id).ok_or("there is no such trial")?;
        trial.state = pair[1].as_f64().map_or(TrialState::Failed, TrialState::Succeeded);
    }
    Ok(json!({}))
}

fn begin(space: &Value, message: &Map<String, Value>) -> Result<Search, Box<dyn Error>> {
    let specs: Vec<ParameterSpec> = serde_json::from_value(space.clone())?;
    let space = SearchSpace::new(specs)?;
    let settings = message.get("settings").and_then(Value::as_object);
    let pairs = settings.into_iter().flatten();
    let pairs = pairs.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()));
    let name = message.get("algorithm").and_then(Value::as_str).ok_or("`algorithm` is missing")?;
    let sampler = by_name(name, &Settings::new(pairs))?;
    sampler.check_space(&space)?;
    let maximize = message.get("maximize").and_then(Value::as_bool) == Some(true);
    let objective = if maximize { Objective::MAXIMIZE } else { Objective::MINIMIZE };
    let seed = message.get("seed").and_then(Value::as_u64).unwrap_or(0);
    let mut history = History::new();
    for pair in message.get("history").and_then(Value::as_array).into_iter().flatten() {
        let texts = pair[0].as_object().ok_or("a trial is a point and its objective")?;
        let texts = texts.iter().map(|(n, t)| (n.as_str(), t.as_str().unwrap_or_default()));
        let state = pair[1].as_f64().map_or(TrialState::Failed, TrialState::Succeeded);
        history.trials.push(Trial::new(space.parse(texts)?, state));
    }
    let known = |name| message.get(name).and_then(Value::as_u64).map(|n| n as usize);
    let plan = Plan { trials_max: known("budget"), parallel: known("parallel"), reports: false };
    Ok(Search { space, sampler, history, objective, seed, plan })
}

impl Search {
    fn ask(&mut self, count: usize) -> Result<Value, Box<dyn Error>> {
        let (space, history, objective) = (&self.space, &self.history, self.objective);
        let (seed, plan) = (self.seed, self.plan);
        let request = SuggestRequest { space, history, objective, count, seed, plan };
        let began = Instant::now();
        let points = self.sampler.suggest(request)?;
        let seconds = began.elapsed().as_secs_f64();
        let reason = self.sampler.explain(request);
        let first = self.history.trials.len();
        let named = |point| {
            let pairs = self.space.format(point).into_iter();
            Value::from(pairs.map(|(n, t)| (n.to_owned(), t.into())).collect::<Map<_, _>>())
        };
        let texts: Vec<Value> = points.iter().map(named).collect();
        self.history.trials.extend(points.into_iter().map(|p| Trial::new(p, TrialState::Running)));
        let ids: Vec<usize> = (first..self.history.trials.len()).collect();
        Ok(json!({"points": texts, "ids": ids, "seconds": seconds, "reason": reason}))
    }
}

/// An error with its causes.
fn said(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}
