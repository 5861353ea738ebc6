//! Into the repository: everything is put together in a hidden directory beside the models, which no
//! server looks at, and then renamed into its place.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use indicatif::{ProgressBar, ProgressStyle};
use mizzen_types::ErrorCode;
use tempfile::TempDir;

use crate::failure::{Failure, Result};

/// Where imports that are under way are, by their names' beginning.
const PREFIX: &str = ".mizzen-import-";
/// What says that an import is under way: whoever holds it, works.
const LOCK: &str = ".lock";
/// From here on copying takes long enough to show how far it is.
const SHOWN_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: usize = 1 << 20;

/// A model on its way into a repository. Dropped before [`Staging::commit`], it leaves nothing.
pub(super) struct Staging {
    root: TempDir,
    /// Directories made for it, the outermost first.
    made: Vec<PathBuf>,
    committed: bool,
    repository: PathBuf,
    name: String,
    version: u64,
    _lock: File,
}

/// What is in the repository under the name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct There {
    /// The model, in any version.
    pub(super) model: bool,
    /// This version.
    pub(super) version: bool,
    /// The largest version.
    pub(super) last: Option<u64>,
    /// A configuration.
    pub(super) config: bool,
}

/// Looks at what a repository has of a model.
pub(super) fn there(repository: &Path, name: &str, version: u64) -> There {
    let dir = repository.join(name);
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let last = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max();
    There {
        model: dir.symlink_metadata().is_ok(),
        version: dir.join(version.to_string()).symlink_metadata().is_ok(),
        last,
        config: dir.join("config.pbtxt").exists(),
    }
}

impl Staging {
    /// Makes room, and the repository where there is none.
    ///
    /// # Errors
    /// The repository cannot be made or written.
    pub(super) fn new(repository: &Path, name: &str, version: u64) -> Result<Self> {
        let missing = repository.ancestors().filter(|dir| !dir.as_os_str().is_empty());
        let mut made: Vec<PathBuf> =
            missing.take_while(|dir| !dir.exists()).map(Path::to_owned).collect();
        made.reverse();
        let cannot = |e: io::Error| written(repository, e);
        fs::create_dir_all(repository).map_err(cannot)?;
        sweep(repository);
        let root =
            tempfile::Builder::new().prefix(PREFIX).tempdir_in(repository).map_err(cannot)?;
        let lock = File::create(root.path().join(LOCK)).map_err(cannot)?;
        lock.lock().map_err(cannot)?;
        let staging = Self {
            root,
            made,
            committed: false,
            repository: repository.to_owned(),
            name: name.to_owned(),
            version,
            _lock: lock,
        };
        let dir = staging.version_dir();
        fs::create_dir_all(&dir).map_err(|e| written(&repository.join(name), e))?;
        Ok(staging)
    }

    /// A repository of this model alone.
    pub(super) fn repository(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn model_dir(&self) -> PathBuf {
        self.root.path().join(&self.name)
    }

    pub(super) fn version_dir(&self) -> PathBuf {
        self.model_dir().join(self.version.to_string())
    }

    /// Where the version will be.
    pub(super) fn target(&self) -> PathBuf {
        self.repository.join(&self.name).join(self.version.to_string())
    }

    /// Writes a file of the model.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.model_dir().join(name);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| written(&path, e))
    }

    /// Has the files of the model that is there already stand beside the version as they will, but for
    /// its configuration where `config` is off. [`Staging::give_back`] ends that.
    pub(super) fn borrow(&self, config: bool) -> Result<Vec<PathBuf>> {
        let dir = fs::canonicalize(self.repository.join(&self.name))?;
        let mut borrowed = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let name = entry?.file_name();
            let version = name.to_str().is_some_and(|name| name.parse::<u64>().is_ok());
            if version || (name == "config.pbtxt" && !config) {
                continue;
            }
            let place = self.model_dir().join(&name);
            std::os::unix::fs::symlink(dir.join(&name), &place).map_err(|e| written(&place, e))?;
            borrowed.push(place);
        }
        Ok(borrowed)
    }

    /// Lets go of what was borrowed.
    pub(super) fn give_back(&self, borrowed: &[PathBuf]) -> Result<()> {
        borrowed.iter().try_for_each(|place| fs::remove_file(place).map_err(|e| written(place, e)))
    }

    /// Puts the model into its place: all of it where there was none, else the version and such files
    /// of the model as were written. A version that was there goes.
    ///
    /// # Errors
    /// The repository cannot be written; it is as it was then.
    pub(super) fn commit(mut self) -> Result<()> {
        let (from, to) = (self.model_dir(), self.repository.join(&self.name));
        if to.symlink_metadata().is_err() {
            fs::rename(&from, &to).map_err(|e| written(&to, e))?;
        } else {
            self.replace(&from, &to)?;
        }
        self.committed = true;
        Ok(())
    }

    fn replace(&self, from: &Path, to: &Path) -> Result<()> {
        let (target, old) = (self.target(), self.root.path().join("old"));
        let replaces = target.symlink_metadata().is_ok();
        if replaces {
            fs::rename(&target, &old).map_err(|e| written(&target, e))?;
        }
        let back = |e: io::Error, path: &Path| {
            let _ = fs::remove_dir_all(&target);
            if replaces {
                // Into the place that was just left.
                let _ = fs::rename(&old, &target);
            }
            written(path, e)
        };
        fs::rename(self.version_dir(), &target).map_err(|e| back(e, &target))?;
        for entry in fs::read_dir(from).map_err(|e| back(e, from))? {
            let entry = entry.map_err(|e| back(e, from))?;
            let place = to.join(entry.file_name());
            fs::rename(entry.path(), &place).map_err(|e| back(e, &place))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.committed || self.made.is_empty() {
            return;
        }
        let _ = fs::remove_dir_all(self.root.path());
        for dir in self.made.iter().rev() {
            // Not what somebody else has put something into.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Removes what imports left that were killed.
fn sweep(repository: &Path) {
    for entry in fs::read_dir(repository).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // One without a lock is about to get it.
        let free = File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if free {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Copies files into a directory, by their paths below it; `stop` ends it between two chunks. Returns
/// the bytes copied.
///
/// # Errors
/// A file cannot be read or written, or `stop` was raised.
pub(super) fn copy(
    files: &BTreeMap<PathBuf, PathBuf>,
    into: &Path,
    stop: &Arc<AtomicBool>,
) -> Result<u64> {
    let cannot_read = |path: &Path| {
        let path = path.to_owned();
        move |e: io::Error| Failure::from(e).context(format!("cannot read `{}`", path.display()))
    };
    let mut total = 0;
    for from in files.values() {
        total += fs::metadata(from).map_err(cannot_read(from))?.len();
    }
    let bar = if total < SHOWN_BYTES { ProgressBar::hidden() } else { ProgressBar::new(total) };
    let style = "copying {bar:40} {bytes}/{total_bytes} {bytes_per_sec}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
    let (mut chunk, mut copied) = (vec![0; CHUNK_BYTES], 0);
    for (name, from) in files {
        let to = into.join(name);
        let mut source = File::open(from).map_err(cannot_read(from))?;
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| written(&to, e))?;
        }
        let mut out = File::create(&to).map_err(|e| written(&to, e))?;
        loop {
            stopped(stop)?;
            let n = match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(cannot_read(from)(e)),
            };
            out.write_all(&chunk[..n]).map_err(|e| {
                let left = total.saturating_sub(copied);
                written(&to, e).context(format!("{left} of {total} bytes left to copy"))
            })?;
            copied += n as u64;
            bar.inc(n as u64);
        }
        out.sync_all().map_err(|e| written(&to, e))?;
    }
    bar.finish_and_clear();
    Ok(copied)
}

/// Fails once the command was told to stop.
pub(super) fn stopped(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::new(ErrorCode::Cancelled, "stopped; the repository is as it was"));
    }
    Ok(())
}

/// The failure to write there.
fn written(path: &Path, error: io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename => ErrorCode::InvalidArgument,
        io::ErrorKind::NotADirectory => ErrorCode::InvalidArgument,
        io::ErrorKind::FileTooLarge | io::ErrorKind::QuotaExceeded => ErrorCode::StorageFull,
        _ => mizzen_types::Coded::code(&error),
    };
    Failure::new(code, format!("cannot write `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(repository: &Path, version: u64, text: &str) -> Staging {
        let staging = Staging::new(repository, "m", version).unwrap();
        fs::write(staging.version_dir().join("file"), text).unwrap();
        staging
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(staged(&dir.path().join("a/b"), 1, "x"));
        assert_eq!(names(dir.path()), [""; 0], "nor the directories made for it");
        fs::create_dir(dir.path().join("a")).unwrap();
        drop(staged(&dir.path().join("a/b"), 1, "x"));
        assert_eq!(names(dir.path()), ["a"]);
        let stop = Arc::new(AtomicBool::new(true));
        let files = BTreeMap::from([(PathBuf::from("c"), dir.path().join("c"))]);
        fs::write(dir.path().join("c"), "x").unwrap();
        let staging = staged(&dir.path().join("r"), 1, "x");
        assert!(copy(&files, &staging.version_dir(), &stop).is_err(), "stopped");
    }

    #[test]
    fn versions_come_beside_or_in_place_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        staged(dir.path(), 1, "one").commit().unwrap();
        staged(dir.path(), 2, "two").commit().unwrap();
        fs::write(dir.path().join("m/1/stale"), "").unwrap();
        let staging = staged(dir.path(), 1, "new");
        staging.write("config.pbtxt", "# ours").unwrap();
        staging.commit().unwrap();
        assert_eq!((read("m/1/file"), read("m/2/file")), ("new".into(), "two".into()));
        assert_eq!(names(&dir.path().join("m/1")), ["file"]);
        assert_eq!(read("m/config.pbtxt"), "# ours");
        assert_eq!(names(dir.path()), ["m"]);
        let found = there(dir.path(), "m", 2);
        assert_eq!(found, There { model: true, version: true, last: Some(2), config: true });
    }

    #[test]
    fn a_version_that_cannot_be_replaced_stays() {
        let dir = tempfile::tempdir().unwrap();
        staged(dir.path(), 1, "one").commit().unwrap();
        let staging = staged(dir.path(), 1, "new");
        // A file of the model that a directory stands in the way of.
        staging.write("config.pbtxt", "").unwrap();
        fs::create_dir_all(dir.path().join("m/config.pbtxt/x")).unwrap();
        assert!(staging.commit().is_err());
        assert_eq!(fs::read_to_string(dir.path().join("m/1/file")).unwrap(), "one");
    }

    #[test]
    fn the_next_import_removes_what_a_killed_one_left() {
        let dir = tempfile::tempdir().unwrap();
        let dead = dir.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let at_work = staged(dir.path(), 1, "x");
        let other = Staging::new(dir.path(), "other", 1).unwrap();
        assert!(!dead.exists());
        assert!(at_work.version_dir().join("file").exists());
        drop(other);
    }
}
