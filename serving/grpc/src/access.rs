//! What each call asks for, as far as permission goes.

use http::Extensions;
use mizzen_serving_auth::{Caller, Denied, Scope};
use mizzen_serving_core::Category;

/// The services that are served, as reflection lists them.
pub(crate) const SERVICES: [&str; 2] = ["inference.GRPCInferenceService", "grpc.health.v1.Health"];

/// What a call asks for, by its path; none for a path that is no call of this server.
///
/// A call whose message names a model is judged again once that is read, by [`permit`].
pub(crate) fn classify(path: &str) -> Option<(Category, Scope<'static>)> {
    use Category::*;
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    Some(match (service, method) {
        ("inference.GRPCInferenceService", method) => match method {
            "ServerLive" | "ServerReady" | "ModelReady" => (Health, Scope::Server),
            "ServerMetadata" | "ModelMetadata" => (Metadata, Scope::Server),
            "ModelInfer" | "ModelStreamInfer" => (Inference, Scope::Server),
            "ModelConfig" => (ModelConfig, Scope::Server),
            "ModelStatistics" => (Statistics, Scope::Server),
            "RepositoryIndex" => (ModelRepository, Scope::All),
            "RepositoryModelLoad" | "RepositoryModelUnload" => (ModelRepository, Scope::Server),
            "SystemSharedMemoryStatus"
            | "SystemSharedMemoryRegister"
            | "SystemSharedMemoryUnregister"
            | "CudaSharedMemoryStatus"
            | "CudaSharedMemoryRegister"
            | "CudaSharedMemoryUnregister" => (SharedMemory, Scope::All),
            "TraceSetting" => (Trace, Scope::All),
            "LogSettings" => (Logging, Scope::All),
            _ => return None,
        },
        ("grpc.health.v1.Health", "Check" | "List" | "Watch") => (Health, Scope::Server),
        // It tells what may be called, and nothing of any model.
        (
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection",
            "ServerReflectionInfo",
        ) => (Metadata, Scope::Server),
        _ => return None,
    })
}

/// Whether the caller, where one is known, may make this call on this model.
pub(crate) fn permit(
    extensions: &Extensions,
    category: Category,
    model: &str,
) -> Result<(), Denied> {
    match extensions.get::<Caller>() {
        Some(caller) => caller.may(category, Scope::Model(model)),
        None => Ok(()), // there is no policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::DescriptorPool;

    #[test]
    fn every_method_of_every_service_has_its_kind() {
        let pool = DescriptorPool::decode(mizzen_proto::DESCRIPTORS).unwrap();
        let mut methods = 0;
        for service in pool.services().filter(|s| SERVICES.contains(&s.full_name())) {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                assert!(classify(&path).is_some(), "{path}");
                methods += 1;
            }
        }
        assert!(methods >= 14, "the services were not found: {methods}");
    }

    #[test]
    fn other_spellings_are_nothing() {
        for path in [
            "/inference.GRPCInferenceService/ModelInfer/",
            "//inference.GRPCInferenceService/ModelInfer",
            "/inference.GRPCInferenceService//ModelInfer",
            "/inference.GRPCInferenceService/modelinfer",
            "/inference.GRPCInferenceService/Model%49nfer",
            "/inference.grpcinferenceservice/ModelInfer",
            "inference.GRPCInferenceService/ModelInfer",
            "/grpc.health.v1.Health/",
            "/",
            "",
        ] {
            assert_eq!(classify(path), None, "{path}");
        }
    }
}
