//! Python environments for lightweight components: each set of requirements is installed once.
//!
//! Where the base interpreter has everything, it is used as it is. Otherwise a virtual environment
//! over it is made under the cache directory, named by a hash over requirements and interpreter.
//! It is usable when its `.ready` file exists, which is written last; a lock file keeps other
//! processes, and a mutex other steps, from making it twice.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{process::Command, sync::Mutex};
use tracing::info;

use crate::{name::hex, python::Interpreter, wrapper::PipInstall};

/// Characters of pip's complaint that are shown: its last lines, which say what is wrong.
const COMPLAINT_CHARS_MAX: usize = 2000;

pub(crate) struct Environments {
    directory: PathBuf,
    python: PathBuf,
    path: String,
    interpreter: Mutex<Option<Arc<Interpreter>>>,
    making: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Environments {
    /// `python`: the base interpreter, else `python3` on `path`.
    pub(crate) fn new(cache_dir: &Path, python: Option<PathBuf>, path: String) -> Self {
        Self {
            directory: cache_dir.join("environments"),
            python: python.unwrap_or_else(|| PathBuf::from("python3")),
            path,
            interpreter: Mutex::new(None),
            making: Mutex::new(HashMap::new()),
        }
    }

    /// The `PATH` with which a step finds a `python3` that has everything installed.
    pub(crate) async fn path_with(&self, installs: &[PipInstall]) -> Result<String, String> {
        let base = self.interpreter().await?;
        let missing: Vec<_> = installs.iter().filter(|i| !base.satisfies(i)).cloned().collect();
        let bin = match missing.as_slice() {
            [] => self.base_bin(&base)?,
            missing => Some(self.environment(&base, missing).await?.join("bin")),
        };
        Ok(match bin {
            Some(bin) => format!("{}:{}", bin.display(), self.path),
            None => self.path.clone(),
        })
    }

    async fn interpreter(&self) -> Result<Arc<Interpreter>, String> {
        let mut known = self.interpreter.lock().await;
        if let Some(interpreter) = known.as_ref() {
            return Ok(Arc::clone(interpreter));
        }
        let interpreter = Arc::new(Interpreter::probe(&self.python, &self.path).await?);
        *known = Some(Arc::clone(&interpreter));
        Ok(interpreter)
    }

    /// A directory in which `python3` is the base interpreter; none where `PATH` has it already.
    fn base_bin(&self, base: &Interpreter) -> Result<Option<PathBuf>, String> {
        let Some(bin) = self.python.parent().filter(|p| !p.as_os_str().is_empty()) else {
            return Ok(None);
        };
        if bin.join("python3").exists() {
            return Ok(Some(bin.to_owned()));
        }
        // A link would make a virtual environment's interpreter forget where it lives.
        let key = &hex(&Sha256::digest(base.executable.as_bytes()))[..16];
        let shims = self.directory.join(format!("{key}-shim"));
        let shim = shims.join("python3");
        let quoted = base.executable.replace('\'', r"'\''");
        let script = format!("#!/bin/sh\nexec '{quoted}' \"$@\"\n");
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&shims)?;
            let partial = shims.join(format!(".python3.{}", std::process::id()));
            std::fs::write(&partial, script)?;
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&partial, executable)?;
            std::fs::rename(&partial, &shim)
        };
        write().map_err(|e| format!("cannot write `{}`: {e}", shim.display()))?;
        Ok(Some(shims))
    }

    async fn environment(
        &self,
        base: &Interpreter,
        installs: &[PipInstall],
    ) -> Result<PathBuf, String> {
        let identity = json!([base.executable, base.version, installs]).to_string();
        let key = hex(&Sha256::digest(identity.as_bytes()))[..24].to_owned();
        let directory = self.directory.join(&key);
        let ready = self.directory.join(format!("{key}.ready"));
        let turn = Arc::clone(self.making.lock().await.entry(key.clone()).or_default());
        let _turn = turn.lock().await;
        if ready.exists() && directory.join("bin/python3").exists() {
            return Ok(directory);
        }
        let lock_file = self.directory.join(format!("{key}.lock"));
        let parent = self.directory.clone();
        let locked = tokio::task::spawn_blocking(move || -> std::io::Result<std::fs::File> {
            std::fs::create_dir_all(&parent)?;
            let file = std::fs::File::create(&lock_file)?;
            file.lock()?;
            Ok(file)
        });
        let _lock = locked
            .await
            .map_err(|e| e.to_string())
            .and_then(|file| file.map_err(|e| e.to_string()))
            .map_err(|e| format!("cannot lock the environment `{}`: {e}", directory.display()))?;
        if ready.exists() {
            return Ok(directory);
        }
        let made = self.make(base, installs, &directory).await;
        let published = match made {
            Ok(()) => publish(&ready, &identity),
            Err(problem) => Err(problem),
        };
        if let Err(problem) = published {
            let _ = std::fs::remove_dir_all(&directory); // it is made anew next time anyway
            return Err(problem);
        }
        Ok(directory)
    }

    async fn make(
        &self,
        base: &Interpreter,
        installs: &[PipInstall],
        directory: &Path,
    ) -> Result<(), String> {
        let wanted: Vec<_> = installs.iter().flat_map(|i| &i.requirements).cloned().collect();
        let wanted = wanted.join(" ");
        info!(requirements = wanted, directory = %directory.display(), "making a python environment");
        if directory.exists() {
            // Left by a process that died while making it.
            std::fs::remove_dir_all(directory)
                .map_err(|e| format!("cannot remove `{}`: {e}", directory.display()))?;
        }
        let venv = ["-m", "venv", "--without-pip", "--system-site-packages"];
        let mut command = Command::new(&base.executable);
        run(command.args(venv).arg(directory), "making a python environment").await?;
        link_base(base, directory)?;
        for install in installs {
            let mut command = Command::new(&base.executable);
            command.args(["-m", "pip", "--python"]).arg(directory.join("bin/python3"));
            command.args(["install", "--quiet", "--disable-pip-version-check", "--no-input"]);
            command.args(&install.options).args(&install.requirements);
            run(&mut command, &format!("installing {wanted}")).await?;
        }
        info!(requirements = wanted, "python environment is ready");
        Ok(())
    }
}

/// A venv sees the system's packages, but not those of a venv it is made from: add their place.
fn link_base(base: &Interpreter, directory: &Path) -> Result<(), String> {
    let minor = base.version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let file = directory.join(format!("lib/python{minor}/site-packages/_mizzen_base.pth"));
    std::fs::write(&file, base.site.join("\n") + "\n")
        .map_err(|e| format!("cannot write `{}`: {e}", file.display()))
}

/// The `.ready` file appears whole or not at all.
fn publish(ready: &Path, identity: &str) -> Result<(), String> {
    let partial = ready.with_extension("partial");
    std::fs::write(&partial, identity)
        .and_then(|()| std::fs::rename(&partial, ready))
        .map_err(|e| format!("cannot write `{}`: {e}", ready.display()))
}

async fn run(command: &mut Command, what: &str) -> Result<(), String> {
    command.kill_on_drop(true).stdin(std::process::Stdio::null());
    let output = command.output().await.map_err(|e| format!("{what} failed: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(COMPLAINT_CHARS_MAX);
    let tail: String = text.chars().skip(skip).collect();
    Err(format!("{what} failed ({}): {tail}", output.status))
}
