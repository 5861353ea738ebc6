use super::*;
use crate::{Grammar, testing};

/// Writes an answer of a model that would say this, token by token.
struct Answer {
    written: Vec<Written>,
    text: String,
}

fn answer(options: Options, says: &[u32]) -> Answer {
    let side = Arc::new(testing::side());
    let mut writer = Writer::new(side, Arc::new(options), 0, &[1]).unwrap();
    let mut written = Vec::new();
    for token in says {
        // Half as likely is the one that follows, so something is left where one is masked.
        let mut row = vec![0.0f32; 280];
        row[*token as usize] = 30.0;
        written.push(writer.step(&mut row).unwrap());
        if written.last().unwrap().finish.is_some() {
            break;
        }
    }
    let text = written.iter().map(|one| one.text.as_str()).collect();
    Answer { written, text }
}

fn tokens(text: &str) -> Vec<u32> {
    testing::side().encode(crate::Prompt::Rendered(text)).unwrap()
}

fn options() -> Options {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Options { sampling, tokens_max: 50, ..Options::default() }
}

#[test]
fn an_answer_ends_where_it_should_and_shows_what_it_should() {
    let end = tokens("</s>")[0];
    let bang = tokens("!")[0];
    #[rustfmt::skip]
    let cases = [
        // what the case shows          options                                                        says                 text              finish
        ("the model's end",             options(),                                                     "hello 🦀</s>more", "hello 🦀",       Some(Finish::End)),
        ("another of its ends",         options(),                                                     "hello<|im_end|>",  "hello",          Some(Finish::End)),
        ("ends ignored",                Options { ignore_ends: true, ..options() },                    "a</s>b",           "ab",             None),
        ("special tokens shown",        Options { ignore_ends: true, show_special: true, ..options() },"a</s>b",           "a</s>b",         None),
        ("a stop",                      Options { stop: vec!["lo w".into()], ..options() },            "hello world",      "hel",            Some(Finish::Text("lo w".into()))),
        ("a stop, shown",               Options { stop: vec!["lo w".into()], show_stop: true, ..options() }, "hello world","hello w",        Some(Finish::Text("lo w".into()))),
        ("a stop token",                Options { stop_tokens: vec![bang], ..options() },              "hello!!",          "hello",          Some(Finish::Token(bang))),
        ("a stop token, shown",         Options { stop_tokens: vec![bang], show_stop: true, ..options() }, "hello!!",      "hello!",         Some(Finish::Token(bang))),
        ("as long as it may be",        Options { tokens_max: 2, ..options() },                        "hello world!",     "hello world",    Some(Finish::Length)),
        ("cut inside a character",      Options { tokens_max: 2, ..options() },                        "🦀",               "\u{FFFD}",       Some(Finish::Length)),
        ("what was held back",          Options { tokens_max: 2, stop: vec!["!?".into()], ..options() }, "a!b",            "a!",             Some(Finish::Length)),
    ];
    for (shows, options, says, text, finish) in cases {
        let got = answer(options, &tokens(says));
        assert_eq!(
            (got.text.as_str(), got.written.last().unwrap().finish.clone()),
            (text, finish),
            "{shows}"
        );
    }
    let got = answer(options(), &[end]);
    assert!(!got.written[0].shown && got.text.is_empty());
}

#[test]
fn an_answer_that_is_too_short_does_not_end() {
    let end = tokens("</s>")[0];
    let short = Options { tokens_min: 3, stop: vec!["a".into()], ..options() };
    let a = tokens("a")[0];
    let got = answer(short, &[end, a, end, end]);
    assert_eq!(got.written.len(), 4, "masked three times");
    assert!(got.written[..3].iter().all(|one| one.token != end));
    assert_eq!(got.written[3].finish, Some(Finish::End));
}

#[test]
fn an_answer_keeps_its_form_against_the_models_will() {
    let side = testing::side();
    let grammar = Grammar::Choice(vec!["yes".into(), "no".into()]);
    let constraint = side.constraint("form", &grammar).unwrap();
    let with = Options { constraint: Some(constraint), ..options() };
    // It would rather say something else, and picks the first of what it may.
    let got = answer(with.clone(), &tokens("hello there"));
    assert_eq!(got.text, "no");
    assert_eq!(got.written.last().unwrap().finish, Some(Finish::End));
    let got = answer(with, &tokens("yes"));
    assert_eq!(got.text, "yes");
}

#[test]
fn what_must_follow_is_written_without_the_model() {
    let side = Arc::new(testing::side());
    let constraint = side.constraint("form", &Grammar::Choice(vec!["hello world".into()])).unwrap();
    let with = Options { constraint: Some(constraint), ..options() };
    let mut writer = Writer::new(side.clone(), Arc::new(with), 0, &[1]).unwrap();
    let mut text = String::new();
    let mut finish = None;
    let mut forced = 0;
    while finish.is_none() {
        let ahead = writer.force().unwrap();
        forced += ahead.len();
        let mut all = ahead;
        if all.last().is_none_or(|one| one.finish.is_none()) {
            all.push(writer.step(&mut vec![0.0; 280]).unwrap());
        }
        text.extend(all.iter().map(|one| one.text.as_str()));
        finish = all.last().and_then(|one| one.finish.clone());
        assert!(all.iter().rev().skip(1).all(|one| one.finish.is_none()));
    }
    assert_eq!((text.as_str(), finish), ("hello world", Some(Finish::End)));
    assert!(forced > 0 && writer.len() >= forced);
}

#[test]
fn options_that_cannot_be_had_are_named() {
    let side = testing::side();
    #[rustfmt::skip]
    let cases = [
        ("max_tokens",     Options { tokens_max: 0, ..options() }),
        ("min_tokens",     Options { tokens_min: 51, ..options() }),
        ("logprobs",       Options { logprobs: Some(21), ..options() }),
        ("stop",           Options { stop: vec![String::new()], ..options() }),
        ("stop_token_ids", Options { stop_tokens: vec![99_999], ..options() }),
        ("temperature",    Options { sampling: Sampling { temperature: -1.0, ..Sampling::default() }, ..options() }),
    ];
    for (field, options) in cases {
        assert_eq!(options.check(&side).unwrap_err().at(), Some(field));
    }
}

#[test]
fn prompts_are_scored_by_what_the_model_expected() {
    let rows = [0.0, 0.0, f32::ln(2.0), f32::NEG_INFINITY, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let scores = score(&rows, 4, &[1, 2, 0], 2).unwrap();
    assert_eq!(scores.len(), 2);
    assert!((scores[0].0.logprob - 0.5f32.ln()).abs() < 1e-6, "{scores:?}");
    assert_eq!(scores[0].1.iter().map(|s| s.token).collect::<Vec<_>>(), [2, 0]);
    assert!((scores[1].0.logprob - 0.25f32.ln()).abs() < 1e-6);
    assert!(matches!(score(&rows, 4, &[1, 9], 0), Err(GenerateError::Width { .. })));
}
