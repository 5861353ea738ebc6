//! Writes an experiment's Suggestion.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::reflector::ObjectRef,
};
use mizzen_crds::{Experiment, Suggestion};
use serde_json::json;

use super::{Context, suggestion};
use crate::{
    ControllerError,
    error::{unless_gone, unless_there},
    status,
    watch::Parsed,
};

impl Context {
    /// The experiment's Suggestion as it was last seen; none where one of its name is another's.
    pub(super) fn suggestion_of(&self, experiment: &Experiment) -> Option<Parsed<Suggestion>> {
        let namespace = experiment.namespace().unwrap_or_default();
        let key = ObjectRef::new(&experiment.name_any()).within(&namespace);
        self.suggestions.get(&key).and_then(Parsed::new)
    }

    /// Writes the experiment's Suggestion; true where there is something to write, but not yet.
    pub(super) async fn show(
        &self,
        inputs: &suggestion::Inputs<'_>,
    ) -> Result<bool, ControllerError> {
        let experiment = inputs.experiment;
        let old = self.suggestion_of(experiment);
        let old: Option<&Suggestion> = old.as_deref();
        let uid = experiment.uid();
        let ours =
            |s: &&Suggestion| s.owner_references().iter().any(|o| Some(&o.uid) == uid.as_ref());
        if old.is_some_and(|old| !ours(&old)) {
            return Ok(false);
        }
        match inputs.due(old) {
            suggestion::Due::Never => return Ok(false),
            suggestion::Due::Later => return Ok(true),
            suggestion::Due::Now => {}
        }
        let (new, name) = (inputs.suggestion(old), experiment.name_any());
        let failed = || ControllerError::api(format!("write the suggestion `{name}`"));
        let api: Api<Suggestion> = self.api(experiment);
        if old.is_none() {
            unless_there(api.create(&PostParams::default(), &new).await).map_err(failed())?;
        } else if old.is_some_and(|old| old.spec.requests != new.spec.requests) {
            let patch = Patch::Merge(json!({"spec": {"requests": new.spec.requests}}));
            let written = api.patch(&name, &PatchParams::default(), &patch).await;
            unless_gone(written).map_err(failed())?;
        }
        let json =
            |s: Option<&Suggestion>| json!(s.and_then(|s| s.status.clone()).unwrap_or_default());
        if let Some(change) = status::difference(&json(old), &json(Some(&new))) {
            let patch = Patch::Merge(json!({"status": change}));
            let written = api.patch_status(&name, &PatchParams::default(), &patch).await;
            unless_gone(written).map_err(failed())?;
        }
        Ok(false)
    }
}
