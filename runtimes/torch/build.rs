//! Compiles the C functions over libtorch and links it, if it is wanted.

fn main() {
    #[cfg(feature = "libtorch")]
    libtorch::build();
}

#[cfg(feature = "libtorch")]
mod libtorch {
    use std::{env, path::PathBuf};

    pub(crate) fn build() {
        println!("cargo::rerun-if-changed=cpp");
        println!("cargo::rerun-if-env-changed=LIBTORCH");
        let crate_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
        let checkout = crate_dir.join("../../.cache/torch");
        let libtorch = env::var_os("LIBTORCH").map_or(checkout, PathBuf::from);
        let library = libtorch.join("lib/libtorch_cpu.so");
        if !library.is_file() {
            let missing = library.display();
            println!("cargo::error=`{missing}` is not there; `make torch` downloads it");
            return;
        }
        println!("cargo::rerun-if-changed={}", library.display());
        let mut files = vec!["cpp/module.cpp", "cpp/run.cpp"];
        if env::var_os("CARGO_FEATURE_TESTING").is_some() {
            files.push("cpp/testing.cpp");
        }
        let mut build = cc::Build::new();
        // Each operator of a run comes by one of these functions, so they are fast in every
        // profile.
        build.cpp(true).std("c++17").opt_level(2).debug(false).files(files);
        for headers in ["include", "include/torch/csrc/api/include"] {
            build.flag("-isystem").flag(libtorch.join(headers));
        }
        build.compile("mizzen_torch_c");
        println!("cargo::rustc-link-search=native={}", libtorch.join("lib").display());
        println!("cargo::rustc-link-lib=dylib=torch_cpu");
        println!("cargo::rustc-link-lib=dylib=c10");
        // Found without an environment variable: beside the installed plug-in, or, from anywhere
        // two folders down in `target`, in the checkout.
        for place in ["$ORIGIN/libtorch/lib", "$ORIGIN/../../../.cache/torch/lib"] {
            println!("cargo::rustc-link-arg=-Wl,-rpath,{place}");
        }
    }
}
