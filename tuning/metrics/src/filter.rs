//! The regular expressions that find names and values in a line.

use crate::CollectorError;
use regex::Regex;

/// Katib's filter when an Experiment gives none.
///
/// Its oddities are kept, because trials rely on what it finds: it matches a name with no value
/// after the `=` (`loss=nan` gives `loss` an empty value), and `|` may be part of a name.
pub const DEFAULT_FILTER: &str = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)";

/// Compiles `metricsFormat`, or the default filter if it is empty.
///
/// # Errors
/// [`CollectorError`] for the first that does not compile or has fewer than two groups.
pub(crate) fn compile(filters: &[String]) -> Result<Vec<Regex>, CollectorError> {
    if filters.is_empty() {
        return compile(&[DEFAULT_FILTER.into()]);
    }
    filters.iter().enumerate().map(|(index, filter)| compile_one(index, filter)).collect()
}

fn compile_one(index: usize, filter: &str) -> Result<Regex, CollectorError> {
    let regex = Regex::new(&from_go(filter)).map_err(|source| CollectorError::Filter {
        index,
        filter: filter.into(),
        source: Box::new(source),
    })?;
    match regex.captures_len() - 1 {
        0 | 1 => Err(CollectorError::Groups {
            index,
            filter: filter.into(),
            groups: regex.captures_len() - 1,
        }),
        _ => Ok(regex),
    }
}

/// Rewrites an expression of Go's syntax so that it means the same here.
///
/// Go's `\w`, `\d`, `\s` and `\b` know ASCII alone: the name in `损失loss=0.5` is `loss`. And inside
/// brackets Go takes `[`, `&`, `~` and `-` as characters where we would nest, intersect or subtract.
fn from_go(filter: &str) -> String {
    let mut rewritten = String::with_capacity(filter.len() + 32);
    let mut rest = filter.chars().peekable();
    let mut in_class = false;
    let mut previous = ' ';
    while let Some(letter) = rest.next() {
        match letter {
            '\\' => {
                let escaped = rest.next();
                match ascii_class(escaped, in_class) {
                    Some(class) => rewritten.push_str(class),
                    None => rewritten.extend(['\\'].into_iter().chain(escaped)),
                }
                previous = ' ';
                continue;
            }
            '[' if !in_class => {
                in_class = true;
                rewritten.push('[');
                rewritten.extend(rest.next_if_eq(&'^'));
                // A bracket that comes first is a character of the class.
                if rest.next_if_eq(&']').is_some() {
                    rewritten.push_str(r"\]");
                }
            }
            '[' if rest.peek() == Some(&':') => {
                // [:alpha:] means the same in both.
                rewritten.push('[');
                for letter in rest.by_ref() {
                    rewritten.push(letter);
                    if letter == ']' {
                        break;
                    }
                }
            }
            '[' => rewritten.push_str(r"\["),
            ']' if in_class => {
                in_class = false;
                rewritten.push(']');
            }
            '&' | '~' if in_class => rewritten.extend(['\\', letter]),
            '-' if in_class && previous == '-' => rewritten.push_str(r"\-"),
            _ => rewritten.push(letter),
        }
        previous = letter;
    }
    rewritten
}

fn ascii_class(escaped: Option<char>, in_class: bool) -> Option<&'static str> {
    match escaped? {
        'w' => Some("[0-9A-Za-z_]"),
        'W' => Some("[^0-9A-Za-z_]"),
        'd' => Some("[0-9]"),
        'D' => Some("[^0-9]"),
        's' => Some(r"[\t\n\f\r ]"),
        'S' => Some(r"[^\t\n\f\r ]"),
        'b' if !in_class => Some(r"(?-u:\b)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(filter: &str, line: &str) -> Vec<(String, String)> {
        let regexes = compile(&[filter.into()]).unwrap();
        regexes[0].captures_iter(line).map(|c| (c[1].into(), c[2].into())).collect()
    }

    #[test]
    fn filters_mean_what_they_mean_in_go() {
        type Case =
            (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);
        #[rustfmt::skip]
        let cases: &[Case] = &[
            // what the case shows          filter                          line                    name and value
            ("the default",                 DEFAULT_FILTER,                 "loss=0.5, acc = -1e-3", &[("loss", "0.5"), ("acc", "-1e-3")]),
            ("an empty value matches",      DEFAULT_FILTER,                 "loss=nan",             &[("loss", "")]),
            ("a bar is part of a name",     DEFAULT_FILTER,                 "a|b=1",                &[("a|b", "1")]),
            ("a name is ASCII",             DEFAULT_FILTER,                 "损失loss=0.5",          &[("loss", "0.5")]),
            ("digits are ASCII",            r"(\w+):(\d+)",                 "a:٣ b:3",              &[("b", "3")]),
            ("a colon and a percent",       r"(\w+):\s([0-9.]+)%",          "acc: 97.1%",           &[("acc", "97.1")]),
            ("a word boundary",             r"\b(loss)=(\S+)",              "é-loss=1 xloss=2",     &[("loss", "1")]),
            ("brackets in a class",         r"([\w[\]]+)=(\d)",             "a[0]=1",               &[("a[0]", "1")]),
            ("a bracket comes first",       r"([]a]+)=(\d)",                "]a=1",                 &[("]a", "1")]),
            ("not a bracket",               r"([^]=]+)=(\d)",               "a]b=1",                &[("b", "1")]),
            ("ampersands in a class",       r"([a&&b]+)=(\d)",              "a&b=1",                &[("a&b", "1")]),
            ("dashes in a class",           r"([\w--]+)=(\d)",              "a-b=1",                &[("a-b", "1")]),
            ("a POSIX class",               r"([[:alpha:]_]+)=(\d)",        "1a_b=1",               &[("a_b", "1")]),
            ("an escaped backslash",        r"(\\w+)=(\d)",                 r"x\ww=1",              &[(r"\ww", "1")]),
            ("anything after the name",     r"([\w-]+)=(Genotype.*)",       "Best-Genotype=Genotype(x=[('a', 1)])", &[("Best-Genotype", "Genotype(x=[('a', 1)])")]),
        ];
        for (shows, filter, line, want) in cases {
            let want: Vec<_> = want.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            assert_eq!(groups(filter, line), want, "{shows}");
        }
    }
}
