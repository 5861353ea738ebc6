//! "Did you mean": the known word nearest to one that is not known.

/// The known word nearest to `word`, if a typing slip could have turned one into the other.
///
/// Nearness is edit distance without regard to case; a third of the word's letters may differ.
pub fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    known
        .iter()
        .map(|&candidate| (edit_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_another_word_finds_none() {
        #[rustfmt::skip]
        let cases: &[(&str, &str, Option<&str>)] = &[
            // what the case shows      word                 nearest
            ("a letter dropped",        "radom",             Some("random")),
            ("letters swapped",         "tep",               None),
            ("another case",            "GRID",              Some("grid")),
            ("an underscore for a dash", "multivariate_tpe", Some("multivariate-tpe")),
            ("nothing alike",           "annealing",         None),
            ("an empty word",           "",                  None),
        ];
        for (shows, word, want) in cases {
            let got = closest(word, &["random", "grid", "tpe", "multivariate-tpe"]);
            assert_eq!(got, *want, "{shows}");
        }
    }
}
