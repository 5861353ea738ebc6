//! Katib's Suggestion service over our samplers.
//!
//! Nothing is remembered between calls: what is suggested follows from the experiment and the trials
//! in the request, so that a service that was restarted goes on where it was. Trials are taken in the
//! order in which they began, whatever order they come in.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use mizzen_proto::katib::{
    AlgorithmSetting, AlgorithmSpec, GetSuggestionsReply, GetSuggestionsRequest,
    ParameterAssignment, Trial, ValidateAlgorithmSettingsReply, ValidateAlgorithmSettingsRequest,
    suggestion_server::{Suggestion, SuggestionServer},
};
use mizzen_samplers::Hyperband;
use mizzen_tuning_api::{
    Assignments, History, Lineage, SamplerError, Settings, SuggestRequest, TrialState,
};
use tonic::{Request, Response, Status, service::Routes};
use tracing::warn;

use crate::{
    Calls, MESSAGE_BYTES_MAX, ServiceError, Stoppers,
    convert::{Search, Suggested, hash},
    refusal,
};

/// Suggestions of one call: more than any experiment runs at once.
const COUNT_MAX: usize = 10_000;

/// Labels that say what a member of a population goes on from, as Katib's PBT has them.
pub const LABEL_GENERATION: &str = "pbt.suggestion.katib.kubeflow.org/generation";
/// The trial whose checkpoint it goes on from.
pub const LABEL_PARENT: &str = "pbt.suggestion.katib.kubeflow.org/parent";

/// Every algorithm of ours, by Katib's names where Katib has one.
#[derive(Debug, Clone, Default)]
pub struct Suggestions {
    /// Where trials keep their checkpoints, as `<directory>/<experiment>/<trial>`; PBT copies a
    /// parent's to its child there. Without it, trials find their parent by its label.
    pub checkpoints: Option<PathBuf>,
}

impl Suggestions {
    /// The service, as a listener serves it, and that of early stopping beside it.
    pub fn calls(self, stoppers: Stoppers) -> Calls {
        let service = SuggestionServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Calls::new(
            Routes::new(service).add_service(stoppers.service()),
            &["api.v1.beta1.Suggestion", "api.v1.beta1.EarlyStopping"],
            &["manager.v1beta1.Suggestion", "manager.v1beta1.EarlyStopping"],
        )
    }
}

pub(crate) fn validate(request: ValidateAlgorithmSettingsRequest) -> Result<(), ServiceError> {
    let search = Search::read(request.experiment)?;
    if search.algorithm == "grid"
        && let Some(points) = search.space.size()
        && u128::from(search.trials_max) > points
    {
        return Err(ServiceError::Grid { points, trials: search.trials_max });
    }
    Ok(())
}

/// What to try next; pure.
pub(crate) fn suggest(request: GetSuggestionsRequest) -> Result<GetSuggestionsReply, ServiceError> {
    let got = request.current_request_number;
    let count = usize::try_from(got).ok().filter(|n| *n <= COUNT_MAX);
    let count = count.ok_or(ServiceError::Count { got, max: COUNT_MAX })?;
    let experiment = request.experiment.as_ref().map(|e| e.name.clone()).unwrap_or_default();
    let search = Search::read(request.experiment)?;
    let trials = in_order(request.trials);
    let past: Vec<_> = trials.iter().filter_map(|t| Some((t, search.past(t)?))).collect();
    let names: Vec<&str> = past.iter().map(|(t, _)| t.name.as_str()).collect();
    // Trials without metrics are not sent, and some may not have been made yet.
    let given = usize::try_from(request.total_request_number).unwrap_or(0).saturating_sub(count);
    let unseen = given.saturating_sub(past.len());
    let history = History::from(past.iter().map(|(_, p)| p.clone()).collect::<Vec<_>>());
    let asked = SuggestRequest {
        space: &search.space,
        history: &history,
        objective: search.objective,
        count,
        seed: seed(&search, unseen),
        plan: search.plan,
    };
    let points = search.sampler.suggest(asked).map_err(ServiceError::Nothing)?;
    if points.len() < count {
        let running = history.trials.iter().filter(|t| t.state == TrialState::Running).count();
        let (algorithm, have) = (search.algorithm, points.len());
        return Err(ServiceError::Wait { algorithm, have, want: count, running });
    }
    let lineage = search.sampler.lineage(asked);
    let algorithm = fed_back(&search, asked, &points).map_err(ServiceError::Nothing)?;
    let name = |n: usize| format!("{experiment}-{:08x}", hash(&format!("{experiment}/{n}")) >> 32);
    let first = given.max(names.len());
    let parameter_assignments = points.iter().enumerate().map(|(i, point)| {
        let assign =
            |(name, value): (&str, String)| ParameterAssignment { name: name.into(), value };
        let mut suggested = Suggested {
            assignments: search.space.format(point).into_iter().map(assign).collect(),
            ..Suggested::default()
        };
        if let Some(Lineage { generation, parent }) = lineage.get(i) {
            suggested.trial_name = name(first + i);
            suggested.labels = HashMap::from([(LABEL_GENERATION.into(), generation.to_string())]);
            if let Some(parent) = parent {
                let of_answer = || name(first + parent - names.len());
                let parent = names.get(*parent).map_or_else(of_answer, |n| (*n).to_owned());
                suggested.labels.insert(LABEL_PARENT.into(), parent);
            }
        }
        suggested
    });
    Ok(GetSuggestionsReply {
        parameter_assignments: parameter_assignments.collect(),
        algorithm,
        early_stopping_rules: vec![],
    })
}

/// The oldest first; trials that have no time yet come last, by name.
fn in_order(mut trials: Vec<Trial>) -> Vec<Trial> {
    trials.sort_by_cached_key(|t| {
        let began = t.status.as_ref().map(|s| s.start_time.clone()).unwrap_or_default();
        (began.is_empty(), began, t.name.clone())
    });
    trials
}

/// The experiment's seed. A sampler draws anew with each trial that it sees, so that what it does not
/// see has to count otherwise; samplers whose order is in their seed skip what they see instead.
fn seed(search: &Search, unseen: usize) -> u64 {
    let ordered = ["grid", "sobol", "cmaes", "hyperband", "asha", "pbt"];
    if unseen == 0 || ordered.contains(&search.algorithm.as_str()) {
        return search.seed;
    }
    hash(&format!("{}/{unseen}", search.seed))
}

/// What comes back in the next request: all that Katib's Hyperband keeps there. Ours reads its state off the
/// trials, so that what it tells follows from them and whoever goes on from it finds it as Katib's left it.
fn fed_back(
    search: &Search,
    asked: SuggestRequest<'_>,
    answer: &[Assignments],
) -> Result<Option<AlgorithmSpec>, SamplerError> {
    if search.algorithm != "hyperband" {
        return Ok(None);
    }
    let given = Settings::new(search.settings.clone());
    let Ok(hyperband) = Hyperband::from_settings(&given) else { return Ok(None) };
    let progress = hyperband.progress(asked, answer)?;
    let (r_l, s_max) = (hyperband.r_l, progress.s_max);
    let state = [
        ("eta", hyperband.eta.to_string()),
        ("s_max", s_max.to_string()),
        ("r_l", r_l.to_string()),
        ("b_l", (f64::from(s_max + 1) * r_l).to_string()),
        ("r", progress.r.to_string()),
        ("n", progress.n.to_string()),
        ("current_s", progress.current_s.to_string()),
        ("current_i", progress.current_i.to_string()),
        ("resource_name", hyperband.resource_name),
        ("evaluating_trials", progress.evaluating_trials.to_string()),
    ];
    let mut settings: BTreeMap<String, String> = search.settings.iter().cloned().collect();
    settings.extend(state.map(|(name, value)| (name.to_owned(), value)));
    let setting = |(name, value)| AlgorithmSetting { name, value };
    let algorithm_settings = settings.into_iter().map(setting).collect();
    let algorithm_name = search.algorithm.clone();
    Ok(Some(AlgorithmSpec { algorithm_name, algorithm_settings }))
}

/// Gives each child its parent's checkpoint, and everyone a directory.
fn prepare(root: &Path, experiment: &str, reply: &GetSuggestionsReply) -> std::io::Result<()> {
    let directory = |trial: &str| root.join(experiment).join(trial);
    for suggested in &reply.parameter_assignments {
        if suggested.trial_name.is_empty() {
            continue;
        }
        let own = directory(&suggested.trial_name);
        let parent = suggested.labels.get(LABEL_PARENT).map(|p| directory(p));
        match parent.filter(|p| p.is_dir()) {
            Some(parent) => copy(&parent, &own)?,
            None => std::fs::create_dir_all(&own)?,
        }
    }
    Ok(())
}

/// Copies a directory; what is there already is put in its place.
pub(crate) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let into = to.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() => copy(&entry.path(), &into)?,
            kind if kind.is_file() => drop(std::fs::copy(entry.path(), into)?),
            _ => {} // a link may lead anywhere
        }
    }
    Ok(())
}

/// Whether a name is one directory and not a way elsewhere.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

#[tonic::async_trait]
impl Suggestion for Suggestions {
    async fn get_suggestions(
        &self,
        request: Request<GetSuggestionsRequest>,
    ) -> Result<Response<GetSuggestionsReply>, Status> {
        let request = request.into_inner();
        let checkpoints = self.checkpoints.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let experiment = request.experiment.as_ref().map(|e| e.name.clone());
            let reply = suggest(request)?;
            let parents =
                reply.parameter_assignments.iter().filter_map(|s| s.labels.get(LABEL_PARENT));
            let plain = parents.chain(&experiment).all(|name| is_plain(name));
            if let (Some(root), Some(experiment), true) = (&checkpoints, &experiment, plain)
                && let Err(error) = prepare(root, experiment, &reply)
            {
                warn!(%error, experiment, "checkpoints cannot be handed on; trials begin anew");
            }
            Ok(reply)
        });
        let answer = answer.await.unwrap_or(Err(ServiceError::Interrupted));
        answer.map(Response::new).map_err(|error| refusal(&error))
    }

    async fn validate_algorithm_settings(
        &self,
        request: Request<ValidateAlgorithmSettingsRequest>,
    ) -> Result<Response<ValidateAlgorithmSettingsReply>, Status> {
        validate(request.into_inner()).map_err(|error| refusal(&error))?;
        Ok(Response::new(ValidateAlgorithmSettingsReply {}))
    }
}
