//! Where files go. The environment comes in as a function, so that tests need none.

use std::path::{Path, PathBuf};

use crate::ConfigError;

/// The data directory: the one named, else `$XDG_DATA_HOME/mizzen`, else `$HOME/.local/share/mizzen`.
///
/// # Errors
/// [`ConfigError::NoDataDir`] where none of these is there.
pub fn data_dir(
    named: Option<&Path>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, ConfigError> {
    let from = |name: &str, below: &str| {
        env(name).filter(|v| !v.is_empty()).map(|v| Path::new(&v).join(below))
    };
    named
        .map(Path::to_owned)
        .or_else(|| from("XDG_DATA_HOME", "mizzen"))
        .or_else(|| from("HOME", ".local/share/mizzen"))
        .ok_or(ConfigError::NoDataDir)
}

/// The configuration file where none is named: `$XDG_CONFIG_HOME/mizzen/mizzen.toml`, else
/// `$HOME/.config/mizzen/mizzen.toml`, if it exists.
pub fn config_file(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let from = |name: &str, below: &str| {
        env(name).filter(|v| !v.is_empty()).map(|v| Path::new(&v).join(below))
    };
    from("XDG_CONFIG_HOME", "mizzen/mizzen.toml")
        .or_else(|| from("HOME", ".config/mizzen/mizzen.toml"))
        .filter(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_directory_wins_then_xdg_then_home() {
        let env = |known: &'static [(&str, &str)]| {
            move |name: &str| known.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned())
        };
        let both = env(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]);
        assert_eq!(data_dir(Some(Path::new("/n")), both).unwrap(), Path::new("/n"));
        assert_eq!(data_dir(None, both).unwrap(), Path::new("/x/mizzen"));
        assert_eq!(
            data_dir(None, env(&[("HOME", "/h")])).unwrap(),
            Path::new("/h/.local/share/mizzen")
        );
        assert!(matches!(data_dir(None, env(&[])), Err(ConfigError::NoDataDir)));
    }
}
