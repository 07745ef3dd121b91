//! Any bytes as the header frame of a message: the screen, lapin's parser and our reader take all of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| leveret::fuzzing::header(bytes));
