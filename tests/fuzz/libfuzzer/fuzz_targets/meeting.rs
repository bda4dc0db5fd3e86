#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meetpoint_fuzz::meeting(bytes));
