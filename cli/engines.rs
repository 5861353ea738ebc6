//! The engines this binary has. No other file names one.

use std::{path::PathBuf, sync::Arc};

use mizzen_runtime_api::{EngineStatus, Loader};
use mizzen_runtime_builtin::{identity::IdentityLoader, repeat::RepeatLoader};
use mizzen_runtime_candle::CandleLoader;
use mizzen_runtime_onnx::{OnnxLoader, OnnxOptions};
use mizzen_runtime_plugin::{PluginEngine, PluginLoader, PluginOptions};

/// TorchScript, by Triton's names. `runtimes/torch` is the plug-in.
const TORCH: PluginEngine = PluginEngine {
    backend: "pytorch",
    library: "torch",
    aliases: &["pytorch_libtorch", "torch"],
    default_file: "model.pt",
    way_out: "`make torch` in a checkout builds it (docs/guides/torch.md); or set \
              MIZZEN_PLUGIN_DIR to the directory it is in",
};

/// Every engine, in the order in which a model without a backend is offered to them.
pub(crate) fn loaders(onnxruntime: Option<PathBuf>) -> Vec<Arc<dyn Loader>> {
    let mut loaders = linked(onnxruntime);
    loaders.push(Arc::new(PluginLoader::new(TORCH, PluginOptions::default())));
    loaders
}

/// What was found of every engine; looks into plug-ins, which takes a moment.
pub(crate) fn statuses(onnxruntime: Option<PathBuf>) -> Vec<EngineStatus> {
    let mut statuses: Vec<_> = linked(onnxruntime).iter().map(|loader| loader.status()).collect();
    statuses.push(PluginLoader::new(TORCH, PluginOptions::default()).probe());
    statuses
}

/// The engines that are linked in, or open a library themselves.
fn linked(onnxruntime: Option<PathBuf>) -> Vec<Arc<dyn Loader>> {
    let onnx =
        OnnxOptions { library: onnxruntime, dirs: library_directories(), ..OnnxOptions::default() };
    vec![
        Arc::new(OnnxLoader::new(onnx)),
        Arc::new(CandleLoader),
        Arc::new(IdentityLoader),
        Arc::new(RepeatLoader),
    ]
}

/// Where `make setup` puts libraries: `.cache/onnxruntime/lib` of the checkout that the binary was built in
/// (`target/<profile>/mizzen`) or that the command is run in.
fn library_directories() -> Vec<PathBuf> {
    let checkout = |exe: PathBuf| exe.ancestors().nth(3).map(PathBuf::from);
    let places = [std::env::current_exe().ok().and_then(checkout), std::env::current_dir().ok()];
    places.into_iter().flatten().map(|dir| dir.join(".cache/onnxruntime/lib")).collect()
}
