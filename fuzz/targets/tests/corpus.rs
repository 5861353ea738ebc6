//! The committed corpus, replayed with an ordinary compiler.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{fs, path::PathBuf};

use mizzen_fuzz_targets::TARGETS;

/// Seeds of a target, by their files' names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut seeds: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// Goal: what fuzzing has found stays mended, and every promise of the targets holds on inputs that
/// get past the readers' doors. Method: each seed as it is.
#[test]
fn every_seed_keeps_the_promises() {
    for (target, run) in TARGETS {
        let seeds = corpus(target);
        assert!(seeds.len() >= 3, "{target} has {} seeds", seeds.len());
        let read = seeds.iter().filter(|(name, seed)| {
            eprintln!("{target}/{name}"); // shown if it fails
            run(seed)
        });
        assert!(read.count() >= 2, "{target}: most seeds are refused at the door");
    }
}

/// Goal: an input that is cut off or damaged in one place is refused, or read, but never worse.
/// Method: every prefix of the short seeds, and each of their bytes made another.
#[test]
fn every_cut_and_every_slip_keeps_the_promises() {
    for (target, run) in TARGETS {
        for (name, seed) in corpus(target).into_iter().filter(|(_, seed)| seed.len() <= 512) {
            eprintln!("{target}/{name}");
            for at in 0..seed.len() {
                run(&seed[..at]);
                for other in [0, b'"', b'9', 0xff] {
                    let mut slip = seed.clone();
                    slip[at] = other;
                    run(&slip);
                }
            }
        }
    }
}

/// Goal: each fuzzer calls the target of its name. Method: the fuzzers' own text.
#[test]
fn each_target_has_its_fuzzer() {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (target, _) in TARGETS {
        let text = fs::read_to_string(fuzz.join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(text.contains(&format!("run(\"{target}\", data)")), "{target}");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
    }
}
