//! Any events: what is encoded decodes to the same.
#![no_main]

#[path = "../harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::round_trip(data));
