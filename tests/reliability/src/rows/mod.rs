//! The rows of the table of promises, one file each.

mod half_open;
mod retained;
mod slow_reader;
mod table_full;
mod take_over;

use crate::{Figure, Size};

pub use half_open::hold;

/// One row: against a broker with this many shards, at this size.
pub type Run = fn(shards: u16, size: Size) -> Vec<Figure>;

/// All rows that are run, by name.
pub const ROWS: &[(&str, Run)] = &[
    ("slow-reader", slow_reader::run),
    ("deaf-publisher", slow_reader::run_deaf_publisher),
    ("half-open", half_open::run),
    ("unproven", half_open::run_unproven),
    ("retained", retained::run),
    ("table-full", table_full::run),
    ("take-over", take_over::run),
];

/// Bytes in a mebibyte, for figures.
const MIB: f64 = 1024.0 * 1024.0;
