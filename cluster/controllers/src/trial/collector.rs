//! Where a trial's metrics come from, and what its pods need for that.
//!
//! Output is read through the API and reports come by themselves, so most trials run as they are
//! written. Files and pages can only be read beside the trial: there its command is started by
//! `mizzen agent` (docs/decisions/0015-who-reads-a-trials-metrics.md).

use kube::ResourceExt;
use mizzen_crds::{CollectorKind, FileSystemPath, MetricsCollector, Trial};
use serde_json::{Map, Value, json};

use super::{
    agent::AgentLaunch,
    pod_edit::{each_pod, entry, list, mount},
};

/// The volume that holds what a collector reads.
const VOLUME: &str = "mizzen-metrics";

/// What is done to a pod.
struct Edit<'a> {
    /// The primary container.
    primary: &'a str,
    agent: &'a AgentLaunch,
    /// What its command is put after; none leaves it alone.
    before: Option<Vec<String>>,
    /// Whether it may do without, where its command is not known.
    optional: bool,
    /// The directory that is to be the pod's own.
    dir: Option<String>,
    /// A container to run beside it.
    custom: Option<Value>,
}

/// Puts into a run object what its collector needs.
///
/// # Errors
/// One line for people, where that cannot be.
pub(super) fn prepare(
    run: &mut Map<String, Value>,
    trial: &Trial,
    agent: Option<&AgentLaunch>,
) -> Result<(), String> {
    let collector = &trial.spec.metrics_collector;
    let kind = collector.kind();
    let dir = directory(collector);
    let source = match kind {
        CollectorKind::StdOut | CollectorKind::Push => return Ok(()),
        CollectorKind::File => file(collector),
        CollectorKind::TensorFlowEvent => vec![format!("--events={}", path(collector))],
        CollectorKind::PrometheusMetric => vec![format!("--http={}", page(collector))],
        // Katib's collectors wait for the mark.
        CollectorKind::Custom => dir.iter().map(|dir| format!("--mark={dir}")).collect(),
    };
    let Some(agent) = agent else {
        return Err(format!(
            "metrics collector `{kind:?}` reports to a DBManager, and this operator has none that trials reach; start it with --katib-port and --katib-service, as its chart does, or use StdOut"
        ));
    };
    let primary = trial.spec.primary_container_name.clone().unwrap_or_default();
    let custom = collector.collector.as_ref().and_then(|c| c.custom_collector.clone());
    let edit = Edit {
        primary: &primary,
        agent,
        before: (!source.is_empty()).then(|| command(agent, trial, source)),
        optional: kind == CollectorKind::Custom,
        dir,
        custom: custom.filter(|_| kind == CollectorKind::Custom),
    };
    let (mut found, role) = (Ok(false), role(trial, run));
    each_pod(run, "", &mut |name, pod| {
        if role.as_deref().is_none_or(|role| role.eq_ignore_ascii_case(name)) {
            let here = edit.apply(pod);
            found = found.clone().and_then(|before| Ok(here? || before));
        }
    });
    match found {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "metrics collector `{kind:?}` needs a pod template with the container `{primary}` in the run object; name it in `primaryContainerName`, or use Push"
        )),
        Err(message) => Err(message),
    }
}

/// What a trial without the metric is told to do.
pub(super) fn hint(trial: &Trial) -> String {
    let metric = &trial.spec.objective.objective_metric_name;
    let collector = &trial.spec.metrics_collector;
    let format = collector.source.as_ref().and_then(|s| s.file_system_path.as_ref());
    let json = format.is_some_and(|f| f.format.as_deref() == Some("JSON"));
    match collector.kind() {
        CollectorKind::StdOut => format!("print it as `{metric}=<value>`"),
        CollectorKind::File if json => {
            format!("write it to `{}` as `{{\"{metric}\": <value>}}`, a line each", path(collector))
        }
        CollectorKind::File => format!("write it to `{}` as `{metric}=<value>`", path(collector)),
        CollectorKind::TensorFlowEvent => {
            format!("write it as a scalar to event files below `{}`", path(collector))
        }
        CollectorKind::PrometheusMetric => {
            format!("serve it at {} for at least a second", page(collector))
        }
        CollectorKind::Custom => "let the custom collector report it to the DBManager".into(),
        CollectorKind::Push => "report it with `report_metrics` before the trial ends".into(),
    }
}

fn command(agent: &AgentLaunch, trial: &Trial, source: Vec<String>) -> Vec<String> {
    let mut command = vec![agent.program.display().to_string(), "agent".to_owned()];
    command.push(format!("--trial={}", trial.name_any()));
    command.push(format!("--report-to={}", agent.report_to));
    command.extend(trial.spec.objective.metric_names().iter().map(|m| format!("--metric={m}")));
    command.extend(source);
    command.push("--".to_owned());
    command
}

/// The replica whose pods count, in the kinds of the training operator; all where nothing is said.
fn role(trial: &Trial, run: &Map<String, Value>) -> Option<String> {
    let labels = &trial.spec.primary_pod_labels;
    if let Some(role) = labels.get("training.kubeflow.org/replica-type") {
        return Some(role.clone());
    }
    if labels.get("training.kubeflow.org/job-role").is_none_or(|role| role != "master") {
        return None;
    }
    // The operator gives this label to the pod of whichever of these there is.
    let mut roles = Vec::new();
    each_pod(&mut run.clone(), "", &mut |name, _| roles.push(name.to_owned()));
    let masters = ["Master", "Chief", "Launcher"].into_iter();
    masters.map(str::to_owned).find(|master| roles.contains(master))
}

impl Edit<'_> {
    /// Whether the pod has the primary container.
    fn apply(&self, pod: &mut Map<String, Value>) -> Result<bool, String> {
        let containers = list(entry(pod, "containers"));
        let Some(at) = containers.iter().position(|c| c["name"] == self.primary) else {
            return Ok(false);
        };
        let primary = &mut containers[at];
        let wrapped = match &self.before {
            Some(_) if self.optional && !has_command(primary) => false,
            Some(before) => wrap(primary, self.primary, before).map(|()| true)?,
            None => false,
        };
        let mut own = false;
        if let Some(dir) = &self.dir {
            own = mount(primary, VOLUME, dir);
        }
        if let Some(mut custom) = self.custom.clone() {
            if let Some(dir) = self.dir.as_ref().filter(|_| own) {
                mount(&mut custom, VOLUME, dir);
            }
            containers.push(custom);
            // Katib's collectors look for the trial's processes.
            pod.insert("shareProcessNamespace".into(), true.into());
        }
        if own {
            list(entry(pod, "volumes")).push(json!({"name": VOLUME, "emptyDir": {}}));
        }
        if wrapped {
            self.agent.bring(pod, at);
        }
        Ok(true)
    }
}

fn has_command(container: &Value) -> bool {
    container["command"].as_array().is_some_and(|words| !words.is_empty())
}

/// Puts a container's command after the agent's.
fn wrap(container: &mut Value, name: &str, agent: &[String]) -> Result<(), String> {
    if !has_command(container) {
        let image = container["image"].as_str().unwrap_or_default();
        return Err(format!(
            "container `{name}` has no `command`, which the metrics collector starts beside itself; set `command` (and `args`) to what image `{image}` runs, which `docker inspect` tells as its Entrypoint and Cmd, or use StdOut"
        ));
    }
    let agent = agent.iter().map(|word| Value::from(word.as_str()));
    let command = list(&mut container["command"]);
    *command = agent.chain(std::mem::take(command)).collect();
    Ok(())
}

fn source(collector: &MetricsCollector) -> FileSystemPath {
    let source = collector.source.as_ref().and_then(|s| s.file_system_path.clone());
    source.unwrap_or_default()
}

fn path(collector: &MetricsCollector) -> String {
    source(collector).path.unwrap_or_default()
}

/// The directory of what is read; none where it is the root, which cannot be a trial's own.
fn directory(collector: &MetricsCollector) -> Option<String> {
    let FileSystemPath { path, kind, .. } = source(collector);
    let path = path?;
    let dir = match kind.as_deref() {
        Some("Directory") => path.trim_end_matches('/'),
        _ => path.rsplit_once('/')?.0,
    };
    (!dir.is_empty()).then(|| dir.to_owned())
}

fn file(collector: &MetricsCollector) -> Vec<String> {
    let format = source(collector).format.unwrap_or_else(|| "TEXT".into()).to_lowercase();
    let mut flags = vec![format!("--file={}", path(collector)), format!("--format={format}")];
    flags.extend(collector.filters().iter().map(|filter| format!("--filter={filter}")));
    flags
}

fn page(collector: &MetricsCollector) -> String {
    let get = collector.source.as_ref().and_then(|s| s.http_get.clone()).unwrap_or_default();
    let host = get["host"].as_str().filter(|h| !h.is_empty()).unwrap_or("127.0.0.1");
    let port = get["port"].as_u64().or_else(|| get["port"].as_str()?.parse().ok());
    format!("http://{host}:{}{}", port.unwrap_or(8080), get["path"].as_str().unwrap_or("/metrics"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_crds::{Objective, TrialSpec};

    fn trial(collector: Value) -> Trial {
        let objective = Objective { objective_metric_name: "loss".into(), ..Objective::default() };
        let spec = TrialSpec {
            objective,
            metrics_collector: serde_json::from_value(collector).unwrap(),
            primary_container_name: Some("main".into()),
            ..TrialSpec::default()
        };
        Trial::new("e-1", spec)
    }

    fn prepared(run: Value, trial: &Trial) -> Result<Value, String> {
        let agent =
            AgentLaunch { program: "/bin/mizzen".into(), report_to: "h:1".into(), image: None };
        let mut run = run.as_object().unwrap().clone();
        prepare(&mut run, trial, Some(&agent)).map(|()| Value::Object(run))
    }

    fn job(container: Value) -> Value {
        json!({"kind": "Job", "spec": {"template": {"spec": {"containers": [container]}}}})
    }

    #[test]
    fn a_command_is_put_after_the_agent_and_its_directory_made_the_pods_own() {
        let main = json!({"name": "main", "command": ["train", "--lr=1"], "args": ["x"]});
        let file = |extra: Value| json!({"collector": {"kind": "File"}, "source": {"fileSystemPath": extra}});
        let json_file = file(json!({"path": "/katib/m.json", "kind": "File", "format": "JSON"}));
        let events = json!({"collector": {"kind": "TensorFlowEvent"},
            "source": {"fileSystemPath": {"path": "/logs/test/", "kind": "Directory"}}});
        let page = json!({"collector": {"kind": "PrometheusMetric"},
            "source": {"httpGet": {"path": "/m", "port": 9090}}});
        #[rustfmt::skip]
        let cases = [
            // what the case shows   collector   flags                                            directory
            ("a file",               json_file,  vec!["--file=/katib/m.json", "--format=json"],   Some("/katib")),
            ("event files",          events,     vec!["--events=/logs/test/"],                    Some("/logs/test")),
            ("a page",               page,       vec!["--http=http://127.0.0.1:9090/m"],          None),
        ];
        for (shows, collector, flags, dir) in cases {
            let run = prepared(job(main.clone()), &trial(collector)).unwrap();
            let pod = &run["spec"]["template"]["spec"];
            let mut want =
                vec!["/bin/mizzen", "agent", "--trial=e-1", "--report-to=h:1", "--metric=loss"];
            want.extend(flags);
            want.extend(["--", "train", "--lr=1"]);
            assert_eq!(pod["containers"][0]["command"], json!(want), "{shows}");
            assert_eq!(pod["containers"][0]["args"], json!(["x"]), "{shows}");
            let mounted = pod["containers"][0]["volumeMounts"][0]["mountPath"].as_str();
            assert_eq!(mounted, dir, "{shows}");
            assert_eq!(pod["volumes"][0]["name"].as_str(), dir.map(|_| VOLUME), "{shows}");
        }
    }

    #[test]
    fn what_needs_no_agent_is_left_alone_and_what_cannot_be_says_why() {
        let main = json!({"name": "main", "command": ["train"]});
        let of = |kind: &str| {
            trial(
                json!({"collector": {"kind": kind}, "source": {"fileSystemPath": {"path": "/katib/m.log"}}}),
            )
        };
        for kind in ["StdOut", "Push"] {
            assert_eq!(
                prepared(job(main.clone()), &of(kind)).unwrap(),
                job(main.clone()),
                "{kind}"
            );
        }
        let bare = prepared(job(json!({"name": "main"})), &of("File")).unwrap_err();
        assert!(bare.contains("container `main` has no `command`"), "{bare}");
        let other = prepared(json!({"kind": "Workflow"}), &of("File")).unwrap_err();
        assert!(other.contains("pod template with the container `main`"), "{other}");
        let mut run = job(main).as_object().unwrap().clone();
        let refused = prepare(&mut run, &of("File"), None).unwrap_err();
        assert!(refused.contains("--katib-service"), "{refused}");
    }

    #[test]
    fn a_custom_collector_runs_beside_and_a_volume_of_the_users_stays() {
        let custom = json!({"name": "collect", "image": "c", "command": ["collect"]});
        let collector = json!({"collector": {"kind": "Custom", "customCollector": custom},
            "source": {"fileSystemPath": {"path": "/katib/m.log", "kind": "File"}}});
        let main = json!({"name": "main", "command": ["train"]});
        let run = prepared(job(main), &trial(collector)).unwrap();
        let pod = &run["spec"]["template"]["spec"];
        let mount = json!([{"name": VOLUME, "mountPath": "/katib"}]);
        assert_eq!(pod["containers"][0]["volumeMounts"], mount);
        assert_eq!(pod["containers"][1]["volumeMounts"], mount);
        assert_eq!(pod["containers"][1]["command"], json!(["collect"]));
        let command = pod["containers"][0]["command"].as_array().unwrap();
        assert!(command.contains(&json!("--mark=/katib")), "{command:?}");

        let own = json!({"name": "main", "command": ["train"],
            "volumeMounts": [{"name": "mine", "mountPath": "/katib/"}]});
        let collector = json!({"collector": {"kind": "File"}, "source": {"fileSystemPath": {"path": "/katib/x/m.log"}}});
        let run = prepared(job(own.clone()), &trial(collector)).unwrap();
        let container = &run["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["volumeMounts"], own["volumeMounts"]);
    }

    #[test]
    fn only_the_replicas_that_count_are_read() {
        let replica =
            || json!({"template": {"spec": {"containers": [{"name": "main", "command": ["t"]}]}}});
        let run = json!({"kind": "TFJob", "spec": {"tfReplicaSpecs": {"Worker": replica(), "PS": replica()}}});
        let collector = json!({"collector": {"kind": "TensorFlowEvent"},
            "source": {"fileSystemPath": {"path": "/logs", "kind": "Directory"}}});
        let mut of = trial(collector);
        let label = ("training.kubeflow.org/replica-type".to_owned(), "worker".to_owned());
        of.spec.primary_pod_labels = [label].into();
        let run = prepared(run, &of).unwrap();
        let words = |role: &str| {
            let specs = &run["spec"]["tfReplicaSpecs"][role]["template"]["spec"];
            specs["containers"][0]["command"].as_array().unwrap().len()
        };
        assert!(words("Worker") > 1 && words("PS") == 1);
    }
}
