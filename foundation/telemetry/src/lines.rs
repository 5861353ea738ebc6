//! Log lines that say which traced request they are about.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatFields,
        format::{FormatEvent, Writer},
    },
    registry::LookupSpan,
};

use crate::trace;

/// Lines of JSON with `trace_id` and `span_id` where the request that they are about is traced, by
/// the names that log collectors look for.
pub(crate) struct WithTrace<F>(pub(crate) F);

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some((trace, span)) = trace::ids() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&with_ids(&line, &trace, &span))
    }
}

/// The ids as the last two fields of a line that is one JSON object.
fn with_ids(line: &str, trace: &str, span: &str) -> String {
    match line.trim_end().strip_suffix('}') {
        Some(fields) => format!("{fields},\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"}}\n"),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_fields_of_the_line() {
        assert_eq!(
            with_ids("{\"a\":1}\n", "t", "s"),
            "{\"a\":1,\"trace_id\":\"t\",\"span_id\":\"s\"}\n"
        );
        assert_eq!(with_ids("text\n", "t", "s"), "text\n");
    }
}
