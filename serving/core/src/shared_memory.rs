//! Tensors that a request leaves in shared memory: which, and where.
//!
//! A tensor is there if it has the parameter `shared_memory_region`; the parameters mean the same on
//! every wire. Whether the region is there and large enough the host finds out.

use std::sync::Arc;

use mizzen_types::{DataType, Shape};

use crate::{
    Parameter, Parameters,
    protocol::{ProtocolError, shown, whole},
};

/// A part of a registered region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPart {
    /// The name it was registered by.
    pub region: String,
    /// Where in the region it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub byte_size: u64,
}

/// An input whose bytes are in shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedInput {
    /// Its place among the request's inputs.
    pub at: usize,
    /// Its name.
    pub name: Arc<str>,
    /// Its element type.
    pub dtype: DataType,
    /// Its shape.
    pub shape: Shape,
    /// Where its bytes are.
    pub part: SharedPart,
}

/// An output whose bytes are to go to shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedOutput {
    /// Its name.
    pub name: Arc<str>,
    /// Where its bytes are to go.
    pub part: SharedPart,
}

/// The tensors of one request that are not in its message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharedTensors {
    /// Inputs, by their place.
    pub inputs: Vec<SharedInput>,
    /// Outputs.
    pub outputs: Vec<SharedOutput>,
}

impl SharedTensors {
    /// Whether all of the request is in its message.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.outputs.is_empty()
    }

    /// Where this output goes, if to shared memory.
    pub fn output(&self, name: &str) -> Option<&SharedPart> {
        self.outputs.iter().find(|output| *output.name == *name).map(|output| &output.part)
    }
}

impl SharedPart {
    /// Takes the part out of a tensor's parameters; `None` for a tensor that is in the message.
    ///
    /// # Errors
    /// [`ProtocolError::TensorParameter`] naming the tensor, for one that is missing or of the wrong
    /// kind.
    pub fn take(tensor: &str, parameters: &mut Parameters) -> Result<Option<Self>, ProtocolError> {
        if parameters.is_empty() {
            return Ok(None);
        }
        let region = parameters.remove("shared_memory_region");
        let offset = parameters.remove("shared_memory_offset");
        let byte_size = parameters.remove("shared_memory_byte_size");
        let wrong = |name, want, got: Option<&Parameter>| ProtocolError::TensorParameter {
            tensor: tensor.to_owned(),
            name,
            want,
            got: got.map_or_else(|| "nothing".to_owned(), shown),
        };
        let region = match (region, offset.is_some() || byte_size.is_some()) {
            (None, false) => return Ok(None),
            (Some(Parameter::String(region)), _) if !region.is_empty() => region,
            (other, _) => {
                let want = "the name of a registered region";
                return Err(wrong("shared_memory_region", want, other.as_ref()));
            }
        };
        let bytes = |name, value: Option<&Parameter>| {
            value.and_then(whole).ok_or_else(|| wrong(name, "a number of bytes, 0 or more", value))
        };
        let offset = match offset {
            None => 0,
            some => bytes("shared_memory_offset", some.as_ref())?,
        };
        let byte_size = bytes("shared_memory_byte_size", byte_size.as_ref())?;
        Ok(Some(Self { region, offset, byte_size }))
    }

    /// The parameters that tell a client where an output of so many bytes went.
    pub fn parameters(&self, byte_size: usize) -> Parameters {
        let number = |n: u64| i64::try_from(n).map_or(Parameter::Uint(n), Parameter::Int);
        let mut parameters = Parameters::from([
            ("shared_memory_region".to_owned(), Parameter::String(self.region.clone())),
            ("shared_memory_byte_size".to_owned(), number(byte_size as u64)),
        ]);
        if self.offset > 0 {
            parameters.insert("shared_memory_offset".to_owned(), number(self.offset));
        }
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(of: &[(&str, Parameter)]) -> Parameters {
        of.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn a_part_is_taken_and_other_parameters_stay() {
        let mut given = parameters(&[
            ("shared_memory_region", Parameter::String("r".into())),
            ("shared_memory_byte_size", Parameter::Int(64)),
            ("shared_memory_offset", Parameter::Uint(8)),
            ("binary_data", Parameter::Bool(true)),
        ]);
        let part = SharedPart::take("x", &mut given).unwrap().unwrap();
        assert_eq!(part, SharedPart { region: "r".into(), offset: 8, byte_size: 64 });
        assert_eq!(given.len(), 1);
        assert_eq!(SharedPart::take("x", &mut given).unwrap(), None);
        let shown = part.parameters(4);
        assert_eq!(shown["shared_memory_byte_size"], Parameter::Int(4));
        assert_eq!(shown["shared_memory_offset"], Parameter::Int(8));
    }

    #[test]
    fn a_part_that_is_not_one_is_named() {
        let region = ("shared_memory_region", Parameter::String("r".into()));
        let size = ("shared_memory_byte_size", Parameter::Int(1));
        #[rustfmt::skip]
        let cases = [
            // what the case shows  parameters                                                        error
            ("no size",             vec![region.clone()],                                             "`shared_memory_byte_size` of tensor `x` must be a number of bytes, 0 or more; got nothing"),
            ("no region",           vec![size.clone()],                                               "`shared_memory_region` of tensor `x` must be the name"),
            ("an empty region",     vec![("shared_memory_region", Parameter::String(String::new()))], "got the text ``"),
            ("a negative size",     vec![region.clone(), ("shared_memory_byte_size", Parameter::Int(-1))], "got `-1`"),
            ("a negative offset",   vec![region, size, ("shared_memory_offset", Parameter::Int(-8))], "`shared_memory_offset`"),
        ];
        for (shows, given, want) in cases {
            let error = SharedPart::take("x", &mut parameters(&given)).unwrap_err().to_string();
            assert!(error.contains(want), "{shows}: {error}");
        }
    }
}
