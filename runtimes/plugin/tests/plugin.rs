//! Goal: an engine behind the C table keeps the seam, and a library that is no plug-in of ours is
//! refused in words.
//! Method: the fake engine built as a shared library (`examples/fake_plugin.rs`), opened as any
//! plug-in is; the seam's own suite through the table.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use mizzen_runtime_api::{
    Batch, Cancel, Device, InstanceOptions, Loader, ModelSource, RuntimeError, conformance, fake,
};
use mizzen_runtime_plugin::{PluginEngine, PluginLoader, PluginOptions};
use mizzen_types::{Coded, NamedTensor, Tensor};

const FAKE: PluginEngine = PluginEngine {
    backend: "fake",
    library: "fake",
    aliases: &["fake_platform"],
    default_file: "model.fake",
    way_out: "build it with `cargo build --example fake_plugin`",
};

/// A library that cargo built from `examples/`, beside this test's own directory.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let file = format!("{prefix}{name}{suffix}");
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(file);
    assert!(path.is_file(), "`{}` is missing; cargo builds it with the tests", path.display());
    path
}

fn loader(library: PathBuf) -> PluginLoader {
    let library = Some(library);
    PluginLoader::new(FAKE, PluginOptions { library, ..PluginOptions::default() })
}

fn source(dir: &Path, text: &str) -> ModelSource {
    fake::write(dir, text);
    ModelSource {
        name: "m".into(),
        version: 1,
        dir: dir.into(),
        file: None,
        parameters: Default::default(),
        declared: Default::default(),
        decoupled: false,
    }
}

fn refusal(loader: &PluginLoader) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = loader.load(&source(dir.path(), fake::DOUBLE)).err().unwrap();
    assert!(matches!(error, RuntimeError::EngineMissing { .. }), "{error}");
    error.to_string()
}

#[test]
fn an_engine_behind_the_table_keeps_the_seam() {
    let scratch = tempfile::tempdir().unwrap();
    let loader = loader(example("fake_plugin"));
    conformance::check(&fake::fixture(&loader, scratch.path()));
}

#[test]
fn a_panic_in_the_plug_in_is_an_error_and_other_models_go_on() {
    let (bad, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let loader = loader(example("fake_plugin"));
    let open = |source: &ModelSource| {
        let options = InstanceOptions { threads: 1, device: Device::Cpu };
        loader.load(source).unwrap().open(&options).unwrap()
    };
    let mut panics = open(&source(bad.path(), fake::PANIC));
    let mut doubles = open(&source(good.path(), fake::DOUBLE));
    let inputs = fake::batch(2, 1);
    let batch = Batch { inputs: &inputs, outputs: &[] };
    for _ in 0..2 {
        let error = panics.run(batch, &Cancel::default()).unwrap_err();
        assert!(error.message().ends_with("the engine panicked: this model panics"), "{error:?}");
        let answer = doubles.run(batch, &Cancel::default()).unwrap();
        assert_eq!(answer, fake::reference(&inputs));
    }
}

/// Bytes that tell, by the count of their owner, whether anyone still holds them.
fn watched(input: &NamedTensor) -> (NamedTensor, Arc<Vec<u8>>) {
    struct Owner(Arc<Vec<u8>>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let data = Arc::new(input.tensor.data().to_vec());
    let bytes = Bytes::from_owner(Owner(data.clone()));
    let tensor = Tensor::new(input.tensor.dtype(), input.tensor.shape().clone(), bytes).unwrap();
    (NamedTensor { name: input.name.clone(), tensor }, data)
}

#[test]
fn inputs_are_given_back_however_the_run_ends() {
    let loader = loader(example("fake_plugin"));
    let ended = Cancel::default();
    ended.cancel();
    let cases = [
        ("answered", fake::DOUBLE, Cancel::default(), true),
        ("cancelled", fake::DOUBLE, ended, false),
        ("panicked", fake::PANIC, Cancel::default(), false),
    ];
    for (shows, text, cancel, answered) in cases {
        let dir = tempfile::tempdir().unwrap();
        let model = loader.load(&source(dir.path(), text)).unwrap();
        let options = InstanceOptions { threads: 1, device: Device::Cpu };
        let mut instance = model.open(&options).unwrap();
        let (inputs, owners): (Vec<_>, Vec<_>) = fake::batch(2, 1).iter().map(watched).unzip();
        let outcome = instance.run(Batch { inputs: &inputs, outputs: &[] }, &cancel);
        assert_eq!(outcome.is_ok(), answered, "{shows}");
        drop((outcome, inputs));
        let held: Vec<_> = owners.iter().map(Arc::strong_count).collect();
        assert_eq!(held, [1, 1], "{shows}");
    }
}

#[test]
fn a_library_that_is_no_plug_in_of_ours_is_refused_by_what_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let text = scratch.path().join("text.so");
    std::fs::write(&text, "not a library").unwrap();
    #[rustfmt::skip]
    let cases = [
        ("another version", example("other_version_plugin"), "speaks version 999 of the plug-in table; expected 2"),
        ("no entry point",  example("not_a_plugin"),         "does not export `mizzen_plugin`"),
        ("no library",      text.clone(),                    "text.so"),
    ];
    for (shows, library, want) in cases {
        let refusal = refusal(&loader(library));
        assert!(refusal.contains(want), "{shows}: {refusal}");
        assert!(refusal.contains(FAKE.way_out), "{shows}: {refusal}");
    }
    let torch = PluginEngine { backend: "torch", ..FAKE };
    let library = Some(example("fake_plugin"));
    let options = PluginOptions { library, ..PluginOptions::default() };
    let refusal = refusal(&PluginLoader::new(torch, options));
    assert!(refusal.contains("plug-in of `fake`; expected that of `torch`"), "{refusal}");
}

fn loader_options(dir: &Path) -> PluginOptions {
    PluginOptions { dirs: vec![dir.into()], variable: |_| None, ..PluginOptions::default() }
}

#[test]
fn an_absent_plug_in_is_missing_until_it_is_there() {
    let plugins = tempfile::tempdir().unwrap();
    let loader = PluginLoader::new(FAKE, loader_options(plugins.path()));
    let refusal = refusal(&loader);
    assert!(refusal.contains(&plugins.path().display().to_string()), "{refusal}");
    assert!(refusal.contains(FAKE.way_out), "{refusal}");
    assert!(loader.status().found.unwrap_err().contains(FAKE.way_out));
    assert!(loader.probe().found.unwrap_err().contains(FAKE.way_out));

    let library = example("fake_plugin");
    let name = library.file_name().unwrap().to_str().unwrap().replace("fake", "mizzen_fake");
    let name = name.replace("_plugin", "");
    std::fs::copy(&library, plugins.path().join(&name)).unwrap();
    assert!(loader.status().found.unwrap().contains("not opened yet"));
    let probe = PluginLoader::new(FAKE, loader_options(plugins.path())).probe();
    assert_eq!(probe.found.unwrap(), "1.0", "looked into");
    let dir = tempfile::tempdir().unwrap();
    loader.load(&source(dir.path(), fake::DOUBLE)).unwrap();
    assert_eq!(loader.status().found.unwrap(), "1.0", "the engine's own word");
    assert_eq!(loader.status().searched, [plugins.path().join(&name)]);
}

#[test]
fn what_is_known_without_opening_it_comes_from_the_description() {
    let loader = loader("/nowhere/lib.so".into());
    assert_eq!((loader.backend(), loader.default_file()), ("fake", "model.fake"));
    assert_eq!(loader.aliases(), ["fake_platform"]);
}
