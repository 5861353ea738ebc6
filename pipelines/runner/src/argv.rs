//! Command lines that would not fit.
//!
//! Linux refuses any single argument of 128 KiB or more, and the ExecutorInput travels as one. For
//! Python components it is written to a file instead and read back inside the interpreter; for
//! anything else there is no way to pass it on, which is said.

use std::path::Path;

/// `MAX_ARG_STRLEN` without the terminating zero.
const ARGUMENT_BYTES_MAX: usize = 128 * 1024 - 1;

/// What arguments and environment may take together: a quarter of the usual 8 MiB stack is the
/// kernel's bound, and the step's inherited environment has to fit as well.
const TOTAL_BYTES_MAX: usize = 1_500_000;

const EXECUTOR_MAIN: &str = "python3 -m kfp.dsl.executor_main";

/// As `EXECUTOR_MAIN`, with the ExecutorInput read from the file that the argument names. Double
/// quotes only, since it stands in single quotes of a shell.
const EXECUTOR_MAIN_FROM_FILE: &str = r#"python3 -c 'import runpy, sys; i = sys.argv.index("--executor_input") + 1; sys.argv[i] = open(sys.argv[i], encoding="utf-8").read(); runpy.run_module("kfp.dsl.executor_main", run_name="__main__", alter_sys=True)'"#;

/// Makes a command line fit, or says why it cannot.
pub(crate) fn fit(
    command: &mut [String],
    args: &mut [String],
    executor_input: &str,
    directory: &Path,
) -> Result<(), String> {
    let too_long = |list: &[String]| list.iter().any(|arg| arg.len() > ARGUMENT_BYTES_MAX);
    if too_long(args) {
        let program = command.iter_mut().find(|part| part.contains(EXECUTOR_MAIN));
        let flag = args.iter().position(|arg| arg == "--executor_input");
        let input = flag.and_then(|at| args.get_mut(at + 1)).filter(|arg| *arg == executor_input);
        if let (Some(program), Some(input)) = (program, input) {
            let file = directory.join("executor_input.json");
            std::fs::write(&file, executor_input)
                .map_err(|e| format!("cannot write `{}`: {e}", file.display()))?;
            *program = program.replace(EXECUTOR_MAIN, EXECUTOR_MAIN_FROM_FILE);
            *input = file.to_string_lossy().into_owned();
        }
    }
    let all = || command.iter().chain(args.iter()).map(String::len);
    if let Some(length) = all().find(|length| *length > ARGUMENT_BYTES_MAX) {
        return Err(format!(
            "an argument of the step has {length} bytes, and the system takes {ARGUMENT_BYTES_MAX}; pass large values as artifacts"
        ));
    }
    match all().sum::<usize>() {
        0..=TOTAL_BYTES_MAX => Ok(()),
        total => Err(format!(
            "the step's command line has {total} bytes, and the system takes {TOTAL_BYTES_MAX}; pass large values as artifacts"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_input_of_a_python_step_goes_by_file_and_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let large = "x".repeat(200_000);
        let mut command =
            vec!["sh".to_owned(), "-ec".to_owned(), format!("{EXECUTOR_MAIN} \"$@\"")];
        let mut args = vec!["--executor_input".to_owned(), large.clone()];
        fit(&mut command, &mut args, &large, dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&args[1]).unwrap(), large);
        assert!(command[2].starts_with("python3 -c"), "{}", command[2]);

        let mut args = vec!["--data".to_owned(), large.clone()];
        let error = fit(&mut ["cat".to_owned()], &mut args, &large, dir.path()).unwrap_err();
        assert!(error.contains("pass large values as artifacts"), "{error}");
    }
}
