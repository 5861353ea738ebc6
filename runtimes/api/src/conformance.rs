//! What every engine must keep, as checks that any implementation can run.
//!
//! An engine's tests fill in a [`Fixture`] (a model it can write, inputs for it, and a plain
//! function that knows the right answers) and call [`check`]. Each promise of the seam is one check
//! with a sentence for a name; a panic inside the engine fails the check it happens in.
//!
//! An engine whose models answer any number of times fills in a [`StreamFixture`] and calls
//! [`check_streams`]; one whose models make text, a [`GeneratorFixture`] and [`check_generator`].
//!
//! What is not checked, because it would kill the process that checks: that the engine does not
//! abort. It does run on damaged files, so an engine that aborts on those takes its test down.

mod answers;
mod files;
mod generators;
mod refusals;
mod streams;
mod support;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use mizzen_types::NamedTensor;

use crate::Loader;
pub use generators::{GeneratorFixture, check_generator, generator_failures};
pub use streams::{StreamFixture, check_streams, stream_failures};

/// What the checks need of an engine.
pub struct Fixture<'a> {
    /// The engine.
    pub loader: &'a dyn Loader,
    /// An empty directory that the checks may fill.
    pub scratch: &'a Path,
    /// Writes a model into a version directory, its main file under [`Loader::default_file`]. Every
    /// input and output has rows in its first dimension, which is dynamic. Cutting bytes off the
    /// end of any of its files must spoil it, so a text file ends without white space.
    pub model: &'a dyn Fn(&Path),
    /// Inputs of that model, in its order, of so many rows that differ from one another and from
    /// seed to seed.
    pub batch: &'a dyn Fn(usize, u64) -> Vec<NamedTensor>,
    /// The right answer: every output, in the model's order.
    pub reference: &'a dyn Fn(&[NamedTensor]) -> Vec<NamedTensor>,
    /// How far an FP32 or FP64 may be off, relative to 1 or its size, whichever is larger. Other
    /// types must be equal.
    pub tolerance: f64,
    /// A model whose run takes seconds, better half a minute, unless it is cancelled; `None` for
    /// engines that cannot end a run early.
    pub slow: Option<Slow<'a>>,
    /// Main files that must be refused, with what each shows: sizes the file does not hold,
    /// dimensions that overflow, and the like.
    pub hostile: Vec<(&'a str, Vec<u8>)>,
}

/// A model for being cancelled.
pub struct Slow<'a> {
    /// Writes it into a version directory.
    pub model: &'a dyn Fn(&Path),
    /// Inputs for it.
    pub batch: Vec<NamedTensor>,
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The promise.
    pub promise: &'static str,
    /// What happened instead.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.reason)
    }
}

type Check = fn(&Fixture<'_>) -> Result<(), String>;

#[rustfmt::skip]
const CHECKS: [(&str, Check); 17] = [
    ("a signature is whole and the same each time",              answers::signature),
    ("status says what was found once a model is loaded",        answers::status),
    ("answers are right for any number of rows",                 answers::right),
    ("a row's answer depends on that row alone",                 answers::rows_alone),
    ("no rows are answered with no rows or refused",             answers::no_rows),
    ("instances at once give the same answers",                  answers::at_once),
    ("outputs come as asked, in the order asked",                answers::outputs_as_asked),
    ("outputs outlive the instance and its next run",            answers::outputs_live_on),
    ("an input that does not fit is refused and harms nothing",  refusals::inputs),
    ("an unknown output is refused and harms nothing",           refusals::unknown_output),
    ("a run that is cancelled before it starts does not run",    refusals::cancelled_before),
    ("a run ends soon after it is cancelled",                    refusals::cancelled_during),
    ("the configuration's file name is used, inside the directory only", files::named_file),
    ("a file that is cut short is refused",                      files::cut_short),
    ("a damaged file is refused or loads, without a panic",      files::damaged),
    ("loading and dropping leaves no files open",                files::no_leak),
    ("a hostile file is refused",                                files::hostile),
];

/// Runs every check.
///
/// # Panics
/// If any promise is broken, with all of them in the message.
pub fn check(fixture: &Fixture<'_>) {
    let failures = failures(fixture, "");
    let lines: Vec<_> = failures.iter().map(|failure| format!("\n  {failure}")).collect();
    assert!(
        failures.is_empty(),
        "{} does not conform:{}",
        fixture.loader.backend(),
        lines.concat()
    );
}

/// Runs the checks whose promise contains this text (every one, if it is empty) and returns the
/// promises that were broken.
pub fn failures(fixture: &Fixture<'_>, promise: &str) -> Vec<Failure> {
    CHECKS
        .into_iter()
        .filter(|(sentence, _)| sentence.contains(promise))
        .filter_map(|(promise, check)| kept(promise, || check(fixture)))
        .collect()
}

/// Runs one check; what it says if the promise was broken.
fn kept(promise: &'static str, check: impl FnOnce() -> Result<(), String>) -> Option<Failure> {
    let reason = match catch_unwind(AssertUnwindSafe(check)) {
        Ok(outcome) => outcome.err()?,
        Err(panic) => format!("it panicked: {}", support::panic_text(&*panic)),
    };
    Some(Failure { promise, reason })
}
