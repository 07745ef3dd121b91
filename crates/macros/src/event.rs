//! The expansion of `#[derive(Event)]`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{DeriveInput, Error, LitStr, Path, Result, meta::ParseNestedMeta, parse_quote};

use crate::{
    job::{refuse_borrows_and_misplaced_attributes, set, text},
    names,
};

/// The arguments of the `#[event(…)]` attributes of a type.
#[derive(Default)]
struct Arguments {
    topic: Option<LitStr>,
    leveret: Option<Path>,
}

/// Returns the implementation of `Event` for the type.
pub(crate) fn expand(mut input: DeriveInput) -> Result<TokenStream> {
    refuse_borrows_and_misplaced_attributes(&input, "event")?;
    let Arguments { topic, leveret } = Arguments::of(&input)?;
    let leveret = leveret.unwrap_or_else(|| parse_quote!(::leveret));
    if input.generics.type_params().next().is_some() {
        // Serde's derives choose the bounds of each parameter, and users can override them.
        let events = parse_quote! {
            Self: #leveret::__derive::Serialize + #leveret::__derive::DeserializeOwned + ::core::marker::Send + 'static
        };
        input.generics.make_where_clause().predicates.push(events);
    }
    let (generics, parameters, bounds) = input.generics.split_for_impl();
    let event = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl #generics #leveret::Event for #event #parameters #bounds {
            const TOPIC: &'static str = #topic;
        }
    })
}

impl Arguments {
    fn of(input: &DeriveInput) -> Result<Self> {
        let mut arguments = Self::default();
        let mut place = None;
        for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("event")) {
            attribute.parse_nested_meta(|argument| arguments.read(&argument))?;
            place = Some(attribute);
        }
        if arguments.topic.is_some() {
            return Ok(arguments);
        }
        let place = place.map_or_else(|| input.ident.to_token_stream(), ToTokens::to_token_stream);
        let message = format!("the event `{}` needs a topic, as in `#[event(topic = \"order.placed\")]`", input.ident);
        Err(Error::new_spanned(place, message))
    }

    fn read(&mut self, argument: &ParseNestedMeta<'_>) -> Result<()> {
        let key = argument.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match key.as_str() {
            "topic" => set(&mut self.topic, argument, text(argument, "Event", names::topic)?),
            "crate" => set(&mut self.leveret, argument, argument.value()?.call(Path::parse_mod_style)?),
            _ => Err(argument.error("unknown argument: `event` takes `topic` and `crate`")),
        }
    }
}
