//! Goal: the conformance suite passes an engine that keeps the seam and fails one that does not.
//! Method: a fake engine, and the same with one promise broken at a time; each must be caught by the
//! check whose promise it is. (All but one: a buffer used again after it was handed out cannot be
//! written in safe code.)

use mizzen_runtime_api::{
    conformance::{self, GeneratorFixture},
    fake::{FakeLoader, Flaw, fixture, stream_fixture},
    fake_generator::{FakeGenerative, GeneratorFlaw},
};

#[test]
fn an_engine_that_keeps_every_promise_passes() {
    let scratch = tempfile::tempdir().unwrap();
    conformance::check(&fixture(&FakeLoader::default(), scratch.path()));
}

#[test]
fn each_broken_promise_is_caught_by_its_check() {
    #[rustfmt::skip]
    let cases = [
        (Flaw::EmptySignature,      "a signature is whole"),
        (Flaw::DeniesItself,        "status says what was found"),
        (Flaw::WrongNumbers,        "answers are right"),
        (Flaw::MixesRowsUp,         "a row's answer depends on that row alone"),
        (Flaw::AnswersNoRowsWithOne, "no rows are answered with no rows"),
        (Flaw::SharesAnswersAmongInstances, "instances at once"),
        (Flaw::AllOutputsAlways,    "outputs come as asked"),
        (Flaw::TakesAnyInput,       "an input that does not fit is refused"),
        (Flaw::BrokenByAnError,     "harms nothing"),
        (Flaw::AllOutputsAlways,    "an unknown output is refused"),
        (Flaw::RunsThoughCancelled, "a run that is cancelled before it starts"),
        (Flaw::DeafToCancel,        "a run ends soon after"),
        (Flaw::LeavesTheDirectory,  "inside the directory only"),
        (Flaw::LoadsHalfAFile,      "a file that is cut short"),
        (Flaw::PanicsOnDamage,      "a damaged file"),
        (Flaw::LoadsAnything,       "a hostile file"),
        (Flaw::KeepsFilesOpen,      "leaves no files open"),
    ];
    for (flaw, promise) in cases {
        let scratch = tempfile::tempdir().unwrap();
        let loader = FakeLoader { flaw: Some(flaw) };
        let failures = conformance::failures(&fixture(&loader, scratch.path()), promise);
        assert!(!failures.is_empty(), "{flaw:?} got past `{promise}`");
    }
}

#[test]
fn an_engine_that_keeps_every_promise_of_streams_passes() {
    let scratch = tempfile::tempdir().unwrap();
    conformance::check_streams(&stream_fixture(&FakeLoader::default(), scratch.path()));
}

#[test]
fn each_broken_promise_of_streams_is_caught_by_its_check() {
    #[rustfmt::skip]
    let cases = [
        (Flaw::WrongNumbers,        "answers are right, in order"),
        (Flaw::AnswersBackwards,    "answers are right, in order"),
        (Flaw::LosesTheLast,        "as many as there are"),
        (Flaw::ForgetsToEnd,        "answers are right, in order"),
        (Flaw::SharesAnswersAmongInstances, "requests at once"),
        (Flaw::AllOutputsAlways,    "outputs of a stream come as asked"),
        (Flaw::TakesAnyInput,       "an input that does not fit is refused, once"),
        (Flaw::BrokenByAnError,     "once, and harms nothing"),
        (Flaw::AllOutputsAlways,    "a stream of an unknown output"),
        (Flaw::RunsThoughCancelled, "a stream that is cancelled before it starts"),
        (Flaw::DeafToCancel,        "a stream ends soon after it is cancelled"),
        (Flaw::DeafToReceiver,      "its receiver has gone"),
        (Flaw::LosesWhileWaiting,   "a receiver that pauses"),
        (Flaw::EndsWithItsInstance, "outlives its instance"),
    ];
    for (flaw, promise) in cases {
        let scratch = tempfile::tempdir().unwrap();
        let loader = FakeLoader { flaw: Some(flaw) };
        let failures =
            conformance::stream_failures(&stream_fixture(&loader, scratch.path()), promise);
        assert!(!failures.is_empty(), "{flaw:?} got past `{promise}`");
    }
}

fn generator(model: &FakeGenerative) -> GeneratorFixture<'_> {
    GeneratorFixture { model, tolerance: 0.0, threads: 1 }
}

#[test]
fn an_engine_that_keeps_every_promise_of_generators_passes() {
    conformance::check_generator(&generator(&FakeGenerative::new(50, 64)));
}

#[test]
fn each_broken_promise_of_generators_is_caught_by_its_check() {
    #[rustfmt::skip]
    let cases = [
        (GeneratorFlaw::MixesRowsUp,             "a row's answer depends on that row alone"),
        (GeneratorFlaw::ForgetsThePast,          "cut into steps"),
        (GeneratorFlaw::TakesPagesForNeighbours, "pages may lie anywhere"),
        (GeneratorFlaw::TakesPagesForNeighbours, "may share pages"),
        (GeneratorFlaw::GivesOnlyTheLast,        "each wanted token"),
        (GeneratorFlaw::GivesWhatNobodyWants,    "each wanted token"),
        (GeneratorFlaw::TakesAnyRow,             "is refused"),
        (GeneratorFlaw::BrokenByAnError,         "harms nothing"),
        (GeneratorFlaw::TakesAnyCache,           "a cache that cannot be"),
        (GeneratorFlaw::SharesItsCache,          "their own caches"),
    ];
    for (flaw, promise) in cases {
        let model = FakeGenerative::new(50, 64).with(flaw);
        let failures = conformance::generator_failures(&generator(&model), promise);
        assert!(!failures.is_empty(), "{flaw:?} got past `{promise}`");
    }
}
