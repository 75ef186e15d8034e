//! Numbers in few columns.

use midge_metrics::{Field, Unit};

use crate::units;

/// A number of a field: how much there is, or how much there was.
pub(crate) fn value(field: &Field, value: u64) -> String {
    match field.unit {
        Unit::Count => units::count(value),
        Unit::Bytes => units::human(value),
        Unit::Nanoseconds => time(value),
    }
}

/// A number of a field, per second. Time per second is a share.
pub(crate) fn rate(field: &Field, count: u64, seconds: f64) -> String {
    let rate = count as f64 / seconds;
    match field.unit {
        Unit::Count if rate == 0.0 => "0/s".to_owned(),
        Unit::Count if rate < 10.0 => format!("{rate:.1}/s"),
        Unit::Count => format!("{}/s", units::count(rate.round() as u64)),
        Unit::Bytes => format!("{}/s", units::human(rate.round() as u64)),
        Unit::Nanoseconds => format!("{:.1} %", rate / 1e7),
    }
}

/// A duration with three digits: `830 ns`, `12.3 µs`, `4.56 ms`, `1.20 s`, `3605 s`.
pub(crate) fn time(ns: u64) -> String {
    let (number, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(number))
}

/// A number in at most five columns: `0`, `7.5`, `830`, `12.3k`, `4.56M`.
pub(crate) fn short(number: f64) -> String {
    match number {
        ..0.05 => "0".to_owned(),
        ..9.95 => format!("{number:.1}"),
        ..999.5 => format!("{number:.0}"),
        ..999_500.0 => format!("{}k", three_digits(number / 1e3)),
        ..999_500_000.0 => format!("{}M", three_digits(number / 1e6)),
        _ => format!("{}G", three_digits(number / 1e9)),
    }
}

fn three_digits(number: f64) -> String {
    match number {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// A client's words, without what a terminal would obey or what would turn the line around.
pub(crate) fn harmless(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (12_340, "12.3 µs"),
            (999_400, "999 µs"),
            (4_560_000, "4.56 ms"),
            (3_605_000_000_000, "3605 s"),
        ] {
            assert_eq!(time(ns), text);
        }
        for (number, text) in [
            (0.0, "0"),
            (0.1, "0.1"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (12_345.0, "12.3k"),
            (999_600.0, "1.00M"),
            (4.567e6, "4.57M"),
            (2e12, "2000G"),
        ] {
            assert_eq!(short(number), text);
        }
    }

    /// A topic must not move the cursor of whoever looks at it.
    #[test]
    fn a_client_does_not_command_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\n\u{202e}ü"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}ü");
    }
}
