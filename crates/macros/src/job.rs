//! The expansion of `#[derive(Job)]`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{
    Attribute, Data, DeriveInput, Error, LitStr, Path, Result, Token, Type, meta::ParseNestedMeta, parse_quote,
    spanned::Spanned,
};

use crate::names;

const EXAMPLE: &str = r#"`#[job(name = "email.send", queue = "email")]`"#;

/// The arguments of the `#[job(…)]` attributes of a type.
#[derive(Default)]
struct Arguments {
    name: Option<LitStr>,
    queue: Option<LitStr>,
    lanes: Option<TokenStream>,
    schema: Option<TokenStream>,
    output: Option<Type>,
    leveret: Option<Path>,
}

/// Returns the implementation of `Job` for the type.
pub(crate) fn expand(mut input: DeriveInput) -> Result<TokenStream> {
    refuse_borrows_and_misplaced_attributes(&input, "job")?;
    let Arguments { name, queue, lanes, schema, output, leveret } = Arguments::of(&input)?;
    let leveret = leveret.unwrap_or_else(|| parse_quote!(::leveret));
    let lanes = lanes.map(|value| quote!(const LANES: bool = #value;));
    let schema = schema.map(|value| {
        quote! {
            fn schema() -> ::core::option::Option<#leveret::__derive::Value> {
                ::core::option::Option::Some(#value)
            }
        }
    });
    if input.generics.type_params().next().is_some() {
        // Serde's derives choose the bounds of each parameter, and users can override them.
        let jobs = parse_quote! {
            Self: #leveret::__derive::Serialize + #leveret::__derive::DeserializeOwned + ::core::marker::Send + 'static
        };
        input.generics.make_where_clause().predicates.push(jobs);
    }
    let (generics, parameters, bounds) = input.generics.split_for_impl();
    let job = &input.ident;
    let output = output.map(|output| {
        quote! {
            #[automatically_derived]
            impl #generics #leveret::JobOutput for #job #parameters #bounds {
                type Output = #output;
            }
        }
    });
    Ok(quote! {
        #[automatically_derived]
        impl #generics #leveret::Job for #job #parameters #bounds {
            const NAME: &'static str = #name;
            const QUEUE: &'static str = #queue;
            #lanes
            #schema
        }
        #output
    })
}

impl Arguments {
    fn of(input: &DeriveInput) -> Result<Self> {
        let mut arguments = Self::default();
        let mut place = None;
        for attribute in input.attrs.iter().filter(|attribute| is_job(attribute)) {
            attribute.parse_nested_meta(|argument| arguments.read(&argument))?;
            place = Some(attribute);
        }
        let missing = match (&arguments.name, &arguments.queue) {
            (Some(_), Some(_)) => return Ok(arguments),
            (None, None) => "a name and a queue",
            (None, Some(_)) => "a name",
            (Some(_), None) => "a queue",
        };
        let place = place.map_or_else(|| input.ident.to_token_stream(), ToTokens::to_token_stream);
        Err(Error::new_spanned(place, format!("the job `{}` needs {missing}, as in {EXAMPLE}", input.ident)))
    }

    fn read(&mut self, argument: &ParseNestedMeta<'_>) -> Result<()> {
        let key = argument.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match key.as_str() {
            "name" => set(&mut self.name, argument, text(argument, "Job", names::job)?),
            "queue" => set(&mut self.queue, argument, text(argument, "Job", names::queue)?),
            "lanes" if argument.input.peek(Token![=]) => {
                Err(argument
                    .error("`lanes` takes no value: write it for a queue with lanes, and leave it out otherwise"))
            }
            "lanes" => set(&mut self.lanes, argument, quote!(true)),
            "schema" => set(&mut self.schema, argument, schema(argument)?),
            "output" => set(&mut self.output, argument, argument.value()?.parse()?),
            "crate" => set(&mut self.leveret, argument, argument.value()?.call(Path::parse_mod_style)?),
            _ => Err(argument
                .error("unknown argument: `job` takes `name`, `queue`, `lanes`, `schema`, `output` and `crate`")),
        }
    }
}

pub(crate) fn set<T>(field: &mut Option<T>, argument: &ParseNestedMeta<'_>, value: T) -> Result<()> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(argument.error("the argument is given twice: remove one of the two")),
    }
}

pub(crate) fn text(
    argument: &ParseNestedMeta<'_>,
    of: &str,
    check: fn(&str) -> std::result::Result<(), String>,
) -> Result<LitStr> {
    let value = argument.value()?;
    let text: LitStr = value.parse().map_err(|error| {
        let message = format!("expected a string literal: for a constant, implement the trait `{of}` by hand");
        Error::new(error.span(), message)
    })?;
    check(&text.value()).map_err(|message| Error::new(text.span(), message))?;
    Ok(text)
}

fn schema(argument: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    if !argument.input.peek(Token![=]) {
        // The compiler points at the argument when the type has no schema or the crate has no schemars.
        return Ok(quote::quote_spanned!(argument.path.span()=> ::schemars::schema_for!(Self).to_value()));
    }
    let function: Path = argument.value()?.parse()?;
    Ok(quote!(#function()))
}

/// Refuses lifetimes, and the attribute of that name on fields and variants.
pub(crate) fn refuse_borrows_and_misplaced_attributes(input: &DeriveInput, name: &str) -> Result<()> {
    if let Some(borrow) = input.generics.lifetimes().next() {
        let article = if name == "job" { "a" } else { "an" };
        let message = format!(
            "{article} {name} owns its data, because a worker decodes it from a message: use `String` for `&str`"
        );
        return Err(Error::new_spanned(borrow, message));
    }
    let mut inner: Vec<&Attribute> = Vec::new();
    match &input.data {
        Data::Struct(data) => inner.extend(data.fields.iter().flat_map(|field| &field.attrs)),
        Data::Enum(data) => {
            inner.extend(data.variants.iter().flat_map(|variant| &variant.attrs));
            inner.extend(data.variants.iter().flat_map(|variant| &variant.fields).flat_map(|field| &field.attrs));
        }
        Data::Union(_) => {}
    }
    match inner.into_iter().find(|attribute| attribute.path().is_ident(name)) {
        None => Ok(()),
        Some(attribute) => {
            Err(Error::new_spanned(attribute, format!("the attribute `{name}` belongs on the type, not inside it")))
        }
    }
}

fn is_job(attribute: &Attribute) -> bool {
    attribute.path().is_ident("job")
}
