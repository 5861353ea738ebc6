//! From a container to a command that can be started.

use std::{collections::BTreeSet, io, path::PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::{Api, Client};

use super::{
    env::{ConfigError, Data, Env, Sources, declared, expand},
    volumes::{Mounts, VolumeError, Volumes},
};
use crate::{
    options::NodeOptions,
    paths::PodPaths,
    process::{CannotRun, Launch, POD_UID, resolve},
};

/// Why a container does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It never will.
    #[error("{}", .0.message)]
    CannotRun(CannotRun),
    /// It refers to something that is not there yet.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine could not: the disk is full, the directory cannot be written, no process left.
    #[error("container `{container}` could not be started")]
    Io { container: String, source: io::Error },
    /// The API server could not be asked.
    #[error("the API server could not be asked for what the container needs")]
    Api(#[from] Box<kube::Error>),
    /// A volume could not be made.
    #[error(transparent)]
    Volume(VolumeError),
}

impl From<VolumeError> for StartError {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::Config(error) => Self::Config(error),
            error @ VolumeError::Io { .. } => Self::Volume(error),
        }
    }
}

/// Fetches every ConfigMap and Secret that a Pod refers to. What is missing is left out.
pub(crate) async fn fetch(client: &Client, pod: &Pod) -> Result<Sources, Box<kube::Error>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let (maps, secrets) = referred(pod);
    let mut sources = Sources::default();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    for name in maps {
        if let Some(map) = api.get_opt(&name).await? {
            sources.config_maps.insert(name, map_data(map));
        }
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for name in secrets {
        if let Some(secret) = api.get_opt(&name).await? {
            let data = secret.data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0));
            let text = secret.string_data.into_iter().flatten();
            let text = text.map(|(key, text)| (key, text.into_bytes()));
            sources.secrets.insert(name, data.chain(text).collect());
        }
    }
    Ok(sources)
}

fn map_data(map: ConfigMap) -> Data {
    let text = map.data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes()));
    let binary = map.binary_data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0));
    text.chain(binary).collect()
}

/// Names of the ConfigMaps and of the Secrets.
fn referred(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return (maps, secrets) };
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for from in container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
            secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
            maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.as_ref().map(|r| r.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|r| r.secret_name.clone()));
    }
    (maps, secrets)
}

/// What all containers of a Pod share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) sources: Sources,
    pub(crate) volumes: Volumes,
    pub(crate) gpus: Vec<String>,
}

/// The command of a container, its paths rewritten and its program found.
pub(crate) fn launch(
    pod: &Pod,
    container: &Container,
    shared: &Shared,
    paths: &PodPaths,
    options: &NodeOptions,
) -> Result<Launch, StartError> {
    let mounts = Mounts::of(container, &shared.volumes)?;
    let io = |source| StartError::Io { container: container.name.clone(), source };
    mounts.make_sub_paths().map_err(io)?;
    let own = declared(pod, container, &shared.sources)?;
    let cwd = match container.working_dir.as_deref() {
        None | Some("") => paths.work(),
        Some(dir) => working_dir(mounts.rewrite(dir)).map_err(StartError::CannotRun)?,
    };
    let lookup = Env(own);
    let words = |words: &Option<Vec<String>>| {
        let words = words.iter().flatten();
        words.map(|w| mounts.rewrite(&expand(w, |name| lookup.get(name)))).collect::<Vec<_>>()
    };
    let mut command = words(&container.command);
    if command.is_empty() {
        return Err(StartError::CannotRun(no_command(container)));
    }
    command.extend(words(&container.args));
    let env = environment(pod, shared, paths, options, &mounts, &lookup);
    let path = env.get("PATH").unwrap_or_default();
    let program = command.remove(0);
    let program = resolve(&program, path, &cwd).map_err(StartError::CannotRun)?;
    Ok(Launch { program, args: command, env: env.0, cwd })
}

fn no_command(container: &Container) -> CannotRun {
    let image = container.image.as_deref().unwrap_or("");
    CannotRun::missing(format!(
        "container `{}` has no `command`: its image's entrypoint is not known on this machine (image `{image}`); set `command`",
        container.name
    ))
}

fn working_dir(dir: String) -> Result<PathBuf, CannotRun> {
    let dir = PathBuf::from(dir);
    match std::fs::metadata(&dir) {
        Ok(meta) if meta.is_dir() => Ok(dir),
        Ok(_) => {
            let message = format!("workingDir `{}` is not a directory", dir.display());
            Err(CannotRun::unusable(message))
        }
        Err(_) => Err(CannotRun::missing(format!(
            "workingDir `{}` does not exist on this machine; make it, mount a volume there, or leave workingDir out",
            dir.display()
        ))),
    }
}

/// Lists of directories, in which the node's stand before the container's own: a trial that has modules of
/// its own still finds what the node put there.
const JOINED: &[&str] = &["PYTHONPATH"];

/// From the weakest to the strongest: the machine's few, the node's, what mizzen adds, the container's.
fn environment(
    pod: &Pod,
    shared: &Shared,
    paths: &PodPaths,
    options: &NodeOptions,
    mounts: &Mounts,
    own: &Env,
) -> Env {
    let mut env = Env(options.base_env.clone());
    env.set("TMPDIR".into(), paths.tmp().display().to_string());
    env.set("HOSTNAME".into(), pod.metadata.name.clone().unwrap_or_default());
    for (name, value) in &options.env {
        env.set(name.clone(), value.clone());
    }
    // Empty for a Pod that asked for none: what it does not hold, it must not use.
    if !options.slots.gpus.is_empty() {
        env.set("CUDA_VISIBLE_DEVICES".into(), shared.gpus.join(","));
    }
    for (name, value) in mounts.variables() {
        env.set(name, value);
    }
    for (name, value) in &own.0 {
        let value = mounts.rewrite(value);
        let node = env.get(name).filter(|_| JOINED.contains(&name.as_str()));
        let both = node.map(|node| format!("{node}:{value}"));
        env.set(name.clone(), both.unwrap_or(value));
    }
    env.set(POD_UID.into(), pod.metadata.uid.clone().unwrap_or_default());
    let prefix = options.path_prefix.iter().map(|dir| dir.display().to_string());
    let path = env.get("PATH").map(str::to_owned);
    let path: Vec<_> = prefix.chain(path).filter(|part| !part.is_empty()).collect();
    env.set("PATH".into(), path.join(":"));
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn prepare(
        container: Value,
        options: impl FnOnce(&mut NodeOptions),
    ) -> Result<Launch, StartError> {
        let dir = tempfile::tempdir().unwrap();
        let pod = json!({"metadata": {"name": "p", "uid": "u"}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        let mut node = NodeOptions::new(dir.path());
        node.slots.gpus = vec!["0".into(), "1".into()];
        options(&mut node);
        let volumes = Volumes::from([("out".into(), PathBuf::from("/tmp"))]);
        let shared = Shared { sources: Sources::default(), volumes, gpus: vec!["1".into()] };
        let paths = PodPaths::new(dir.path(), "ns", "u");
        launch(&pod, &container, &shared, &paths, &node)
    }

    #[test]
    fn a_command_is_expanded_rewritten_and_found() {
        let container = json!({"name": "c", "command": ["sh", "-c"], "args": ["echo $(A) >/out/x"],
            "env": [{"name": "A", "value": "1"}, {"name": "DIR", "value": "/out"},
                    {"name": "PYTHONPATH", "value": "/out/lib"}],
            "volumeMounts": [{"name": "out", "mountPath": "/out"}]});
        let launch = prepare(container, |node| {
            node.env = vec![
                ("A".into(), "node".into()),
                ("B".into(), "node".into()),
                ("PYTHONPATH".into(), "/shim".into()),
            ];
            node.path_prefix = vec!["/opt/first".into()];
            node.base_env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        })
        .unwrap();
        assert!(launch.program.ends_with("bin/sh"));
        assert_eq!(launch.args, ["-c", "echo 1 >/tmp/x"]);
        let env = Env(launch.env);
        #[rustfmt::skip]
        let want = [
            ("A", "1"), ("B", "node"), ("DIR", "/tmp"), ("MIZZEN_VOLUME_OUT", "/tmp"), ("HOSTNAME", "p"),
            ("PYTHONPATH", "/shim:/tmp/lib"), ("CUDA_VISIBLE_DEVICES", "1"), ("PATH", "/opt/first:/usr/bin:/bin"), ("MIZZEN_POD_UID", "u"),
        ];
        for (name, value) in want {
            assert_eq!(env.get(name), Some(value), "{name}");
        }
    }

    #[test]
    fn what_can_never_run_says_why() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows     container                                                            the message names
            ("no command",             json!({"name": "c", "image": "katib/x", "args": ["a"]}),             "set `command`"),
            ("no such command",        json!({"name": "c", "command": ["mizzen-no-such"]}),                 "PATH"),
            ("no such directory",      json!({"name": "c", "command": ["sh"], "workingDir": "/no/such"}),   "`/no/such`"),
            ("not a directory",        json!({"name": "c", "command": ["sh"], "workingDir": "/bin/sh"}),    "not a directory"),
        ];
        for (shows, container, names) in cases {
            let error = prepare(container, |_| ()).unwrap_err();
            assert!(matches!(error, StartError::CannotRun(_)), "{shows}");
            assert!(error.to_string().contains(names), "{shows}: {error}");
        }
    }
}
