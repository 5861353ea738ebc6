//! docs/reference/bounds.md is what the sources say: each bound's value and reason are read off the constant or
//! the default that sets it. `MIZZEN_BLESS=1 cargo nextest run -p mizzen --test bounds` writes the page anew.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

const HEAD: &str = "\
# Bounds

What a client, or all of them together, can take of a model server: connections, streams, bytes, time, places in
queues. This page is made from the constants and defaults that set them, and their reasons are the comments there; a
test fails when it is stale, or when a bound is added and not listed.

";

/// What a number counts.
#[derive(Clone, Copy)]
enum Unit {
    Count,
    Bytes,
    PerSecond,
    /// It says so itself.
    Time,
}
use Unit::{Bytes, Count, PerSecond, Time};

/// What is bounded, where that is said, the flag that sets it.
type Row = (&'static str, &'static str, &'static str, Unit, &'static str);

const SERVE: &str = "serving/http/src/serve.rs";
const TRANSPORT: &str = "serving/server/src/transport.rs";
const INTAKE: &str = "serving/core/src/intake.rs";
const PROTOCOL: &str = "serving/core/src/protocol.rs";
const SHARED: &str = "serving/host/src/shared_memory.rs";
const BUNDLED: &str = "serving/http/src/bundled.rs";
const STREAM: &str = "serving/host/src/stream.rs";

#[rustfmt::skip]
const GROUPS: &[(&str, &[Row])] = &[
    ("Connections", &[
        ("connections of one listener",                 SERVE,     "connections_max",            Count, ""),
        ("connections of one client to one listener",   SERVE,     "connections_per_client_max", Count, "--max-connections-per-client"),
        ("TLS handshakes at once, all listeners",       TRANSPORT, "HANDSHAKES_MAX",             Count, ""),
        ("time for a TLS handshake",                    TRANSPORT, "HANDSHAKE_TIME_MAX",         Time,  ""),
        ("time for a head, and idle between requests",  SERVE,     "header_timeout",             Time,  ""),
        ("headers of a request",                        SERVE,     "header_count_max",           Count, ""),
        ("bytes of a head",                             SERVE,     "header_bytes_max",           Bytes, ""),
        ("an answer that stands still",                 SERVE,     "answer_idle",                Time,  ""),
        ("time for a last request once closing",        SERVE,     "LAST_CALL",                  Time,  ""),
    ]),
    ("HTTP/2", &[
        ("requests at once on one connection",          SERVE,     "streams_max",                Count, ""),
        ("requests taken back before they are looked at", SERVE,   "resets_pending_max",         Count, ""),
        ("requests the server had to break off",        SERVE,     "resets_provoked_max",        Count, ""),
        ("bytes sent ahead on a stream",                SERVE,     "STREAM_WINDOW",              Bytes, ""),
        ("bytes sent ahead on a connection",            SERVE,     "CONNECTION_WINDOW",          Bytes, ""),
        ("bytes of a frame",                            SERVE,     "FRAME_BYTES_MAX",            Bytes, ""),
        ("bytes of one write that waits for others",    BUNDLED,   "HELD_MAX",                   Bytes, ""),
        ("bytes of writes that wait for one another",   BUNDLED,   "ROOM",                       Bytes, ""),
    ]),
    ("Requests", &[
        ("bytes of one, also once decompressed",        INTAKE,    "MESSAGE_BYTES_MAX",          Bytes, "--http-max-input-size (REST)"),
        ("bytes of all under way",                      INTAKE,    "MEMORY_BYTES_MAX",           Bytes, "--max-request-memory (by default at most half of what there is)"),
        ("a body that stands still",                    INTAKE,    "STILL_MAX",                  Time,  ""),
        ("a body of any rate",                          INTAKE,    "GRACE_MAX",                  Time,  ""),
        ("the least rate of a body after that",         INTAKE,    "RATE_MIN",                   PerSecond, ""),
        ("dimensions of a shape, and how deep data nests", PROTOCOL, "RANK_MAX",                 Count, ""),
        ("bytes of an error's text",                    PROTOCOL,  "ERROR_TEXT_BYTES_MAX",       Bytes, ""),
        ("batches that one request is split into",      "serving/core/src/validate.rs", "SPLIT_MAX", Count, ""),
        ("elements of an output that classes are made of", "serving/core/src/classification.rs", "ELEMENTS_MAX", Count, ""),
        ("bytes that one request has in shared memory", SHARED,    "REQUEST_BYTES_MAX",          Bytes, ""),
        ("texts of one request",                        "serving/http/src/text/mod.rs", "TEXTS_MAX", Count, ""),
        ("tokens, padding included, that texts of one request run with at once", "serving/text/src/group.rs", "GROUP_TOKENS_MAX", Count, ""),
        ("answers to one prompt of one request", "serving/http/src/text/generation/request.rs", "ANSWERS_MAX", Count, ""),
        ("answers to all prompts of one request", "serving/http/src/text/generation/completions.rs", "ALL_MAX", Count, ""),
        ("messages of one chat", "serving/generate/src/messages.rs", "MESSAGES_MAX", Count, ""),
        ("tools of one chat", "serving/generate/src/tools.rs", "TOOLS_MAX", Count, ""),
        ("bytes that a chat's template makes of it", "serving/generate/src/template.rs", "PROMPT_BYTES_MAX", Bytes, ""),
        ("bytes of a schema, expression or grammar", "serving/generate/src/constraint.rs", "GRAMMAR_BYTES_MAX", Bytes, ""),
        ("depth of a schema", "serving/generate/src/constraint.rs", "SCHEMA_DEPTH_MAX", Count, ""),
        ("texts that an answer may be one of", "serving/generate/src/constraint.rs", "CHOICES_MAX", Count, ""),
        ("texts that end an answer", "serving/generate/src/stops.rs", "STOPS_MAX", Count, ""),
        ("bytes of one of them", "serving/generate/src/stops.rs", "STOP_BYTES_MAX", Bytes, ""),
        ("likeliest tokens beside each", "serving/generate/src/sampling.rs", "LOGPROBS_MAX", Count, ""),
        ("tokens whose logits a request moves", "serving/generate/src/sampling.rs", "BIASES_MAX", Count, ""),
        ("regions of shared memory",                    SHARED,    "REGIONS_MAX",                Count, ""),
        ("bytes of a region's name",                    SHARED,    "NAME_BYTES_MAX",             Bytes, ""),
    ]),
    ("Queues", &[
        ("requests that wait for a model",              "serving/host/src/options.rs", "queue_size", Count, "max_queue_size in config.pbtxt"),
        ("messages of one gRPC stream at work",         "serving/grpc/src/stream.rs",  "CONCURRENT", Count, ""),
        ("answers of a stream made ahead of its client", STREAM,   "AHEAD_MAX",                  Count, ""),
        ("streams open on one instance",                STREAM,    "OPEN_MAX",                   Count, ""),
        ("ensembles within ensembles",                  "serving/host/src/ensemble.rs", "DEPTH_MAX", Count, ""),
        ("lines of the log that wait for stderr",       "foundation/telemetry/src/sink.rs", "WAITING_BYTES_MAX", Bytes, ""),
    ]),
    ("Configuration", &[
        ("tokens in a policy",                          "serving/auth/src/file.rs", "TOKENS_MAX", Count, ""),
        ("messages within messages of a config.pbtxt",  "serving/core/src/config/text.rs", "MAX_DEPTH", Count, ""),
        ("bytes of a file of labels",                   "serving/host/src/labels.rs", "BYTES_MAX", Bytes, ""),
        ("bytes of a warm-up's input",                  "serving/host/src/warmup.rs", "INPUT_BYTES_MAX", Bytes, ""),
    ]),
];

/// Constants that look like bounds and bound nothing that clients take.
const OTHERS: &[&str] = &[
    "COPIED_BYTES_MAX", // what is copied rather than sent as a piece
    "LOOKS_MAX",        // of the metrics at themselves
    "SPARE_MAX",        // buffers kept for the next batch
    "RESPONSES_MAX",    // a histogram's last bucket
    "PADDED_MAX",       // a ratio
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source file up to its tests.
fn shipped(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
}

/// The comment above a line, as one text.
fn comment<'a>(above: impl DoubleEndedIterator<Item = &'a str>) -> String {
    let lines = above.rev().map(str::trim).skip_while(|line| line.starts_with("#["));
    let lines: Vec<_> = lines.map_while(|line| line.strip_prefix("///")).collect();
    let text = lines.into_iter().rev().map(str::trim).collect::<Vec<_>>().join(" ");
    text.replace("[`", "`").replace("`]", "`").replace('|', "\\|")
}

/// The value that a constant or a field's default has in the source, and the comment that goes with it.
fn read(file: &str, item: &str) -> (String, String) {
    let text = shipped(&root().join(file));
    let lines: Vec<_> = text.lines().collect();
    let is_const = |line: &&str| {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        line.starts_with(&format!("const {item}: "))
    };
    if let Some(at) = lines.iter().position(|line| is_const(&line.trim_start())) {
        let value = lines[at].split(" = ").nth(1).unwrap_or_else(|| panic!("{file}: {item}"));
        return (value.trim_end_matches(';').to_owned(), comment(lines[..at].iter().copied()));
    }
    let declared = lines.iter().position(|l| l.trim().starts_with(&format!("pub {item}: ")));
    let declared = declared.unwrap_or_else(|| panic!("{file} has no `{item}`"));
    let default = format!("{item}: ");
    let mut defaults = lines.iter().skip_while(|line| !line.starts_with("impl Default for "));
    let set = defaults.find_map(|line| line.trim().strip_prefix(&default));
    let set = set.unwrap_or_else(|| panic!("{file} sets no default of `{item}`"));
    (set.trim_end_matches(',').to_owned(), comment(lines[..declared].iter().copied()))
}

fn number(text: &str) -> u64 {
    let parse = |part: &str| {
        part.trim().replace('_', "").parse::<u64>().unwrap_or_else(|_| panic!("{text}"))
    };
    if let Some((value, shift)) = text.split_once("<<") {
        return parse(value) << parse(shift);
    }
    text.split('*').map(parse).product()
}

fn shown(value: &str, unit: Unit) -> String {
    let bytes = |count: u64| match count.trailing_zeros() {
        30.. if count > 0 => format!("{} GiB", count >> 30),
        20.. if count > 0 => format!("{} MiB", count >> 20),
        10.. if count > 0 => format!("{} KiB", count >> 10),
        _ => format!("{count} B"),
    };
    match unit {
        Count => number(value).to_string(),
        Bytes => bytes(number(value)),
        PerSecond => format!("{} a second", bytes(number(value))),
        Time => {
            let (unit, count) =
                value.strip_prefix("Duration::from_").unwrap().split_once('(').unwrap();
            format!("{} {}", count.trim_end_matches(')'), if unit == "secs" { "s" } else { "ms" })
        }
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (group, rows) in GROUPS {
        page += &format!("## {group}\n\n| what | bound | flag | why |\n|---|---|---|---|\n");
        for (what, file, item, unit, flag) in *rows {
            let (value, why) = read(file, item);
            assert!(!why.is_empty(), "{file}: `{item}` has no comment that says why");
            let flag = match flag.split_once(' ') {
                Some((flag, more)) => format!("`{flag}` {more}"),
                None if flag.is_empty() => String::new(),
                None => format!("`{flag}`"),
            };
            page += &format!("| {what} | {} | {flag} | {why} |\n", shown(&value, *unit));
        }
        page.push('\n');
    }
    page.truncate(page.trim_end().len() + 1);
    page
}

#[test]
fn the_page_is_what_the_sources_say() {
    let path = root().join("docs/reference/bounds.md");
    let page = page();
    if env::var_os("MIZZEN_BLESS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        page,
        "stale; run this test with MIZZEN_BLESS=1"
    );
}

/// Goal: a bound that is added is listed. Method: the names that bounds have, and every field of what
/// connections may cost.
#[test]
fn every_bound_is_listed() {
    let listed = |name: &str| {
        OTHERS.contains(&name)
            || GROUPS.iter().any(|(_, rows)| rows.iter().any(|row| row.2 == name))
    };
    for room in ["core", "auth", "host", "http", "grpc", "server"] {
        for path in files(&root().join("serving").join(room).join("src")) {
            for line in shipped(&path).lines() {
                let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
                let line = line.trim_start_matches("pub ");
                let Some(name) = line.strip_prefix("const ").and_then(|l| l.split(':').next())
                else {
                    continue;
                };
                assert!(
                    !name.ends_with("_MAX") || listed(name),
                    "{}: `{name}` is not listed",
                    path.display()
                );
            }
        }
    }
    let serve = shipped(&root().join(SERVE));
    let limits = serve.split("pub struct Limits {").nth(1).unwrap().split("\n}").next().unwrap();
    for field in limits.lines().filter_map(|line| line.trim().strip_prefix("pub ")) {
        let name = field.split(':').next().unwrap();
        assert!(name == "open" || listed(name), "`Limits::{name}` is not listed");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}
