//! Every row at a modest size, with one shard and with three.

use midge_reliability::rows::ROWS;
use midge_reliability::{Held, Size};

#[track_caller]
fn check(row: &str, shards: u16) {
    let (_, run) = ROWS.iter().find(|(name, _)| *name == row).expect("a row of this name");
    let figures = run(shards, Size::Modest);
    let broken: Vec<_> =
        figures.iter().filter(|figure| figure.held_roughly() == Held::No).collect();
    assert!(broken.is_empty(), "{row} with {shards} shards: {broken:#?}");
}

/// One test for each row and number of shards, so that they run side by side and fail by name.
macro_rules! rows {
    ($($test:ident: $row:literal,)*) => {
        $(mod $test {
            #[test]
            fn one_shard() {
                super::check($row, 1);
            }

            #[test]
            fn three_shards() {
                super::check($row, 3);
            }
        })*

        #[test]
        fn every_row_has_its_test() {
            let tested = [$($row),*];
            for (name, _) in ROWS {
                assert!(tested.contains(name), "{name} has no test");
            }
        }
    };
}

rows! {
    hostile: "hostile",
    leaks: "leaks",
    exactly_once: "exactly-once",
    slow_reader: "slow-reader",
    deaf_publisher: "deaf-publisher",
    half_open: "half-open",
    unproven: "unproven",
    keep_alive: "keep-alive",
    retained: "retained",
    filters: "filters",
    sessions: "sessions",
    matching: "matching",
    table_full: "table-full",
    order: "order",
    take_over: "take-over",
    slow_opens: "slow-opens",
    bad_logins: "bad-logins",
    banned_logins: "banned-logins",
    reload: "reload",
}
