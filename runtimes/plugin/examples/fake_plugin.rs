//! The fake engine as a plug-in, for the tests.

#![allow(unsafe_code, reason = "a plug-in exports a C function")]

mizzen_runtime_plugin::export_plugin!(mizzen_runtime_api::fake::FakeLoader::default());
