//! The tables of statements are true: what they call tested is tested, and the tests cite only
//! statements that exist.

use std::env;

use midge_conformance::statements;

/// With `MIDGE_CONFORMANCE_BLESS` set it writes the tests' names into the tables first.
#[test]
fn tables_and_tests_name_each_other() {
    let tests = statements::citations();
    if env::var_os("MIDGE_CONFORMANCE_BLESS").is_some() {
        statements::bless(&tests);
    }
    let table = statements::load();
    println!("{}", statements::counts(&table, tests.len()));
    let wrong = statements::check(&table, &tests);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
