//! Engines whose models are their configuration and nothing else.
//!
//! They mean what the Triton backends of the same names mean, because people try out clients,
//! networks and load tools with exactly these: [`identity`] gives its inputs back, [`repeat`]
//! answers one request any number of times. Both run on the CPU; a version directory may be empty.

pub mod identity;
pub mod repeat;

use mizzen_runtime_api::{Device, InstanceOptions, RuntimeError};

/// Refuses every device but the CPU.
fn on_cpu(backend: &str, options: &InstanceOptions) -> Result<(), RuntimeError> {
    match options.device {
        Device::Cpu => Ok(()),
        Device::Cuda(index) => Err(RuntimeError::Device {
            device: format!("cuda:{index}"),
            reason: format!("`{backend}` runs on the CPU; use `kind: KIND_CPU`"),
        }),
    }
}
