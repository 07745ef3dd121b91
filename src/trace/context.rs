//! The context of a span: between messages and this process, and between `tracing` and OpenTelemetry.
//!
//! Without the feature `otel` no span has a context.

#[cfg(feature = "otel")]
pub(super) use self::with_otel::{SpanContext, current, of_span, read, rename, set_parent, trace_id, written};
#[cfg(not(feature = "otel"))]
pub(super) use self::without_otel::{SpanContext, current, of_span, read, rename, set_parent, trace_id, written};

#[cfg(feature = "otel")]
mod with_otel {
    pub(in super::super) use opentelemetry::trace::SpanContext;
    use opentelemetry::{
        Context,
        propagation::{Extractor, TextMapPropagator},
        trace::TraceContextExt,
    };
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use crate::{message::header, trace::Trace};

    impl Extractor for Trace {
        fn get(&self, key: &str) -> Option<&str> {
            match key {
                header::TRACEPARENT => Some(&self.parent),
                header::TRACESTATE => self.state.as_deref(),
                _ => None,
            }
        }

        fn keys(&self) -> Vec<&str> {
            vec![header::TRACEPARENT, header::TRACESTATE]
        }
    }

    fn valid(context: &Context) -> Option<SpanContext> {
        Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
    }

    /// Returns the context of the current code.
    pub(in super::super) fn current() -> Option<SpanContext> {
        valid(&Context::current())
    }

    /// Returns the context in a header; `None` if it is invalid.
    pub(in super::super) fn read(trace: &Trace) -> Option<SpanContext> {
        valid(&TraceContextPropagator::new().extract_with_context(&Context::new(), trace))
    }

    pub(in super::super) fn written(context: &SpanContext) -> Trace {
        let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8() & 1);
        let state = Some(context.trace_state().header()).filter(|state| !state.is_empty());
        Trace { parent: format!("00-{trace}-{span}-{flags:02x}"), state }
    }

    pub(in super::super) fn trace_id(context: &SpanContext) -> String {
        context.trace_id().to_string()
    }

    /// Returns the context of a span that a layer for traces has.
    pub(in super::super) fn of_span(span: &Span) -> Option<SpanContext> {
        valid(&span.context())
    }

    pub(in super::super) fn set_parent(span: &Span, parent: SpanContext) {
        // This fails without a layer for traces; then there is no span that needs a parent.
        drop(span.set_parent(Context::new().with_remote_span_context(parent)));
    }

    pub(in super::super) fn rename(span: &Span, name: String) {
        span.context().span().update_name(name);
    }
}

#[cfg(not(feature = "otel"))]
mod without_otel {
    use tracing::Span;

    use crate::trace::Trace;

    #[derive(Clone, Copy, Debug)]
    pub(in super::super) enum SpanContext {}

    pub(in super::super) fn current() -> Option<SpanContext> {
        None
    }

    pub(in super::super) fn read(_: &Trace) -> Option<SpanContext> {
        None
    }

    pub(in super::super) fn written(context: &SpanContext) -> Trace {
        match *context {}
    }

    pub(in super::super) fn trace_id(context: &SpanContext) -> String {
        match *context {}
    }

    pub(in super::super) fn of_span(_: &Span) -> Option<SpanContext> {
        None
    }

    pub(in super::super) fn set_parent(_: &Span, parent: SpanContext) {
        match parent {}
    }

    pub(in super::super) fn rename(_: &Span, _: String) {}
}
