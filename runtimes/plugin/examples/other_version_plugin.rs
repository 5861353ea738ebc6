//! A plug-in of another version of the table, for the tests: only its version can be read.

#![allow(unsafe_code, reason = "a plug-in exports a C function")]

static TABLE: [u32; 2] = [999, 0];

/// The table of a version that is not ours.
#[unsafe(no_mangle)]
pub extern "C" fn mizzen_plugin() -> *const u32 {
    TABLE.as_ptr()
}
