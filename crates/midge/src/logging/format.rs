//! One event, one line: text for people, JSON or logfmt for machines.
//!
//! ```text
//! 2026-11-20T10:00:00.123456Z WARN  malformed packet client_id=pump-7 reason=0x81
//! {"time":"2026-11-20T10:00:00.123456Z","level":"warn","target":"midge_shard","message":"malformed packet","client_id":"pump-7","reason":129}
//! time=2026-11-20T10:00:00.123456Z level=warn target=midge_shard message="malformed packet" client_id=pump-7 reason=129
//! ```
//!
//! Spans are not written: each event carries its own fields (`shard`, `client_id`, …).

use std::fmt::{self, Write};

use midge_config::LogFormat;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// How events become lines.
#[derive(Debug)]
pub(crate) struct Format {
    format: LogFormat,
    /// Whether levels are coloured; text only.
    coloured: bool,
}

impl Format {
    pub(crate) fn new(format: LogFormat, coloured: bool) -> Self {
        Self { format, coloured }
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let target = event.metadata().target();
        match self.format {
            LogFormat::Text => {
                SystemTime.format_time(&mut line)?;
                write_level(&mut line, level, self.coloured)?;
            }
            LogFormat::Json => {
                line.write_str("{\"time\":\"")?;
                SystemTime.format_time(&mut line)?;
                let level = level_name(level);
                write!(line, "\",\"level\":\"{level}\",\"target\":\"{target}\"")?;
            }
            LogFormat::Logfmt => {
                line.write_str("time=")?;
                SystemTime.format_time(&mut line)?;
                write!(line, " level={} target={target}", level_name(level))?;
            }
        }
        let mut fields = Fields { format: self.format, line: &mut line, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        line.write_str(if self.format == LogFormat::Json { "}\n" } else { "\n" })
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The level in capitals, padded to the longest, so that messages stand in one column.
fn write_level(line: &mut Writer<'_>, level: Level, coloured: bool) -> fmt::Result {
    let level_text = level.as_str();
    let colour = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        Level::DEBUG => "34",
        Level::TRACE => "35",
    };
    if coloured {
        write!(line, " \u{1b}[{colour}m{level_text:<5}\u{1b}[0m")
    } else {
        write!(line, " {level_text:<5}")
    }
}

/// Writes the fields of one event in their order.
struct Fields<'a, 'writer> {
    format: LogFormat,
    line: &'a mut Writer<'writer>,
    result: fmt::Result,
}

impl Fields<'_, '_> {
    /// A number or a boolean: no quotes in any format.
    fn bare(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if self.result.is_ok() {
            self.result = match self.format {
                LogFormat::Json => write!(self.line, ",\"{name}\":{value}"),
                LogFormat::Text | LogFormat::Logfmt => write!(self.line, " {name}={value}"),
            };
        }
    }

    fn text(&mut self, name: &str, value: &str) {
        if self.result.is_ok() {
            self.result = match self.format {
                LogFormat::Text if name == "message" => {
                    self.line.write_char(' ').and_then(|()| escaped(self.line, value, ""))
                }
                LogFormat::Json => {
                    write!(self.line, ",\"{name}\":").and_then(|()| json(self.line, value))
                }
                LogFormat::Text | LogFormat::Logfmt => {
                    write!(self.line, " {name}=").and_then(|()| quoted_if_needed(self.line, value))
                }
            };
        }
    }
}

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // `%value` and the message arrive here as well: what they print is text to us.
        self.text(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field.name(), format_args!("{value}"));
        } else {
            self.text(field.name(), &value.to_string());
        }
    }
}

/// A value of `key=value`: quoted when a reader could not tell where it ends.
fn quoted_if_needed(line: &mut dyn Write, value: &str) -> fmt::Result {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(plain) {
        return line.write_str(value);
    }
    line.write_char('"')?;
    escaped(line, value, "\"\\")?;
    line.write_char('"')
}

/// `value` with control characters, and those in `special`, escaped.
fn escaped(line: &mut dyn Write, value: &str, special: &str) -> fmt::Result {
    for c in value.chars() {
        if c.is_control() {
            write!(line, "{}", c.escape_default())?;
        } else {
            if special.contains(c) {
                line.write_char('\\')?;
            }
            line.write_char(c)?;
        }
    }
    Ok(())
}

/// A JSON string.
fn json(line: &mut dyn Write, value: &str) -> fmt::Result {
    line.write_char('"')?;
    for c in value.chars() {
        match c {
            '"' => line.write_str("\\\"")?,
            '\\' => line.write_str("\\\\")?,
            '\n' => line.write_str("\\n")?,
            // Control characters are all below U+10000, so four digits hold them.
            c if c.is_control() => write!(line, "\\u{:04x}", u32::from(c))?,
            c => line.write_char(c)?,
        }
    }
    line.write_char('"')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What `events` writes in `format`, with the time cut out.
    fn lines(format: LogFormat, coloured: bool, events: impl FnOnce()) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Format::new(format, coloured))
            .with_writer(move || Sink(Arc::clone(&sink)));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, events);
        let written = written.lock().expect("no panic").clone();
        let text = String::from_utf8(written).expect("UTF-8");
        text.lines().map(without_time).collect()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn without_time(line: &str) -> String {
        let start = line.find("20").expect("a year");
        let length = "2026-11-20T10:00:00.123456Z".len();
        assert_eq!(&line[start + length - 1..start + length], "Z");
        format!("{}{}", &line[..start], &line[start + length..])
    }

    fn event() {
        tracing::warn!(
            target: "midge_test",
            client_id = "pump 7",
            shard = 3_u64,
            delta = -1_i64,
            ok = false,
            ratio = 0.5,
            never = f64::INFINITY,
            peer = %"[::1]:9",
            "malformed packet",
        );
    }

    #[test]
    fn each_format_writes_every_kind_of_field() {
        for (format, expected) in [
            (
                LogFormat::Text,
                r#" WARN  malformed packet client_id="pump 7" shard=3 delta=-1 ok=false ratio=0.5 never=inf peer=[::1]:9"#,
            ),
            (
                LogFormat::Json,
                r#"{"time":"","level":"warn","target":"midge_test","message":"malformed packet","client_id":"pump 7","shard":3,"delta":-1,"ok":false,"ratio":0.5,"never":"inf","peer":"[::1]:9"}"#,
            ),
            (
                LogFormat::Logfmt,
                r#"time= level=warn target=midge_test message="malformed packet" client_id="pump 7" shard=3 delta=-1 ok=false ratio=0.5 never=inf peer=[::1]:9"#,
            ),
        ] {
            assert_eq!(lines(format, false, event), [expected], "{format:?}");
        }
    }

    #[test]
    fn levels_are_coloured_on_demand() {
        let found = lines(LogFormat::Text, true, || tracing::error!("no"));
        assert_eq!(found, [" \u{1b}[31mERROR\u{1b}[0m no"]);
    }

    /// A client identifier is the peer's to choose: it must not end a line, start a field or reach
    /// the terminal.
    #[test]
    fn hostile_values_stay_inside_their_field() {
        let hostile = "a\nb\u{1b}[31m\u{85}\" \\c=d";
        let event = || tracing::info!(target: "t", id = hostile, "said {hostile}");
        for (format, expected) in [
            (
                LogFormat::Text,
                r#" INFO  said a\nb\u{1b}[31m\u{85}" \c=d id="a\nb\u{1b}[31m\u{85}\" \\c=d""#,
            ),
            (
                LogFormat::Logfmt,
                r#"time= level=info target=t message="said a\nb\u{1b}[31m\u{85}\" \\c=d" id="a\nb\u{1b}[31m\u{85}\" \\c=d""#,
            ),
        ] {
            assert_eq!(lines(format, false, event), [expected], "{format:?}");
        }
        let found = lines(LogFormat::Json, false, event);
        let [line] = &found[..] else { panic!("one line: {found:?}") };
        let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(object["id"], hostile);
        assert_eq!(object["message"], format!("said {hostile}"));
    }

    #[test]
    fn empty_values_are_visible() {
        let found = lines(LogFormat::Logfmt, false, || tracing::info!(target: "t", id = "", "x"));
        assert_eq!(found, [r#"time= level=info target=t message=x id="""#]);
    }
}
