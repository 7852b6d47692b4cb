//! Any bytes: never a panic, one verdict, and what is taken is what it says.
#![no_main]

#[path = "../harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::any_bytes(data));
