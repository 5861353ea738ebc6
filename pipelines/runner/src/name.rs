//! Names derived from others: of steps, labels and directories.

use sha2::{Digest, Sha256};

use crate::StepId;

/// Longest readable part of a name; two of them, a hash and an attempt stay below 63.
const SLUG_MAX: usize = 24;

/// The name of an attempt: readable, unique by a hash over run and task.
pub(crate) fn step(run_id: &str, run_name: &str, path: &str, attempt: u32) -> StepId {
    let task = path.rsplit('/').next().unwrap_or(path);
    let (run, task) = (slug(run_name, SLUG_MAX), slug(task, SLUG_MAX));
    StepId(format!("{run}-{task}-{}-{attempt}", short_hash(&[run_id, path])))
}

/// A label value made of any text.
pub(crate) fn label(text: &str) -> String {
    let kept: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .take(63)
        .collect();
    kept.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// The first eight hex digits of a hash over the parts.
pub(crate) fn short_hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex(&hash.finalize())[..8].to_owned()
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower-case letters, digits and single dashes; `x` where nothing is left.
pub(crate) fn slug(text: &str, max: usize) -> String {
    let mut slug = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
        if slug.len() == max {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "x".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_are_labels_and_tell_runs_tasks_and_attempts_apart() {
        let long = "a-very-long-name-of-a-run-that-goes-on-and-on-and-on-beyond-any-bound";
        let names = [
            step("1", long, &format!("x/{long}[12]"), 123),
            step("1", long, &format!("y/{long}[12]"), 123),
            step("2", long, &format!("x/{long}[12]"), 123),
            step("1", "Ünïcode näme", "for-loop-2[0]", 1),
            step("1", "…", "…", 1),
        ];
        for StepId(name) in &names {
            assert!(name.len() <= 63 && !name.starts_with('-'), "{name}");
            let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.chars().all(ok), "{name}");
        }
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert_eq!(step("1", "r", "t", 2), step("1", "r", "t", 2));
    }
}
