//! Where an answer ends by what it says.

use crate::GenerateError;

/// Stop strings of one request at most: OpenAI takes 4, others more.
const STOPS_MAX: usize = 16;
/// Bytes of one at most: as much text is held back while it may become one.
const STOP_BYTES_MAX: usize = 1024;

/// Looks for stop strings in text that comes in pieces, and holds back what may yet become one.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    stops: Vec<String>,
    keep: bool,
    held: String,
}

/// What is certain of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Text that can be shown.
    pub text: String,
    /// Which stop string it ends at, if it does.
    pub stopped: Option<usize>,
}

impl Stops {
    /// Looks for these; with `keep` the one that is found stays in the text.
    ///
    /// # Errors
    /// [`GenerateError::Field`] for an empty one, one that is too long, or too many.
    pub fn new(stops: Vec<String>, keep: bool) -> Result<Self, GenerateError> {
        let wrong = |reason: String| Err(GenerateError::field("stop", reason));
        if stops.len() > STOPS_MAX {
            return wrong(format!("has {} strings; expected at most {STOPS_MAX}", stops.len()));
        }
        if stops.iter().any(String::is_empty) {
            return wrong("has an empty string, which is everywhere; leave it out".to_owned());
        }
        if let Some(long) = stops.iter().map(String::len).find(|len| *len > STOP_BYTES_MAX) {
            return wrong(format!(
                "has a string of {long} bytes; expected at most {STOP_BYTES_MAX}"
            ));
        }
        Ok(Self { stops, keep, held: String::new() })
    }

    /// The strings that are looked for.
    pub fn strings(&self) -> &[String] {
        &self.stops
    }

    /// Takes a piece of text. Nothing follows once it has stopped. With `pass` strings that end in
    /// this piece do not count: the answer is too short to end.
    pub fn push(&mut self, piece: &str, pass: bool) -> Looked {
        if self.stops.is_empty() {
            return Looked { text: piece.to_owned(), stopped: None };
        }
        self.held.push_str(piece);
        let first = self.stops.iter().enumerate().filter_map(|(nth, stop)| {
            self.held.find(stop).map(|at| (at, std::cmp::Reverse(stop.len()), nth))
        });
        // The first to begin; of those that begin together the longest.
        if !pass && let Some((at, _, nth)) = first.min() {
            let end = if self.keep { at + self.stops[nth].len() } else { at };
            let mut text = std::mem::take(&mut self.held);
            text.truncate(end);
            return Looked { text, stopped: Some(nth) };
        }
        let kept = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        Looked { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// What was held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// How much of the text's end is a stop string's beginning.
pub(crate) fn overlap(text: &str, stop: &str) -> usize {
    let most = text.len().min(stop.len() - 1);
    let fits = |len: &usize| stop.as_bytes().starts_with(&text.as_bytes()[text.len() - len..]);
    (1..=most).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], keep: bool, pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stops = Stops::new(stops, keep).unwrap();
        let mut shown = Vec::new();
        for piece in pieces {
            let looked = stops.push(piece, false);
            shown.push(looked.text);
            if looked.stopped.is_some() {
                return (shown, looked.stopped);
            }
        }
        shown.push(stops.finish());
        (shown, None)
    }

    #[test]
    fn stops_are_found_across_pieces_and_never_shown() {
        type Case<'a> = (&'a str, &'a [&'a str], bool, &'a [&'a str], &'a [&'a str], Option<usize>);
        #[rustfmt::skip]
        let cases: &[Case<'_>] = &[
            // what the case shows      stops            keep   pieces                 shown                     stopped
            ("in one piece",            &["\n\n"],       false, &["a\n\nb"],           &["a"],                   Some(0)),
            ("across pieces",           &["END"],        false, &["xE", "N", "Dy"],    &["x", "", ""],           Some(0)),
            ("kept where asked",        &["END"],        true,  &["xE", "N", "Dy"],    &["x", "", "END"],        Some(0)),
            ("let go if it was not",    &["END"],        false, &["xE", "N", "O"],     &["x", "", "ENO", ""],    None),
            ("let go at the end",       &["END"],        false, &["xEN"],              &["x", "EN"],             None),
            ("the first to begin",      &["c", "b"],     false, &["abc"],              &["a"],                   Some(1)),
            ("of two the longer",       &["b", "bc"],    true,  &["abcd"],             &["abc"],                 Some(1)),
            ("one inside another",      &["aab"],        false, &["xaa", "ab"],        &["x", "a"],              Some(0)),
            ("characters stay whole",   &["é!"],         false, &["aé", "?"],          &["a", "é?", ""],         None),
        ];
        for (shows, stops, keep, pieces, want, stopped) in cases {
            let (got, at) = run(stops, *keep, pieces);
            assert_eq!(
                (got, at),
                (want.iter().map(|s| (*s).to_owned()).collect(), *stopped),
                "{shows}"
            );
        }
    }

    #[test]
    fn strings_that_cannot_be_looked_for_are_refused() {
        for stops in [vec![String::new()], vec!["a".repeat(2000)], vec!["a".to_owned(); 20]] {
            assert_eq!(Stops::new(stops, false).unwrap_err().at(), Some("stop"));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_the_text_up_to_the_first_stop(
            text in "[abc]{0,40}",
            stops in prop::collection::vec("[abc]{1,4}", 1..4),
            cuts in prop::collection::vec(1usize..6, 0..40),
        ) {
            let mut pieces = Vec::new();
            let mut rest = &text[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            let names: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (shown, stopped) = run(&names, false, &pieces);
            let shown = shown.concat();
            // Found as soon as one is whole: a longer one that began before it may still be coming.
            let found = (0..=text.len()).find(|end| stops.iter().any(|stop| text[..*end].ends_with(stop)));
            prop_assert_eq!(found.is_some(), stopped.is_some());
            match found {
                None => prop_assert_eq!(&shown, &text),
                Some(_) => {
                    prop_assert!(text.starts_with(&shown));
                    prop_assert!(!stops.iter().any(|stop| shown.contains(stop.as_str())));
                    let stop = &stops[stopped.unwrap()];
                    prop_assert!(text[shown.len()..].starts_with(stop.as_str()));
                }
            }
        }
    }
}
