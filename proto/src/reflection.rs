//! The reflection service: for grpcurl and its like, which have no .proto files.

use tonic::service::Routes;
use tonic_reflection::server::Builder;

use crate::DESCRIPTORS;

/// Adds reflection to what a listener serves, in both of its versions; it lists the services of these
/// names, which must be among those of [`DESCRIPTORS`].
pub fn reflect(routes: Routes, services: &[&str]) -> Routes {
    let builder = || {
        let all = Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
        services.iter().fold(all, |builder, name| builder.with_service_name(*name))
    };
    let readable = "descriptors that were compiled in can be read";
    routes
        .add_service(builder().build_v1().expect(readable))
        .add_service(builder().build_v1alpha().expect(readable))
}
