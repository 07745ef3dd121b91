//! The compiler's messages for a handler that does not fit its worker: each file of `cases/` must not compile, and the
//! message beside it must name the fault in words that a user understands.
//!
//! The first run compiles Leveret and its dependencies once more, in a folder of its own. `TRYBUILD=overwrite` writes new
//! messages after a change of the compiler or of a signature.

#[cfg(test)]
mod tests {
    #[test]
    fn a_handler_that_does_not_fit_its_worker_does_not_compile_and_the_message_names_the_fault() {
        trybuild::TestCases::new().compile_fail("cases/*.rs");
    }
}
