//! The derive macro of the crate leveret, which re-exports and documents it as `leveret::Job`.

mod job;
mod names;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

/// Implements the trait `leveret::Job`.
#[proc_macro_derive(Job, attributes(job))]
pub fn derive_job(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    job::expand(input).unwrap_or_else(Error::into_compile_error).into()
}
