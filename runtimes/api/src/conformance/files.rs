//! Checks of what an engine makes of files: misnamed, cut short, damaged, hostile, many.

use std::path::{Path, PathBuf};

use super::{
    Fixture,
    support::{MODEL, ONE_THREAD, answers_right, directory, open, run, said, source, written},
};
use crate::{ModelSource, RuntimeError};

/// Places in a file at which it is cut, evenly spread, the last byte among them.
const CUTS: usize = 16;
/// Bits flipped, one at a time.
const FLIPS: u64 = 200;
/// Times a model is loaded, opened, run and dropped.
const CYCLES: usize = 100;
/// What the process itself may open meanwhile; a leak opens [`CYCLES`].
const OTHER_FILES: usize = CYCLES / 4;

pub(super) fn named_file(fixture: &Fixture<'_>) -> Result<(), String> {
    let mut source = written(fixture)?;
    let default = source.dir.join(fixture.loader.default_file());
    move_file(&default, &source.dir.join("renamed"))?;
    refused(fixture, &source, "the default file is gone")?;

    source.file = Some("renamed".to_owned());
    let model = fixture.loader.load(&source).map_err(|error| said("load", &error))?;
    let mut instance = model.open(&ONE_THREAD).map_err(|error| said("open", &error))?;
    answers_right(fixture, &mut *instance, 2, 1)?;

    let outside = fixture.scratch.join("outside");
    move_file(&source.dir.join("renamed"), &outside)?;
    for name in ["../outside".to_owned(), outside.display().to_string()] {
        source.file = Some(name);
        refused(fixture, &source, "the file lies outside the directory")?;
    }
    Ok(())
}

pub(super) fn cut_short(fixture: &Fixture<'_>) -> Result<(), String> {
    for file in files(&written(fixture)?.dir)? {
        let source = written(fixture)?;
        let path = source.dir.join(&file);
        let whole = read(&path)?;
        let cuts = (0..CUTS).map(|cut| whole.len() * cut / CUTS).chain([whole.len() - 1]);
        for cut in cuts {
            write(&path, &whole[..cut])?;
            let what = format!("`{}` cut to {cut} of {} bytes", file.display(), whole.len());
            refused(fixture, &source, &what)?;
        }
        remove(&path)?;
        refused(fixture, &source, &format!("`{}` missing", file.display()))?;
    }
    Ok(())
}

pub(super) fn damaged(fixture: &Fixture<'_>) -> Result<(), String> {
    for file in files(&written(fixture)?.dir)? {
        let source = written(fixture)?;
        let path = source.dir.join(&file);
        let whole = read(&path)?;
        for flip in 0..FLIPS {
            // A multiplicative hash spreads the flips over the file, the same ones each time.
            let bit = flip.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            let bit = usize::try_from(bit).unwrap_or_default() % (8 * whole.len());
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            write(&path, &bytes)?;
            // A weight may have changed and nothing else; only a panic would be wrong.
            if let Ok(model) = fixture.loader.load(&source)
                && let Ok(mut instance) = model.open(&ONE_THREAD)
            {
                let _ = run(&mut *instance, &(fixture.batch)(2, flip));
            }
        }
    }
    Ok(())
}

pub(super) fn hostile(fixture: &Fixture<'_>) -> Result<(), String> {
    for (what, bytes) in &fixture.hostile {
        let source = written(fixture)?;
        write(&source.dir.join(fixture.loader.default_file()), bytes)?;
        refused(fixture, &source, what)?;
    }
    let mut nowhere = source(&directory(fixture)?);
    nowhere.dir.push("absent");
    refused(fixture, &nowhere, "no directory")
}

pub(super) fn no_leak(fixture: &Fixture<'_>) -> Result<(), String> {
    let cycle = || answers_right(fixture, &mut *open(fixture)?, 1, 1);
    // What the engine opens once and keeps is open after the first.
    cycle()?;
    let Some(before) = open_files() else { return Ok(()) };
    (0..CYCLES).try_for_each(|_| cycle())?;
    match open_files() {
        Some(after) if after > before + OTHER_FILES => {
            Err(format!("{before} files were open, {after} after {CYCLES} models"))
        }
        _ => Ok(()),
    }
}

/// Files this process has open; `None` where the system does not tell.
fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

fn refused(fixture: &Fixture<'_>, source: &ModelSource, what: &str) -> Result<(), String> {
    match fixture.loader.load(source) {
        Ok(_) => Err(format!("{what}: it was loaded")),
        Err(error @ RuntimeError::Load { .. }) if error.to_string().contains(MODEL) => Ok(()),
        Err(error) => Err(format!("{what}: not a load error that names the model: {error}")),
    }
}

/// The files of a directory, by name, in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(dir).map_err(|error| in_file(dir, &error))?;
    let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.file_name().into()).collect();
    names.sort();
    Ok(names)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| in_file(path, &error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|error| in_file(path, &error))
}

fn remove(path: &Path) -> Result<(), String> {
    std::fs::remove_file(path).map_err(|error| in_file(path, &error))
}

fn move_file(from: &Path, to: &Path) -> Result<(), String> {
    std::fs::rename(from, to).map_err(|error| in_file(from, &error))
}

fn in_file(path: &Path, error: &std::io::Error) -> String {
    format!("`{}`: {error}", path.display())
}
