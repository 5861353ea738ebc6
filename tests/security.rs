//! What docs/guides/security.md promises, where the text of the sources can show it: that each guard's test is
//! there, that the server opens no connection, that secrets are compared in one way.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a directory that end so, without what is built or installed.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// The text of a source file up to its tests.
fn shipped(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
}

/// Goal: the table of attacks names tests that exist. Method: every name in its last column is a
/// test's in the file before it, or in any test there is.
#[test]
fn every_test_that_the_guide_names_is_there() {
    let guide = fs::read_to_string(root().join("docs/guides/security.md")).unwrap();
    let section = guide.split("\n## What attacks meet\n").nth(1).expect("the table's heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= 9, "a row for each class of attack: {rows:?}");
    let mut tests: Vec<String> = files(&root().join("tests"), ".py")
        .into_iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for dir in ["serving", "foundation", "runtimes", "fuzz/targets", "tests", "cli"] {
        tests
            .extend(files(&root().join(dir), ".rs").iter().map(|p| fs::read_to_string(p).unwrap()));
    }
    for row in rows {
        let names = row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default();
        let names: Vec<_> = names.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test is named in {row}");
        for name in names {
            let (python, rust) = (format!("def {name}("), format!("fn {name}("));
            let there = tests.iter().any(|text| text.contains(&python) || text.contains(&rust));
            assert!(there, "there is no test `{name}`, which stands in: {row}");
        }
    }
}

/// Goal: nothing that a client sends makes the server call somebody. Method: what would open a
/// connection or look up a name is in none of the crates that requests go through.
///
/// Traces do go to a collector, which the command line names: mizzen-telemetry is not among them.
#[test]
fn what_requests_go_through_opens_no_connection() {
    const OPENS: [&str; 10] = [
        "::connect(",
        ".connect(",
        "hyper::client",
        "client::legacy",
        "reqwest",
        "ureq",
        "UdpSocket",
        "lookup_host",
        "ToSocketAddrs",
        "Command::new(",
    ];
    for dir in ["core", "auth", "host", "http", "grpc", "server"] {
        let sources = files(&root().join("serving").join(dir).join("src"), ".rs");
        assert!(!sources.is_empty(), "{dir}");
        for path in sources {
            let text = shipped(&path);
            for opens in OPENS {
                assert!(!text.contains(opens), "{} has `{opens}`", path.display());
            }
        }
    }
}

/// Goal: no comparison of a secret ends at the first difference. Method: the crate that holds them
/// has no `==` on one, and its two comparisons are subtle's; that every token is compared is a test of
/// its own.
#[test]
fn secrets_are_compared_in_constant_time_only() {
    let read = |file: &str| shipped(&root().join("serving/auth/src").join(file));
    let (token, restricted) = (read("token.rs"), read("restricted.rs"));
    assert!(token.contains("self.0.ct_eq(&other.0)"));
    let derived = token.split("pub struct TokenHash").next().unwrap_or_default();
    assert!(!derived.rsplit("#[derive").next().unwrap_or_default().contains("PartialEq"));
    assert!(!token.contains("PartialEq for TokenHash"));
    assert!(restricted.contains(".ct_eq("));
    for (file, text) in [("token.rs", &token), ("restricted.rs", &restricted)] {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code.filter(|line| line.contains("==") || line.contains("!=")) {
            let plain = ["b'-'", "text.len() == 64"].iter().any(|about| line.contains(about));
            assert!(plain, "{file} compares in another way: {line}");
        }
    }
}
