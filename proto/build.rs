//! Compiles the .proto files with protox, so that no protoc binary is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 4] = [
    "inference/inference.proto",
    "inference/model_config.proto",
    "grpc/health.proto",
    "katib/katib.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let files = protox::compile(FILES, ["."])?;
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, files.encode_to_vec())?;
    tonic_prost_build::configure()
        // Tensor bytes stay views of the message they came in.
        .bytes(".")
        .compile_fds(files)?;
    println!("cargo::rerun-if-changed=inference");
    println!("cargo::rerun-if-changed=grpc");
    println!("cargo::rerun-if-changed=katib");
    Ok(())
}
