//! The rows of the table of promises, one file each.

mod abuse;
mod exactly_once;
mod half_open;
mod hostile;
mod keep_alive;
mod leaks;
mod matching;
mod reload;
mod retained;
mod slow_reader;
mod subscriptions;
mod table_full;
mod take_over;

use crate::{Figure, Size};

pub use half_open::hold;

/// One row: against a broker with this many shards, at this size.
pub type Run = fn(shards: u16, size: Size) -> Vec<Figure>;

/// All rows that are run, by name.
pub const ROWS: &[(&str, Run)] = &[
    ("hostile", hostile::run),
    ("leaks", leaks::run),
    ("exactly-once", exactly_once::run),
    ("slow-reader", slow_reader::run),
    ("deaf-publisher", slow_reader::run_deaf_publisher),
    ("half-open", half_open::run),
    ("unproven", half_open::run_unproven),
    ("keep-alive", keep_alive::run),
    ("retained", retained::run),
    ("filters", subscriptions::run_filters),
    ("sessions", subscriptions::run_sessions),
    ("matching", matching::run),
    ("table-full", table_full::run),
    ("order", exactly_once::run_order),
    ("take-over", take_over::run),
    ("slow-opens", abuse::run_slow_opens),
    ("bad-logins", abuse::run_bad_logins),
    ("banned-logins", abuse::run_banned_logins),
    ("reload", reload::run),
];

/// Bytes in a mebibyte, for figures.
const MIB: f64 = 1024.0 * 1024.0;
