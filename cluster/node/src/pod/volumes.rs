//! Volumes as directories.
//!
//! A plain machine cannot mount a directory at `/data` for one process alone. So each volume is a
//! directory, and a container finds it in two ways: wherever its command, arguments or variables
//! name the mount path, they are given the directory instead; and `MIZZEN_VOLUME_<NAME>` holds it,
//! for programs that have the path in their code. What is mounted at a path hides what the machine
//! has there, as it would in a container.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, KeyToPath, PodSpec, Volume};

use super::env::{CONFIG_MAP, ConfigError, SECRET, Sources};
use crate::paths::{PodPaths, is_plain_name};

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("volume `{volume}` cannot be written to `{}`", path.display())]
    Io { volume: String, path: PathBuf, source: io::Error },
}

/// The directories of a Pod's volumes, by name.
pub(crate) type Volumes = BTreeMap<String, PathBuf>;

/// Makes a Pod's volumes. Doing it again is harmless: data in directories is left alone.
pub(crate) fn make(
    spec: &PodSpec,
    paths: &PodPaths,
    sources: &Sources,
) -> Result<Volumes, VolumeError> {
    let volumes = spec.volumes.iter().flatten();
    volumes.map(|volume| Ok((volume.name.clone(), make_one(volume, paths, sources)?))).collect()
}

fn make_one(volume: &Volume, paths: &PodPaths, sources: &Sources) -> Result<PathBuf, VolumeError> {
    if !is_plain_name(&volume.name) {
        return Err(unsupported(volume, "its name cannot be a directory's").into());
    }
    let own = paths.volume(&volume.name);
    let (dir, files) = if let Some(map) = &volume.config_map {
        (own, files(CONFIG_MAP, &map.name, map.items.as_deref(), map.optional, sources)?)
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        (own, files(SECRET, name, secret.items.as_deref(), secret.optional, sources)?)
    } else if let Some(host) = &volume.host_path {
        let path = PathBuf::from(&host.path);
        match host.type_.as_deref() {
            Some("DirectoryOrCreate") => (path, Vec::new()),
            _ => return Ok(path),
        }
    } else if let Some(claim) = &volume.persistent_volume_claim {
        if !is_plain_name(&claim.claim_name) {
            return Err(unsupported(volume, "its claim's name cannot be a directory's").into());
        }
        (paths.claim(&claim.claim_name), Vec::new())
    } else if volume.empty_dir.is_some() || is_bare(volume) {
        (own, Vec::new())
    } else {
        let instead = "use emptyDir, configMap, secret, hostPath or persistentVolumeClaim";
        return Err(unsupported(volume, instead).into());
    };
    let secret = volume.secret.is_some();
    write(&dir, &files, secret).map_err(|(path, source)| VolumeError::Io {
        volume: volume.name.clone(),
        path,
        source,
    })?;
    Ok(dir)
}

/// No source at all means `emptyDir`.
fn is_bare(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}

fn unsupported(volume: &Volume, instead: &'static str) -> ConfigError {
    ConfigError::Unsupported { field: format!("volume `{}`", volume.name), instead }
}

/// Relative paths and contents.
type Files = Vec<(PathBuf, Vec<u8>)>;

fn files(
    kind: &'static str,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    sources: &Sources,
) -> Result<Files, ConfigError> {
    let Some(data) = sources.get(kind, name, optional)? else { return Ok(Vec::new()) };
    let all = || data.iter().map(|(key, bytes)| (key.clone(), key.clone(), Some(bytes)));
    let chosen = |items: &[KeyToPath]| {
        let item = |item: &KeyToPath| (item.key.clone(), item.path.clone(), data.get(&item.key));
        items.iter().map(item).collect::<Vec<_>>()
    };
    let wanted: Vec<_> = items.map_or_else(|| all().collect(), chosen);
    let mut files = Files::new();
    for (key, path, bytes) in wanted {
        match bytes {
            Some(bytes) => files.push((inside(&path, kind, name)?, bytes.clone())),
            None if optional == Some(true) => {}
            None => return Err(ConfigError::MissingKey { kind, name: name.to_owned(), key }),
        }
    }
    Ok(files)
}

/// A path that stays inside its volume.
fn inside(path: &str, kind: &'static str, name: &str) -> Result<PathBuf, ConfigError> {
    let path = PathBuf::from(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && path.file_name().is_some() {
        return Ok(path);
    }
    Err(ConfigError::Unsupported {
        field: format!("path `{}` of {kind} `{name}`", path.display()),
        instead: "use a relative path without `..`",
    })
}

/// Files are replaced whole: a reader of another container finds the old or the new.
fn write(
    dir: &Path,
    files: &[(PathBuf, Vec<u8>)],
    secret: bool,
) -> Result<(), (PathBuf, io::Error)> {
    fs::create_dir_all(dir).map_err(|e| (dir.to_owned(), e))?;
    for (path, bytes) in files {
        let path = dir.join(path);
        let fresh = path.with_extension("mizzen-new");
        let write = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&fresh, bytes)?;
            if secret {
                fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
            }
            fs::rename(&fresh, &path)
        };
        write().map_err(|e| (path.clone(), e))?;
    }
    Ok(())
}

/// A container's mounts: mount path to directory, the longest path first.
#[derive(Debug, Default)]
pub(crate) struct Mounts(Vec<(String, PathBuf, String)>);

impl Mounts {
    /// Of this container. A mount of a volume that the Pod does not have is an error.
    pub(crate) fn of(container: &Container, volumes: &Volumes) -> Result<Self, ConfigError> {
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(dir) = volumes.get(&mount.name) else {
                return Err(ConfigError::Missing { kind: "volume", name: mount.name.clone() });
            };
            let dir = match mount.sub_path.as_deref() {
                None | Some("") => dir.clone(),
                Some(sub) => dir.join(inside(sub, "volume", &mount.name)?),
            };
            let path = mount.mount_path.trim_end_matches('/').to_owned();
            mounts.push((path, dir, mount.name.clone()));
        }
        mounts.sort_by_key(|(path, ..)| std::cmp::Reverse(path.len()));
        Ok(Self(mounts))
    }

    /// `MIZZEN_VOLUME_<NAME>` for each, the name in capitals with `_` for what a variable's name
    /// cannot have. A volume that is mounted twice is named by its shortest mount path.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(_, dir, name)| {
            let name = name.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            (format!("MIZZEN_VOLUME_{name}"), dir.display().to_string())
        })
    }

    /// Makes the directories below volumes that `subPath`s name.
    pub(crate) fn make_sub_paths(&self) -> io::Result<()> {
        let mut missing = self.0.iter().filter(|(_, dir, _)| !dir.exists());
        missing.try_for_each(|(_, dir, _)| fs::create_dir_all(dir))
    }

    /// A text with every mount path in it replaced by its directory, where it stands as a path of
    /// its own: `/data` in `--out=/data/x` and `/data:/tmp`, not in `/database` or `/my/data`.
    pub(crate) fn rewrite(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            match self.at(text, at) {
                Some((len, dir)) => {
                    out.push_str(&dir.to_string_lossy());
                    at += len;
                }
                None => {
                    let next = text[at..].chars().next().map_or(1, char::len_utf8);
                    out.push_str(&text[at..at + next]);
                    at += next;
                }
            }
        }
        out
    }

    fn at(&self, text: &str, at: usize) -> Option<(usize, &Path)> {
        let in_a_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let (before, after) = text.split_at(at);
        if !after.starts_with('/')
            || before.ends_with(|c| in_a_name(c) || matches!(c, '/' | '}' | ')'))
        {
            return None;
        }
        let whole = |path: &String| {
            let rest = after.strip_prefix(path.as_str())?;
            (!path.is_empty() && !rest.starts_with(in_a_name)).then_some(path.len())
        };
        self.0.iter().find_map(|(path, dir, _)| Some((whole(path)?, dir.as_path())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::env::Data;
    use serde_json::json;

    fn spec(volumes: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({"containers": [], "volumes": volumes})).unwrap()
    }

    fn sources() -> Sources {
        let data: Data =
            [("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.as_bytes().to_vec())).into();
        Sources {
            config_maps: BTreeMap::from([("cm".into(), data.clone())]),
            secrets: BTreeMap::from([("s".into(), data)]),
        }
    }

    #[test]
    fn volumes_are_directories() {
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths::new(dir.path(), "ns", "u");
        let host = dir.path().join("host");
        let spec = spec(json!([
            {"name": "e", "emptyDir": {}},
            {"name": "bare"},
            {"name": "c", "configMap": {"name": "cm"}},
            {"name": "i", "configMap": {"name": "cm", "items": [{"key": "b", "path": "sub/x"}]}},
            {"name": "s", "secret": {"secretName": "s"}},
            {"name": "o", "secret": {"secretName": "gone", "optional": true}},
            {"name": "p", "persistentVolumeClaim": {"claimName": "shared"}},
            {"name": "h", "hostPath": {"path": host, "type": "DirectoryOrCreate"}},
        ]));
        for _ in 0..2 {
            let volumes = make(&spec, &paths, &sources()).unwrap();
            let text =
                |name: &str, file: &str| fs::read_to_string(volumes[name].join(file)).unwrap();
            assert!(volumes.values().all(|dir| dir.is_dir()));
            assert_eq!(
                (text("c", "a"), text("i", "sub/x"), text("s", "b")),
                ("1".into(), "2".into(), "2".into())
            );
            assert!(!volumes["i"].join("a").exists());
            let mode = fs::metadata(volumes["s"].join("a")).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "a secret is its owner's alone");
            assert_eq!(volumes["h"], host);
            assert!(!volumes["p"].starts_with(paths.root()), "a claim outlives the pod");
        }
    }

    #[test]
    fn volumes_that_cannot_be_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths::new(dir.path(), "ns", "u");
        #[rustfmt::skip]
        let cases = [
            // what the case shows    volume                                                               the error names
            ("no such map",           json!({"name": "v", "configMap": {"name": "gone"}}),                 "configmap `gone`"),
            ("no such key",           json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "k", "path": "k"}]}}), "no key `k`"),
            ("climbing out",          json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a", "path": "../k"}]}}), "../k"),
            ("another kind",          json!({"name": "v", "nfs": {"server": "s", "path": "/"}}),           "volume `v`"),
            ("a claim climbing out",  json!({"name": "v", "persistentVolumeClaim": {"claimName": "../x"}}), "volume `v`"),
        ];
        for (shows, volume, names) in cases {
            let error = make(&spec(json!([volume])), &paths, &sources()).unwrap_err().to_string();
            assert!(error.contains(names), "{shows}: {error}");
        }
    }

    #[test]
    fn mount_paths_are_rewritten_where_they_stand_alone() {
        let container: Container = serde_json::from_value(json!({"name": "c", "volumeMounts": [
            {"name": "data-1", "mountPath": "/data"},
            {"name": "deep", "mountPath": "/data/deep/", "subPath": "a/b"},
        ]}))
        .unwrap();
        let volumes = BTreeMap::from([
            ("data-1".to_owned(), PathBuf::from("/v/1")),
            ("deep".to_owned(), PathBuf::from("/v/2")),
        ]);
        let mounts = Mounts::of(&container, &volumes).unwrap();
        #[rustfmt::skip]
        let cases = [
            // what the case shows         text                          rewritten
            ("itself",                     "/data",                      "/v/1"),
            ("below",                      "--out=/data/x.bin",          "--out=/v/1/x.bin"),
            ("the longest mount wins",     "/data/deep/x",               "/v/2/a/b/x"),
            ("several",                    "cp /data/a '/data/deep'",    "cp /v/1/a '/v/2/a/b'"),
            ("in a search path",           "/usr:/data:/data/y",         "/usr:/v/1:/v/1/y"),
            ("another name",               "/database /data-2 /data.x",  "/database /data-2 /data.x"),
            ("further down another path",  "/my/data ./data a/data",     "/my/data ./data a/data"),
            ("after a variable",           "${HOME}/data $(X)/data",     "${HOME}/data $(X)/data"),
            ("a URL",                      "http://h/data",              "http://h/data"),
            ("not ascii",                  "ä/data é /data",             "ä/data é /v/1"),
        ];
        for (shows, text, want) in cases {
            assert_eq!(mounts.rewrite(text), want, "{shows}");
        }
        let variables: BTreeMap<_, _> = mounts.variables().collect();
        assert_eq!(variables["MIZZEN_VOLUME_DATA_1"], "/v/1");
        let error = Mounts::of(&container, &Volumes::new()).unwrap_err();
        assert!(error.to_string().contains("`data-1`"), "{error}");
    }
}
