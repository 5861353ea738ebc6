//! Checks that every engine makes the same way: that a batch fits a signature, and which file a
//! source means. They are here so that one mistake gets one message, whatever the engine.

use std::{
    fmt::Display,
    path::{Component, Path, PathBuf},
};

use crate::{Batch, ModelSource, RuntimeError, Signature, TensorSpec};

impl Signature {
    /// Whether the batch has every input once, of the declared type and a shape that fits.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] naming the first input at fault, what it takes and what came.
    pub fn accept(&self, batch: &Batch<'_>) -> Result<(), RuntimeError> {
        for spec in &self.inputs {
            let mut given = batch.inputs.iter().filter(|given| given.name == spec.name);
            let tensor = match (given.next(), given.next()) {
                (Some(only), None) => &only.tensor,
                (None, _) => return Err(input(&spec.name, "it is missing")),
                (Some(_), Some(_)) => return Err(input(&spec.name, "it is given more than once")),
            };
            if tensor.dtype() != spec.dtype {
                let reason = format!("it takes {}; got {}", spec.dtype, tensor.dtype());
                return Err(input(&spec.name, reason));
            }
            if !spec.shape.accepts(tensor.shape()) {
                let (want, got) = (&spec.shape, tensor.shape());
                let reason = format!("it takes shape {want} (-1 is any); got {got}");
                return Err(input(&spec.name, reason));
            }
        }
        let known = |name: &str| self.inputs.iter().any(|spec| *spec.name == *name);
        match batch.inputs.iter().find(|given| !known(&given.name)) {
            None => Ok(()),
            Some(extra) => {
                let reason =
                    format!("the model has no such input; it takes {}", names(&self.inputs));
                Err(input(&extra.name, reason))
            }
        }
    }

    /// The outputs a batch wants, as indices into [`Signature::outputs`], in the order asked; all
    /// of them if it names none.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] for a name that is not an output.
    pub fn wanted(&self, batch: &Batch<'_>) -> Result<Vec<usize>, RuntimeError> {
        if batch.outputs.is_empty() {
            return Ok((0..self.outputs.len()).collect());
        }
        let index = |name: &str| {
            self.outputs.iter().position(|spec| *spec.name == *name).ok_or_else(|| {
                let has = names(&self.outputs);
                input(name, format!("the model has no such output; it gives {has}"))
            })
        };
        batch.outputs.iter().map(|name| index(name)).collect()
    }
}

impl ModelSource {
    /// The model's file: the one the configuration names, else `default`, inside the version
    /// directory.
    ///
    /// # Errors
    /// [`RuntimeError::Load`] if the name leads out of the directory or the file is not there.
    pub fn file_path(&self, default: &str) -> Result<PathBuf, RuntimeError> {
        let file = Path::new(self.file.as_deref().unwrap_or(default));
        let path = self.dir.join(file);
        if !file.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(self.failed(&path, "the file must lie inside the version directory"));
        }
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(path),
            Ok(_) => Err(self.failed(&path, "it is not a file")),
            Err(error) => Err(self.failed(&path, error)),
        }
    }

    /// A [`RuntimeError::Load`] for this model.
    pub fn failed(&self, path: &Path, reason: impl Display) -> RuntimeError {
        RuntimeError::Load {
            model: self.name.clone(),
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }
}

fn input(name: &str, reason: impl Into<String>) -> RuntimeError {
    RuntimeError::Input { input: name.to_owned(), reason: reason.into() }
}

fn names(specs: &[TensorSpec]) -> String {
    let names: Vec<_> = specs.iter().map(|spec| format!("`{}`", spec.name)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mizzen_types::{DataType, NamedTensor, Shape, SpecShape, Tensor};

    use super::*;

    fn signature() -> Signature {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            dtype: DataType::Uint8,
            shape: SpecShape(vec![-1, 2]),
        };
        Signature { inputs: vec![spec("a"), spec("b")], outputs: vec![spec("y"), spec("z")] }
    }

    fn tensor(name: &str, dtype: DataType, dims: [usize; 2]) -> NamedTensor {
        let shape = Shape::new(dims).unwrap();
        let data = Bytes::from(vec![0; shape.elements()]);
        NamedTensor { name: name.into(), tensor: Tensor::new(dtype, shape, data).unwrap() }
    }

    #[test]
    fn an_input_that_does_not_fit_is_named_with_what_it_takes() {
        use DataType::{Int8, Uint8};
        let good = |name| tensor(name, Uint8, [3, 2]);
        #[rustfmt::skip]
        let cases: Vec<(&str, Vec<NamedTensor>, &str)> = vec![
            ("missing",     vec![good("a")], "input `b` does not fit: it is missing"),
            ("twice",       vec![good("a"), good("a"), good("b")], "input `a` does not fit: it is given more than once"),
            ("wrong type",  vec![tensor("a", Int8, [3, 2]), good("b")], "input `a` does not fit: it takes UINT8; got INT8"),
            ("wrong shape", vec![good("a"), tensor("b", Uint8, [3, 3])], "input `b` does not fit: it takes shape [-1,2] (-1 is any); got [3,3]"),
            ("unknown",     vec![good("a"), good("b"), good("c")], "input `c` does not fit: the model has no such input; it takes `a`, `b`"),
        ];
        for (shows, inputs, want) in cases {
            let error = signature().accept(&Batch { inputs: &inputs, outputs: &[] }).unwrap_err();
            assert_eq!(error.to_string(), want, "{shows}");
        }
        let any_order = [good("b"), good("a")];
        assert!(signature().accept(&Batch { inputs: &any_order, outputs: &[] }).is_ok());
    }

    #[test]
    fn outputs_are_wanted_in_the_order_asked() {
        let wanted = |names: &[&str]| {
            let outputs: Vec<_> = names.iter().map(|name| (*name).into()).collect();
            signature().wanted(&Batch { inputs: &[], outputs: &outputs })
        };
        assert_eq!(wanted(&[]).unwrap(), [0, 1], "none named is all");
        assert_eq!(wanted(&["z", "y"]).unwrap(), [1, 0]);
        assert!(wanted(&["a"]).unwrap_err().to_string().contains("it gives `y`, `z`"));
    }

    #[test]
    fn a_file_outside_the_version_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("m"), b"x").unwrap();
        let file = |name: Option<&str>| {
            ModelSource {
                name: "m".into(),
                version: 1,
                dir: dir.path().into(),
                file: name.map(str::to_owned),
                parameters: Default::default(),
                declared: Signature::default(),
                decoupled: false,
            }
            .file_path("m")
        };
        assert_eq!(file(None).unwrap(), dir.path().join("m"));
        assert!(file(Some("other")).is_err(), "not there");
        for escape in ["../m", "/etc/passwd", "a/../../m", ""] {
            assert!(file(Some(escape)).is_err(), "{escape:?}");
        }
    }
}
