//! Where a pod's files lie.
//!
//! ```text
//! <dir>/<namespace>/<pod uid>/work/                          where containers start by default
//!                             tmp/                           their TMPDIR
//!                             volumes/<volume>/              emptyDir, configMap and secret volumes
//!                             gpus                           the GPUs the pod holds
//!                             <container>.<restart>/         one run of a container:
//!                                                 pid        who runs it (see `process`)
//!                                                 exit       how it ended
//!                                                 log        what it printed
//!                                                 cut        which part of that is gone (see `logs`)
//! <dir>/<namespace>/.pods/<pod name>                         link to the pod's directory
//! <dir>/<namespace>/.claims/<claim>/                         persistent volume claims; they outlive pods
//! ```

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The directory of one pod. Reading it needs nothing but the node's directory, so other parts of
/// the program (log readers, metrics collectors) may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPaths {
    node: PathBuf,
    namespace: String,
    uid: String,
}

impl PodPaths {
    /// Of the pod with this uid.
    pub fn new(node: &Path, namespace: &str, uid: &str) -> Self {
        Self { node: node.into(), namespace: namespace.into(), uid: uid.into() }
    }

    /// Of the pod with this name, if it has been started here.
    pub fn find(node: &Path, namespace: &str, pod: &str) -> Option<Self> {
        if ![namespace, pod].iter().all(|name| is_plain_name(name)) {
            return None;
        }
        let target = fs::read_link(link(node, namespace, pod)).ok()?;
        Some(Self::new(node, namespace, target.file_name()?.to_str()?))
    }

    /// The pod's own directory.
    pub fn root(&self) -> PathBuf {
        self.node.join(&self.namespace).join(&self.uid)
    }

    /// What the containers see under a volume's mount path. Claims are found by
    /// [`PodPaths::claim`] instead.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.root().join("volumes").join(name)
    }

    /// The directory behind a persistent volume claim of the pod's namespace.
    pub fn claim(&self, name: &str) -> PathBuf {
        self.node.join(&self.namespace).join(".claims").join(name)
    }

    /// One run of a container; `restart` counts from 0.
    pub fn run(&self, container: &str, restart: u32) -> RunPaths {
        RunPaths(self.root().join(format!("{container}.{restart}")))
    }

    /// How often the container has been started, or was about to be.
    pub fn runs(&self, container: &str) -> u32 {
        let of_it = self.all_runs().into_iter().filter(|(name, _)| name == container);
        of_it.map(|(_, restart)| restart + 1).max().unwrap_or(0)
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.root().join("work")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root().join("tmp")
    }

    pub(crate) fn gpus(&self) -> PathBuf {
        self.root().join("gpus")
    }

    /// Every run that has a directory. Names of containers have no dot, so that the last one ends
    /// them, and nothing else here has one.
    fn all_runs(&self) -> Vec<(String, u32)> {
        let Ok(entries) = fs::read_dir(self.root()) else { return Vec::new() };
        let run = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let (container, restart) = name.rsplit_once('.')?;
            Some((container.to_owned(), restart.parse().ok()?))
        };
        entries.filter_map(run).collect()
    }

    /// Makes the directories every container of the pod shares, and the link by the pod's name.
    pub(crate) fn create(&self, pod: &str) -> io::Result<()> {
        fs::create_dir_all(self.root())?;
        fs::create_dir_all(self.work())?;
        fs::create_dir_all(self.tmp())?;
        let link = link(&self.node, &self.namespace, pod);
        let target = Path::new("..").join(&self.uid);
        let mut made = symlink(&target, &link);
        if made.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
            && let Some(parent) = link.parent()
        {
            fs::create_dir_all(parent)?;
            made = symlink(&target, &link);
        }
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_link(&link).is_ok_and(|there| there == target) {
                    return Ok(());
                }
                // Renamed into place: a pod of this name has been here before, and a reader must
                // find either it or this one.
                let fresh = link.with_file_name(format!(".{}", self.uid));
                let _ = fs::remove_file(&fresh);
                symlink(&target, &fresh)?;
                fs::rename(&fresh, &link)
            }
            made => made,
        }
    }

    /// Removes the pod's files and logs. What is missing already is fine.
    pub(crate) fn remove(&self, pod: &str) -> io::Result<()> {
        let link = link(&self.node, &self.namespace, pod);
        if fs::read_link(&link).is_ok_and(|target| target.ends_with(&self.uid)) {
            fs::remove_file(&link)?;
        }
        match fs::remove_dir_all(self.root()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes the pod's files and logs, and the links by the name it had.
    pub(crate) fn remove_all(&self) -> io::Result<()> {
        let names = self.node.join(&self.namespace).join(".pods");
        let names = fs::read_dir(names).into_iter().flatten();
        for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let link = link(&self.node, &self.namespace, &name);
            if fs::read_link(&link).is_ok_and(|target| target.ends_with(&self.uid)) {
                fs::remove_file(&link)?;
            }
        }
        self.remove("")
    }

    /// The containers that have a directory here.
    pub(crate) fn containers(&self) -> Vec<String> {
        let names: BTreeSet<_> = self.all_runs().into_iter().map(|(name, _)| name).collect();
        names.into_iter().collect()
    }

    /// Every pod that has a directory under the node's.
    pub(crate) fn all(node: &Path) -> Vec<Self> {
        let dirs = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten();
            let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
            names.filter(|name| is_plain_name(name)).collect::<Vec<_>>()
        };
        let namespaces = dirs(node).into_iter();
        namespaces
            .flat_map(|ns| {
                let uids = dirs(&node.join(&ns)).into_iter();
                uids.map(move |uid| Self::new(node, &ns, &uid)).collect::<Vec<_>>()
            })
            .collect()
    }

    pub(crate) fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.uid)
    }
}

/// The files of one run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPaths(PathBuf);

impl RunPaths {
    /// The directory they are in.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// What the container printed, stdout and stderr in the order they were written; of much, the
    /// beginning and the end.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Present once the container has ended.
    pub fn exit(&self) -> PathBuf {
        self.0.join("exit")
    }

    /// The uid of the pod it is a run of.
    pub(crate) fn uid(&self) -> &str {
        self.0.parent().and_then(|root| root.file_name()?.to_str()).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }

    pub(crate) fn cut(&self) -> PathBuf {
        self.0.join("cut")
    }
}

fn link(node: &Path, namespace: &str, pod: &str) -> PathBuf {
    node.join(namespace).join(".pods").join(pod)
}

/// Whether a name may become a file name: Kubernetes's names all may, except that nothing here
/// relies on someone else having checked them.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && !name.starts_with('.') && name.len() <= 253 && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_the_newest_pod_that_had_it() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) =
            (PodPaths::new(dir.path(), "ns", "u1"), PodPaths::new(dir.path(), "ns", "u2"));
        old.create("p").unwrap();
        new.create("p").unwrap();
        assert_eq!(PodPaths::find(dir.path(), "ns", "p"), Some(new.clone()));
        old.remove("p").unwrap();
        assert_eq!(PodPaths::find(dir.path(), "ns", "p"), Some(new.clone()), "only its own link");
        assert_eq!(PodPaths::all(dir.path()), std::slice::from_ref(&new));
        new.remove("p").unwrap();
        new.remove("p").unwrap();
        assert_eq!(PodPaths::find(dir.path(), "ns", "p"), None);
    }

    #[test]
    fn names_cannot_climb_out_of_the_directory() {
        for name in ["", "..", "../x", "a/b", ".pods", "a\0b"] {
            assert!(!is_plain_name(name), "{name:?}");
            assert_eq!(PodPaths::find(Path::new("/"), name, name), None);
        }
        assert!(is_plain_name("trial-7.main_x"));
    }
}
