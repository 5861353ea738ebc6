#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mizzen_fuzz_targets::run("trial_output", data);
});
