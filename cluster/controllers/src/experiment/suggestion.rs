//! Katib's `Suggestion` of an experiment, for clients that look at it: how many points were asked for,
//! the newest of them, and in the words of the algorithm where they come from.
//!
//! It is made from the trials, which are what counts; nothing is read from it but the settings that a
//! service of the user's own fed back.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Resource, ResourceExt};
use mizzen_crds::{
    Experiment, ExperimentStatus, Setting, Suggestion, SuggestionSpec, SuggestionStatus, Trial,
    TrialAssignment, has_condition, set_condition,
};

use super::Past;

/// Bytes of the points that are shown, as JSON: an object must not grow with its experiment.
const POINTS_BYTES_MAX: usize = 48 << 10;

/// Between two writes as long as the experiment goes on: who looks at it does so by eye.
pub(super) const WRITE_EVERY: Duration = Duration::from_secs(1);

/// When there is something to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    /// It was written a moment ago.
    Later,
    Never,
}

/// What a suggestion is made from.
pub(super) struct Inputs<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) status: &'a ExperimentStatus,
    /// Those that were there, oldest first.
    pub(super) trials: &'a [Past],
    /// Those that were made just now.
    pub(super) created: &'a [Trial],
    /// Where the algorithm took the newest points from, in its words.
    pub(super) reason: Option<&'a str>,
    pub(super) fed_back: Option<Vec<Setting>>,
    pub(super) now: Timestamp,
}

impl Inputs<'_> {
    fn is_over(&self) -> bool {
        ["Succeeded", "Failed"].iter().any(|c| has_condition(&self.status.conditions, c))
    }

    /// When there is something to write, given what was written last.
    pub(super) fn due(&self, old: Option<&Suggestion>) -> Due {
        let count = self.count();
        let Some(old) = old else { return if count > 0 { Due::Now } else { Due::Never } };
        if self.is_over() || self.fed_back.is_some() {
            return Due::Now;
        }
        if old.spec.requests == count {
            return Due::Never;
        }
        let written = old.status.as_ref().and_then(|s| s.last_reconcile_time.as_ref());
        let rested = written.is_none_or(|t| {
            let since = self.now.duration_since(t.0);
            since.is_negative() || since.unsigned_abs() >= WRITE_EVERY
        });
        if rested { Due::Now } else { Due::Later }
    }

    /// Points that were asked for.
    fn count(&self) -> i32 {
        i32::try_from(self.trials.len() + self.created.len()).unwrap_or(i32::MAX)
    }

    /// The object as it is to be.
    pub(super) fn suggestion(&self, old: Option<&Suggestion>) -> Suggestion {
        let spec = &self.experiment.spec;
        let (count, name) = (self.count(), self.experiment.name_any());
        let mut suggestion = Suggestion::new(
            &name,
            SuggestionSpec {
                algorithm: spec.algorithm.clone(),
                early_stopping: spec.early_stopping.clone(),
                requests: count,
                resume_policy: spec.resume_policy,
            },
        );
        suggestion.metadata.namespace = self.experiment.namespace();
        let owner = self.experiment.controller_owner_ref(&());
        suggestion.metadata.owner_references = owner.map(|o| vec![o]);
        suggestion.status = Some(self.new_status(old, count));
        suggestion
    }

    fn new_status(&self, old: Option<&Suggestion>, count: i32) -> SuggestionStatus {
        let mut status = old.and_then(|o| o.status.clone()).unwrap_or_default();
        status.suggestion_count = count;
        status.suggestions = self.newest();
        if let Some(settings) = &self.fed_back {
            status.algorithm_settings.clone_from(settings);
        }
        status.start_time.get_or_insert(Time(self.now));
        let over = self.is_over();
        let failed = has_condition(&self.status.conditions, "Failed");
        // Where the last points came from is worth knowing at the end, too.
        let last = status.conditions.iter().find(|c| c.type_ == "Running");
        let last = last.and_then(|c| c.message.clone());
        let last = last.unwrap_or_else(|| "Its experiment has ended".to_owned());
        let unsaid = (!has_condition(&status.conditions, "Running"))
            .then(|| "Suggestion is running".to_owned());
        let (conditions, now) = (&mut status.conditions, self.now);
        let mut say = |type_: &str, status, reason: &str, message: &str| {
            set_condition(conditions, type_, status, reason, message, now);
        };
        say("Created", true, "SuggestionCreated", "Suggestion is created");
        let ready = "Suggestions are made by the controller itself or a service it asks";
        say("DeploymentReady", true, "DeploymentReady", ready);
        if !over {
            // What was said of the newest points holds until there are newer ones.
            if let Some(running) = self.reason.map(capital).or(unsaid) {
                say("Running", true, "SuggestionRunning", &running);
            }
        } else if failed {
            say("Running", false, "SuggestionFailed", &last);
            say("Failed", true, "SuggestionFailed", "Its experiment has failed");
        } else {
            say("Running", false, "SuggestionSucceeded", &last);
            say("Succeeded", true, "SuggestionSucceeded", "Its experiment has ended");
        }
        if !over {
            status.conditions.retain(|c| !["Succeeded", "Failed"].contains(&c.type_.as_str()));
        }
        status.completion_time =
            over.then(|| status.completion_time.take().unwrap_or(Time(self.now)));
        if old.and_then(|o| o.status.as_ref()) != Some(&status) {
            status.last_reconcile_time = Some(Time(self.now));
        }
        status
    }

    /// The newest points that fit, the oldest of them first.
    fn newest(&self) -> Vec<TrialAssignment> {
        let all = self.trials.iter().map(|t| &**t).chain(self.created);
        let all: Vec<&Trial> = all.collect();
        let mut room = POINTS_BYTES_MAX;
        let mut points: Vec<_> = all
            .into_iter()
            .rev()
            .map(|trial| TrialAssignment {
                name: trial.name_any(),
                parameter_assignments: trial.spec.parameter_assignments.clone(),
                early_stopping_rules: trial.spec.early_stopping_rules.clone(),
            })
            .take_while(|point| {
                let bytes = serde_json::to_string(point).map_or(usize::MAX, |text| text.len());
                let fits = bytes <= room;
                room = room.saturating_sub(bytes);
                fits
            })
            .collect();
        points.reverse();
        points
    }
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |l| l.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_crds::{ParameterAssignment, TrialSpec};

    #[test]
    fn it_shows_the_newest_points_and_never_outgrows_an_object() {
        let experiment = Experiment::new("e", Default::default());
        let assignments = vec![ParameterAssignment { name: "x".into(), value: "9".repeat(300) }];
        let spec = TrialSpec { parameter_assignments: assignments, ..TrialSpec::default() };
        let created: Vec<_> =
            (0..5000).map(|i| Trial::new(&format!("e-{i}"), spec.clone())).collect();
        let mut status = ExperimentStatus::default();
        let now = Timestamp::from_second(7).unwrap();
        let of = |status: &ExperimentStatus, old: Option<&Suggestion>, reason| {
            let inputs = Inputs {
                experiment: &experiment,
                status,
                trials: &[],
                created: &created,
                reason,
                fed_back: None,
                now,
            };
            (inputs.due(old), inputs.suggestion(old))
        };
        let (due, first) = of(&status, None, Some("a design"));
        let shown = first.status.clone().unwrap();
        assert_eq!(due, Due::Now);
        assert_eq!((first.spec.requests, shown.suggestion_count), (5000, 5000));
        assert_eq!(shown.suggestions.last().unwrap().name, "e-4999");
        assert!(serde_json::to_string(&first).unwrap().len() < 100_000);
        assert_eq!(shown.conditions.last().unwrap().message.as_deref(), Some("A design"));

        let (due, again) = of(&status, Some(&first), Some("a design"));
        assert_eq!(due, Due::Never, "there is nothing new");
        assert_eq!(again.status, first.status, "the same says the same");
        set_condition(&mut status.conditions, "Succeeded", true, "", "", now);
        let (due, last) = of(&status, Some(&first), None);
        assert_eq!(due, Due::Now, "the end is always told");
        assert!(has_condition(&last.status.unwrap().conditions, "Succeeded"));
    }
}
