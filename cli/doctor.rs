//! `mizzen doctor`

use std::{io::Write, path::PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    engines,
    failure::{Failure, Result},
    global::{Global, Output},
};

/// Say what was found on this machine: engines, libraries, GPUs, Python, the data directory
///
/// For what is missing it says where it was looked for and how to get it. Exits 0 even then: nothing here is
/// needed to start.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// ONNX Runtime's library, in place of the search
    #[arg(long, value_name = "FILE", env = "MIZZEN_ONNXRUNTIME_LIB")]
    onnxruntime: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// One thing looked for.
struct Finding {
    what: String,
    found: std::result::Result<String, String>,
    searched: Vec<PathBuf>,
}

impl Doctor {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("warn")?;
        let mut findings: Vec<Finding> = engines::statuses(self.onnxruntime.clone())
            .into_iter()
            .map(|s| Finding {
                what: format!("engine {}", s.backend),
                found: s.found,
                searched: s.searched,
            })
            .collect();
        findings.push(gpus());
        findings.push(python());
        findings.push(data_dir(global));
        if self.output == Output::Json {
            return writeln!(out, "{:#}", as_json(&findings)).map_err(Failure::from);
        }
        for finding in &findings {
            match &finding.found {
                Ok(found) => writeln!(out, "ok       {}: {found}", finding.what)?,
                Err(way_out) => {
                    writeln!(out, "missing  {}: {way_out}", finding.what)?;
                    for place in &finding.searched {
                        writeln!(out, "           looked in {}", place.display())?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn as_json(findings: &[Finding]) -> Value {
    let one = |f: &Finding| json!({ "what": f.what, "found": f.found.as_ref().ok(), "missing": f.found.as_ref().err(), "searched": f.searched });
    findings.iter().map(one).collect()
}

/// NVIDIA's driver lists its devices as directories; nothing of CUDA need be opened to count them.
fn gpus() -> Finding {
    let dir = PathBuf::from("/proc/driver/nvidia/gpus");
    let count = std::fs::read_dir(&dir).map(|entries| entries.count()).unwrap_or(0);
    let found = match count {
        0 => Err("no NVIDIA driver with a GPU; models run on the CPU".to_owned()),
        n => Ok(format!("{n} NVIDIA")),
    };
    Finding { what: "gpus".into(), found, searched: vec![dir] }
}

/// Pipeline steps written in Python run under the `python3` of PATH.
fn python() -> Finding {
    let dirs: Vec<PathBuf> =
        std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    let program = dirs.iter().map(|dir| dir.join("python3")).find(|p| p.is_file());
    let found = match program {
        Some(program) => {
            let version = std::process::Command::new(&program).arg("--version").output();
            let version = version
                .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
                .unwrap_or_default();
            Ok(format!("{version} at {}", program.display()))
        }
        None => {
            Err("no `python3` in PATH; pipeline steps and trials written in Python need one"
                .to_owned())
        }
    };
    Finding { what: "python".into(), found, searched: dirs }
}

fn data_dir(global: &Global) -> Finding {
    let found = global
        .data_dir()
        .map_err(|_| "set --data-dir or MIZZEN_DATA_DIR".to_owned())
        .and_then(|dir| {
            let probe = dir.join(".doctor");
            let write = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&probe, b"ok"));
            let _ = std::fs::remove_file(&probe);
            match write {
                Ok(()) => Ok(format!("{} (writable)", dir.display())),
                Err(e) => Err(format!(
                    "{} cannot be written ({e}); choose another with --data-dir",
                    dir.display()
                )),
            }
        });
    Finding { what: "data directory".into(), found, searched: Vec::new() }
}
