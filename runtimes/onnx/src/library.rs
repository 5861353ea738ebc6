//! Finds `libonnxruntime` and opens it, once per process, when the first model needs it.
//!
//! A place that a person named (an option or an environment variable) is the only one tried: what
//! they asked for is used or refused, never silently replaced. Otherwise the [search
//! order](Search::new) is walked and the first library that opens and is new enough wins. A failure
//! is not remembered: the library may be installed while the process runs.

use std::{
    cmp::Reverse,
    error::Error,
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use mizzen_runtime_api::{EngineStatus, RuntimeError};
use ort::{LoadDynamicError, environment::Environment, logging::LogLevel};

use crate::{BACKEND, OnnxOptions};

/// What to type on a machine that lacks it. The version is the one `ort` speaks.
const WAY_OUT: &str = "install it with `pip install onnxruntime==1.31.1` in the active virtual \
    environment, run `make setup` in a checkout, or set MIZZEN_ONNXRUNTIME_LIB to the file";

static OPENED: Mutex<Option<Opened>> = Mutex::new(None);

#[derive(Clone)]
struct Opened {
    environment: Environment,
    path: PathBuf,
}

/// The process's environment; opens the library if nothing has yet.
///
/// # Errors
/// [`RuntimeError::EngineMissing`] with every place that was looked at and the way out.
pub(crate) fn open(options: &OnnxOptions) -> Result<Environment, RuntimeError> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = &*opened {
        return Ok(opened.environment.clone());
    }
    let search = Search::new(options);
    let mut refusals = String::new();
    for path in search.candidates() {
        match open_file(&path) {
            Ok(environment) => {
                tracing::info!(path = %path.display(), "onnx runtime opened");
                *opened = Some(Opened { environment: environment.clone(), path });
                return Ok(environment);
            }
            Err(reason) => {
                let _ = write!(refusals, "`{}`: {reason}; ", path.display());
            }
        }
    }
    let hint = format!("{refusals}{}; {WAY_OUT}", search.describe());
    Err(RuntimeError::EngineMissing { backend: BACKEND, hint })
}

/// What is open, or what would be tried first. Opens nothing.
pub(crate) fn status(options: &OnnxOptions) -> EngineStatus {
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(Opened { path, .. }) = opened {
        let found = format!("{} (open)", version_text(&path));
        return EngineStatus { backend: BACKEND, found: Ok(found), searched: vec![path] };
    }
    let search = Search::new(options);
    match search.candidates().into_iter().find(|path| path.is_file()) {
        Some(path) => {
            let found = version_text(&path);
            EngineStatus { backend: BACKEND, found: Ok(found), searched: vec![path] }
        }
        None => {
            let reason = format!("{}; {WAY_OUT}", search.describe());
            EngineStatus { backend: BACKEND, found: Err(reason), searched: search.places }
        }
    }
}

fn open_file(path: &Path) -> Result<Environment, String> {
    let builder = ort::init_from(path).map_err(|error| match error {
        // `libloading` keeps the linker's own words in the source.
        LoadDynamicError::Dlopen { error, .. } => match error.source() {
            Some(source) => source.to_string(),
            None => error.to_string(),
        },
        other => other.to_string(),
    })?;
    let environment = builder
        .with_name("mizzen")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|error| error.to_string())?;
    // Given a logger, `ort` asks for every verbose line, which costs a call for each.
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

fn log(level: LogLevel, category: &str, _id: &str, location: &str, text: &str) {
    match level {
        LogLevel::Fatal | LogLevel::Error => {
            tracing::error!(category, location, text, "onnx runtime");
        }
        LogLevel::Warning => tracing::warn!(category, location, text, "onnx runtime"),
        LogLevel::Info | LogLevel::Verbose => {
            tracing::debug!(category, location, text, "onnx runtime");
        }
    }
}

/// Where the library may be.
struct Search {
    /// Who named a file, if someone did.
    named: Option<&'static str>,
    /// That file, or the directories to look in, in order.
    places: Vec<PathBuf>,
}

impl Search {
    /// 1. the option; 2. `MIZZEN_ONNXRUNTIME_LIB`; 3. `ORT_DYLIB_PATH`: each a file, and the first
    ///    one set is the only one tried;
    /// 4. `<program>/../lib` and `<program>`; 5. the option's directories; 6. the `onnxruntime`
    ///    package of the active Python environment (`VIRTUAL_ENV`); 7. the system's directories.
    fn new(options: &OnnxOptions) -> Self {
        let variable = |name| (options.variable)(name).filter(|value| !value.is_empty());
        let named = [
            ("the library option", options.library.clone().map(OsString::from)),
            ("MIZZEN_ONNXRUNTIME_LIB", variable("MIZZEN_ONNXRUNTIME_LIB")),
            ("ORT_DYLIB_PATH", variable("ORT_DYLIB_PATH")),
        ];
        if let Some((who, Some(path))) = named.into_iter().find(|(_, path)| path.is_some()) {
            return Self { named: Some(who), places: vec![path.into()] };
        }
        let mut places = Vec::new();
        if let Some(program) = options.program.as_deref().and_then(Path::parent) {
            places.extend([program.join("../lib"), program.into()]);
        }
        places.extend(options.dirs.iter().cloned());
        if let Some(root) = variable("VIRTUAL_ENV") {
            places.extend(python_packages(Path::new(&root)));
        }
        let arch = std::env::consts::ARCH;
        places.extend(
            ["/usr/local/lib", "/usr/lib", "/usr/lib64", "/opt/homebrew/lib"].map(Into::into),
        );
        places.push(format!("/usr/lib/{arch}-linux-gnu").into());
        Self { named: None, places }
    }

    /// Files to try, in order; in one directory the newest version first.
    fn candidates(&self) -> Vec<PathBuf> {
        match self.named {
            Some(_) => self.places.clone(),
            None => self.places.iter().flat_map(|dir| libraries(dir)).collect(),
        }
    }

    fn describe(&self) -> String {
        let places: Vec<_> = self.places.iter().map(|p| format!("`{}`", p.display())).collect();
        match self.named {
            Some(who) => format!("{who} names {}", places.join(", ")),
            None => format!("looked for {} in {}", library_name(), places.join(", ")),
        }
    }
}

fn library_name() -> String {
    format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// `<root>/lib/python3*/site-packages/onnxruntime/capi`, for each Python in the environment.
fn python_packages(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let mut pythons: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .map(|entry| entry.path().join("site-packages/onnxruntime/capi"))
        .collect();
    pythons.sort();
    pythons
}

fn libraries(dir: &Path) -> Vec<PathBuf> {
    let stem = format!("{}onnxruntime.", std::env::consts::DLL_PREFIX);
    let suffix = std::env::consts::DLL_SUFFIX.trim_start_matches('.');
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(&stem));
            rest.is_some_and(|rest| rest.split('.').any(|part| part == suffix))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort_by_key(|path| (Reverse(version(path)), path.clone()));
    found
}

/// The version in the file's real name, `libonnxruntime.so.1.31.1`; empty if it has none.
fn version(path: &Path) -> Vec<u32> {
    let real = path.canonicalize().unwrap_or_else(|_| path.into());
    let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split('.').filter_map(|part| part.parse().ok()).collect()
}

fn version_text(path: &Path) -> String {
    let version: Vec<_> = version(path).iter().map(u32::to_string).collect();
    if version.is_empty() { "unknown version".to_owned() } else { version.join(".") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<OsString> {
        None
    }

    #[test]
    fn what_a_person_names_is_the_only_place_tried_and_the_option_comes_first() {
        fn both(name: &str) -> Option<OsString> {
            matches!(name, "MIZZEN_ONNXRUNTIME_LIB" | "ORT_DYLIB_PATH").then(|| name.into())
        }
        fn ort(name: &str) -> Option<OsString> {
            (name == "ORT_DYLIB_PATH").then(|| "/ort".into())
        }
        fn empty(name: &str) -> Option<OsString> {
            Some(if name == "ORT_DYLIB_PATH" { "/ort".into() } else { OsString::new() })
        }
        type Variable = fn(&str) -> Option<OsString>;
        #[rustfmt::skip]
        let cases: [(&str, Option<&str>, Variable, &str); 4] = [
            ("the option beats variables",   Some("/opt"), both,  "/opt"),
            ("ours beats ort's",             None,         both,  "MIZZEN_ONNXRUNTIME_LIB"),
            ("ort's alone is used",          None,         ort,   "/ort"),
            ("an empty variable is not set", None,         empty, "/ort"),
        ];
        for (shows, library, variable, want) in cases {
            let library = library.map(PathBuf::from);
            let options = OnnxOptions { library, variable, ..OnnxOptions::default() };
            assert_eq!(Search::new(&options).candidates(), [PathBuf::from(want)], "{shows}");
        }
    }

    #[test]
    fn directories_are_walked_in_order_and_the_newest_library_of_one_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let touch = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, b"").unwrap();
            path
        };
        let by_program = touch("app/lib/libonnxruntime.so.1.9.0");
        let old = touch("cache/libonnxruntime.so.1.9.0");
        let new = touch("cache/libonnxruntime.so.1.31.1");
        touch("cache/libonnxruntime_providers_shared.so");
        touch("cache/libonnxruntime.txt");
        let options = OnnxOptions {
            program: Some(root.path().join("app/bin/mizzen")),
            dirs: vec![root.path().join("absent"), root.path().join("cache")],
            variable: nothing,
            ..OnnxOptions::default()
        };
        std::fs::create_dir_all(root.path().join("app/bin")).unwrap();
        let found = Search::new(&options).candidates();
        let found: Vec<_> = found.iter().map(|path| path.canonicalize().unwrap()).collect();
        let want = [by_program, new, old].map(|path| path.canonicalize().unwrap());
        assert_eq!(found[..3], want);
    }

    #[test]
    fn a_python_environment_is_looked_into() {
        let root = tempfile::tempdir().unwrap();
        let capi = root.path().join("lib/python3.11/site-packages/onnxruntime/capi");
        std::fs::create_dir_all(&capi).unwrap();
        std::fs::write(capi.join("libonnxruntime.so.1.31.1"), b"").unwrap();
        let found: Vec<_> =
            python_packages(root.path()).iter().flat_map(|dir| libraries(dir)).collect();
        assert_eq!(found, [capi.join("libonnxruntime.so.1.31.1")]);
        assert_eq!(version_text(&found[0]), "1.31.1");
    }
}
