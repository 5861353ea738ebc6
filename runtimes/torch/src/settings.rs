//! A configuration's `parameters`, by the names of Triton's PyTorch backend.

use std::{collections::BTreeMap, str::FromStr};

/// What of a model's parameters matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// libtorch's inference mode; without it, gradients are merely not recorded.
    pub(crate) inference_mode: bool,
    /// Whether TorchScript is optimised for the shapes it meets.
    pub(crate) optimize: bool,
    /// Whether instances share one module.
    pub(crate) share_weights: bool,
    /// Threads within one operator; `None` takes what the instance is given.
    pub(crate) threads: Option<i32>,
    /// Threads for `fork`ed parts, of all models together.
    pub(crate) interop_threads: Option<i32>,
}

/// Accepted for Triton's sake: they concern CUDA, or code that is not generated on the CPU.
const WITHOUT_EFFECT: [&str; 5] = [
    "ENABLE_CACHE_CLEANING",
    "DISABLE_CUDNN",
    "ENABLE_TENSOR_FUSER",
    "ENABLE_NVFUSER",
    "ENABLE_TF32",
];

/// libtorch has these once for the whole process, so a model can't have its own.
const PROCESS_WIDE: [&str; 2] = ["ENABLE_JIT_EXECUTOR", "ENABLE_JIT_PROFILING"];

impl Settings {
    /// Reads the parameters; those that no one knows are someone else's.
    ///
    /// # Errors
    /// A sentence, for one that is not what it must be or cannot be honoured.
    pub(crate) fn read(parameters: &BTreeMap<String, String>) -> Result<Self, String> {
        for name in WITHOUT_EFFECT {
            flag(parameters, name, false)?;
        }
        for name in PROCESS_WIDE {
            if !flag(parameters, name, true)? {
                return Err(format!(
                    "parameter `{name}` cannot be turned off: libtorch has it once for all models; \
                     for this one, `DISABLE_OPTIMIZED_EXECUTION` may be what is wanted"
                ));
            }
        }
        if parameters.contains_key("TORCH_COMPILE_OPTIONAL_PARAMETERS") {
            return Err(
                "parameter `TORCH_COMPILE_OPTIONAL_PARAMETERS` is for models in Python, which \
                        are not served; export the model as TorchScript"
                    .to_owned(),
            );
        }
        Ok(Self {
            inference_mode: flag(parameters, "INFERENCE_MODE", true)?,
            optimize: !flag(parameters, "DISABLE_OPTIMIZED_EXECUTION", false)?,
            share_weights: flag(parameters, "ENABLE_WEIGHT_SHARING", false)?,
            threads: threads(parameters, ["INTRA_OP_THREAD_COUNT", "NUM_THREADS"])?,
            interop_threads: threads(parameters, ["INTER_OP_THREAD_COUNT", "NUM_INTEROP_THREADS"])?,
        })
    }
}

fn flag(parameters: &BTreeMap<String, String>, name: &str, default: bool) -> Result<bool, String> {
    match parameters.get(name).map(|text| text.trim().to_ascii_lowercase()).as_deref() {
        None => Ok(default),
        Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("parameter `{name}` is `{other}`; expected `true` or `false`")),
    }
}

/// The first of these that is set. Triton takes numbers below 1 for none.
fn threads(parameters: &BTreeMap<String, String>, names: [&str; 2]) -> Result<Option<i32>, String> {
    let Some((name, text)) = names.iter().find_map(|n| Some((n, parameters.get(*n)?))) else {
        return Ok(None);
    };
    // More threads than any machine has only take memory.
    let number = i32::from_str(text.trim()).ok().filter(|number| *number <= 4096);
    let number = number.ok_or_else(|| {
        format!("parameter `{name}` is `{text}`; expected a number of threads, 4096 at most")
    })?;
    Ok(Some(number).filter(|number| *number > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(&given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn defaults_are_tritons() {
        let settings = read(&[("somebody", "else's")]).unwrap();
        assert!(settings.inference_mode && settings.optimize && !settings.share_weights);
        assert_eq!((settings.threads, settings.interop_threads), (None, None));
    }

    #[test]
    fn what_is_set_is_read() {
        let settings = read(&[
            ("INFERENCE_MODE", "false"),
            ("DISABLE_OPTIMIZED_EXECUTION", "TRUE"),
            ("ENABLE_WEIGHT_SHARING", "1"),
            ("NUM_THREADS", "3"),
            ("INTER_OP_THREAD_COUNT", " 2 "),
            ("DISABLE_CUDNN", "true"),
        ]);
        let want = Settings {
            inference_mode: false,
            optimize: false,
            share_weights: true,
            threads: Some(3),
            interop_threads: Some(2),
        };
        assert_eq!(settings, Ok(want));
        assert_eq!(read(&[("INTRA_OP_THREAD_COUNT", "0")]).unwrap().threads, None);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (name, value) in [
            ("INFERENCE_MODE", "maybe"),
            ("INTRA_OP_THREAD_COUNT", "many"),
            ("INTRA_OP_THREAD_COUNT", "99999999"),
            ("ENABLE_JIT_PROFILING", "false"),
            ("TORCH_COMPILE_OPTIONAL_PARAMETERS", "{}"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }
}
