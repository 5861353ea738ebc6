//! Task paths: `train`, `for-loop-2[0]/double`, and the empty path of the run itself.

/// The path of a task within a scope.
pub(crate) fn child(scope: &str, task: &str) -> String {
    if scope.is_empty() { task.to_owned() } else { format!("{scope}/{task}") }
}

/// The path of one iteration of a loop.
pub(crate) fn iteration(of: &str, index: usize) -> String {
    format!("{of}[{index}]")
}

/// The loop that a path is an iteration of, if it is one.
pub(crate) fn loop_of(path: &str) -> Option<&str> {
    path.ends_with(']').then(|| &path[..path.rfind('[').expect("task names hold no brackets")])
}

/// What ends when its last child does: the loop of an iteration, the scope of any other task.
pub(crate) fn parent(path: &str) -> &str {
    loop_of(path).unwrap_or_else(|| scope(path))
}

/// The scope a task stands in.
pub(crate) fn scope(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..slash])
}

/// The task's name, without its scope and iteration.
pub(crate) fn name(path: &str) -> &str {
    let last = path.rfind('/').map_or(path, |slash| &path[slash + 1..]);
    loop_of(last).unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_apart_as_they_were_put_together() {
        #[rustfmt::skip]
        let cases = [
            // path              parent      scope    name
            ("a",                "",         "",      "a"),
            ("a/b",              "a",        "a",     "b"),
            ("a[1]",             "a",        "",      "a"),
            ("a[1]/b[0]",        "a[1]/b",   "a[1]",  "b"),
            ("a[1]/b[0]/c",      "a[1]/b[0]", "a[1]/b[0]", "c"),
        ];
        for (path, up, scope_of, named) in cases {
            assert_eq!((parent(path), scope(path), name(path)), (up, scope_of, named), "{path}");
        }
    }
}
