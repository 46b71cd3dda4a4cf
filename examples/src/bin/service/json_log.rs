//! Log lines as JSON on the standard error, one object a line: `time`, `level`, `target`, `message`, `fields`, `spans`.

use std::fmt::{self, Debug};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Writes log lines from here on. `filter` names levels by target, as in `info,receiver=debug`.
pub(crate) fn init(filter: &str) {
    let targets = filter.parse::<Targets>();
    let fault = targets.as_ref().err().map(ToString::to_string);
    let targets = targets.unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(false).event_format(Json).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(targets).init();
    if let Some(fault) = fault {
        tracing::warn!(
            filter,
            fault,
            "the log filter cannot be read, lines of level info and above are written"
        );
    }
}

struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let mut line = Map::new();
        line.insert("time".to_owned(), time.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        let message = fields.0.remove("message").unwrap_or_default();
        line.insert("message".to_owned(), message);
        line.insert("fields".to_owned(), fields.0.into());
        let spans = context.event_scope().into_iter().flat_map(Scope::from_root).map(|span| {
            let extensions = span.extensions();
            let text = extensions.get::<FormattedFields<N>>().map(|fields| fields.fields.as_str());
            format!("{} {}", span.name(), text.unwrap_or_default()).trim_end().into()
        });
        line.insert("spans".to_owned(), spans.collect::<Vec<Value>>().into());
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// The fields of an event as JSON.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}
