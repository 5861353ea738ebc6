//! A font of this machine, for pictures.

use std::path::{Path, PathBuf};

use mizzen_tuning_report::Font;
use mizzen_types::ErrorCode;

use crate::{
    failure::{Failure, Result},
    global::environment,
};

/// Fonts that read well when small, the most common first.
const GOOD: &[&str] = &[
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSans-Regular.ttf",
    "Roboto-Regular.ttf",
    "OpenSans-Regular.ttf",
    "Ubuntu-R.ttf",
    "FreeSans.ttf",
    "Arial.ttf",
    "Arial Unicode.ttf",
    "Verdana.ttf",
];
/// Files looked at before giving up; font directories of people who collect hold some thousand.
const FILES_MAX: usize = 20_000;
/// Directories below a directory of fonts.
const DEPTH_MAX: usize = 8;
/// The largest font read; those of all Chinese signs have some 20 MB.
const BYTES_MAX: u64 = 64 << 20;

/// A font and where it lies: the one given, else a good one of this machine, else any.
pub(super) fn find(given: Option<&Path>) -> Result<(PathBuf, Vec<u8>)> {
    if let Some(path) = given {
        let bytes = std::fs::read(path)
            .map_err(|e| Failure::from(e).context(format!("cannot read `{}`", path.display())))?;
        return Ok((path.to_owned(), bytes));
    }
    let mut fonts = Vec::new();
    for dir in directories() {
        collect(&dir, 0, &mut fonts);
    }
    let rank = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        GOOD.iter().position(|good| *good == name).unwrap_or(GOOD.len())
    };
    fonts.sort_by_key(|path| (rank(path), path.clone()));
    let usable = |path: PathBuf| {
        let small = std::fs::metadata(&path).is_ok_and(|m| m.len() <= BYTES_MAX);
        let bytes = small.then(|| std::fs::read(&path).ok()).flatten()?;
        Font::parse(&bytes).is_some_and(|font| font.has_latin()).then_some((path, bytes))
    };
    fonts.into_iter().find_map(usable).ok_or_else(|| {
        let message = "no font (TTF or OTF) found on this machine, and a picture needs one for its words; \
                       install one (such as fonts-dejavu-core), give a file with --font, or take --format svg";
        Failure::new(ErrorCode::FailedPrecondition, message)
    })
}

/// What to say of a file that is no font.
pub(super) fn unusable(path: &Path) -> Failure {
    let message = format!("`{}` is not a font; expected a TTF or OTF file", path.display());
    Failure::new(ErrorCode::InvalidArgument, message)
}

fn directories() -> Vec<PathBuf> {
    let home = environment("HOME").map(PathBuf::from).unwrap_or_default();
    let data = environment("XDG_DATA_HOME").map_or(home.join(".local/share"), PathBuf::from);
    let own = [data.join("fonts"), home.join(".fonts"), home.join("Library/Fonts")];
    let system =
        ["/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "/System/Library/Fonts"];
    own.into_iter().chain(system.map(PathBuf::from)).collect()
}

fn collect(dir: &Path, depth: usize, fonts: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if fonts.len() >= FILES_MAX {
            return;
        }
        let path = entry.path();
        // A link to a directory is not followed: it may lead in a circle.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if depth < DEPTH_MAX {
                collect(&path, depth + 1, fonts);
            }
        } else if path.extension().is_some_and(|e| e == "ttf" || e == "otf") {
            fonts.push(path);
        }
    }
}
