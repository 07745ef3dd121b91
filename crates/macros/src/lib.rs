//! The derive macros of the crate leveret, which re-exports and documents them as `leveret::Job` and `leveret::Event`.

mod event;
mod job;
mod names;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

#[expect(missing_docs, reason = "leveret documents its re-export, where the examples compile")]
#[proc_macro_derive(Job, attributes(job))]
pub fn derive_job(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    job::expand(input).unwrap_or_else(Error::into_compile_error).into()
}

#[expect(missing_docs, reason = "leveret documents its re-export, where the examples compile")]
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    event::expand(input).unwrap_or_else(Error::into_compile_error).into()
}
