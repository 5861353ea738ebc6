//! Where a plug-in's library may be.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Where to look for plug-ins, in this order: `library`; the directory in `MIZZEN_PLUGIN_DIR`;
/// `<program>/../lib/mizzen`; `dirs`. A library or directory that a person named (the first two) is
/// the only place looked at.
#[derive(Debug, Clone)]
pub struct PluginOptions {
    /// The library's file.
    pub library: Option<PathBuf>,
    /// More directories.
    pub dirs: Vec<PathBuf>,
    /// The running program's file.
    pub program: Option<PathBuf>,
    /// Reads an environment variable.
    pub variable: fn(&str) -> Option<OsString>,
}

impl Default for PluginOptions {
    fn default() -> Self {
        Self {
            library: None,
            dirs: Vec::new(),
            program: std::env::current_exe().ok(),
            variable: |name| std::env::var_os(name),
        }
    }
}

impl PluginOptions {
    /// Files that would be opened for a plug-in of this name, whether they exist or not, in order.
    pub(crate) fn places(&self, plugin: &str) -> Vec<PathBuf> {
        if let Some(library) = &self.library {
            return vec![library.clone()];
        }
        let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let file = format!("{prefix}mizzen_{plugin}{suffix}");
        let named = (self.variable)("MIZZEN_PLUGIN_DIR").filter(|dir| !dir.is_empty());
        if let Some(dir) = named {
            return vec![Path::new(&dir).join(file)];
        }
        let program = self.program.as_deref().and_then(Path::parent);
        let beside = program.map(|dir| dir.join("../lib/mizzen"));
        beside.iter().chain(&self.dirs).map(|dir| dir.join(&file)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_names_is_the_only_place() {
        fn unset(_: &str) -> Option<OsString> {
            None
        }
        fn set(name: &str) -> Option<OsString> {
            (name == "MIZZEN_PLUGIN_DIR").then(|| "/plug".into())
        }
        let options = |library: Option<&str>, variable| PluginOptions {
            library: library.map(Into::into),
            dirs: vec!["/more".into()],
            program: Some("/app/bin/mizzen".into()),
            variable,
        };
        let file =
            format!("{}mizzen_torch{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let paths = |dirs: &[&str]| -> Vec<PathBuf> {
            dirs.iter().map(|dir| Path::new(dir).join(&file)).collect()
        };
        let places = |options: PluginOptions| options.places("torch");
        assert_eq!(places(options(Some("/x.so"), set)), [PathBuf::from("/x.so")]);
        assert_eq!(places(options(None, set)), paths(&["/plug"]));
        assert_eq!(places(options(None, unset)), paths(&["/app/bin/../lib/mizzen", "/more"]));
    }
}
