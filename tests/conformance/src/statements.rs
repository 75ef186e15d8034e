//! The tables of statements (`statements/*.toml`) and the tests that cite them.
//!
//! A test cites a statement by carrying its tag in its doc comment: `[MQTT-3.3.1-2]` for 5.0,
//! `[MQTT-3.1.2-1 @3.1.1]` for the older one, `[MQTT-31-4.2 @3.1]` for what only 3.1 says (which has no
//! numbered statements; the numbers there are ours). The tables name the tests, the tests name the
//! statements, and [`check`] holds the two together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What is known about one statement.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The tests named prove it over a real socket.
    Tested,
    /// It asks nothing of this server: `why` says so.
    NotApplicable,
    /// It applies and nothing proves it yet: `why` says what is missing.
    NotTested,
}

/// One normative statement.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The tag as the specification numbers it, without the version.
    pub tag: String,
    /// What it asks, in our words.
    pub says: String,
    /// What is known about it.
    pub status: Status,
    /// The reason, unless it is tested.
    pub why: Option<String>,
    /// `module::function` of each test that proves it.
    #[serde(default)]
    pub tests: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    statement: Vec<Statement>,
}

/// The tables: file name, and what a citation adds to the tag.
const TABLES: [(&str, &str); 3] =
    [("v5.toml", ""), ("v311.toml", " @3.1.1"), ("v31.toml", " @3.1")];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("statements")
}

/// Statements by citation, of all tables.
///
/// # Panics
///
/// If a table cannot be read or names a statement twice.
#[must_use]
pub fn load() -> BTreeMap<String, Statement> {
    let mut statements = BTreeMap::new();
    for (file, suffix) in TABLES {
        let text = fs::read_to_string(directory().join(file)).expect("the table is there");
        let table: Table = toml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        for statement in table.statement {
            let citation = format!("{}{suffix}", statement.tag);
            let previous = statements.insert(citation, statement);
            assert!(previous.is_none(), "{file} has {previous:?} twice");
        }
    }
    statements
}

/// What each test of the suite cites, by `module::function`, read from its source.
///
/// # Panics
///
/// If the sources cannot be read.
#[must_use]
pub fn citations() -> BTreeMap<String, BTreeSet<String>> {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite");
    let mut tests = BTreeMap::new();
    for entry in fs::read_dir(suite).expect("the suite is there") {
        let file = entry.expect("the suite can be listed").path();
        let module = file.file_stem().expect("a file").to_string_lossy().into_owned();
        if ["main", "table"].contains(&&*module) {
            continue;
        }
        let source = fs::read_to_string(&file).expect("a source file");
        read_tests(&module, &source, &mut tests);
    }
    tests
}

fn read_tests(module: &str, source: &str, tests: &mut BTreeMap<String, BTreeSet<String>>) {
    let (mut cited, mut is_test) = (BTreeSet::new(), false);
    for line in source.lines() {
        if let Some(doc) = line.strip_prefix("///") {
            cited.extend(tags(doc));
        } else if line == "#[test]" {
            is_test = true;
        } else if !line.starts_with("#[") {
            if let (true, Some(rest)) = (is_test, line.strip_prefix("fn ")) {
                let function = rest.split('(').next().unwrap_or_default();
                tests.insert(format!("{module}::{function}"), std::mem::take(&mut cited));
            }
            (cited, is_test) = (BTreeSet::new(), false);
        }
    }
}

/// `[MQTT-…]` in a line of documentation.
fn tags(doc: &str) -> impl Iterator<Item = String> {
    doc.split('[').skip(1).filter_map(|rest| {
        let (tag, _) = rest.split_once(']')?;
        tag.starts_with("MQTT-").then(|| tag.to_owned())
    })
}

/// Everything that is wrong between the tables and the tests, one line each.
#[must_use]
pub fn check(
    statements: &BTreeMap<String, Statement>,
    tests: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (citation, statement) in statements {
        let named: BTreeSet<_> = statement.tests.iter().cloned().collect();
        let citing: BTreeSet<_> = tests
            .iter()
            .filter(|(_, cited)| cited.contains(citation))
            .map(|(test, _)| test.clone())
            .collect();
        let tested = statement.status == Status::Tested;
        if tested && named.is_empty() {
            wrong.push(format!("{citation}: tested, but by no test"));
        }
        if tested == statement.why.is_some() {
            wrong.push(format!("{citation}: a reason is for what is not tested"));
        }
        if statement.says.trim().is_empty() {
            wrong.push(format!("{citation}: says nothing"));
        }
        for test in named.difference(&citing) {
            wrong.push(format!("{citation}: {test} does not exist or does not cite it"));
        }
        for test in citing.difference(&named) {
            wrong.push(format!("{citation}: cited by {test}, which the table does not name"));
        }
    }
    for (test, cited) in tests {
        if cited.is_empty() {
            wrong.push(format!("{test}: cites no statement"));
        }
        for citation in cited.iter().filter(|citation| !statements.contains_key(*citation)) {
            wrong.push(format!("{test}: there is no [{citation}]"));
        }
    }
    wrong
}

/// How many statements of each table are in each status.
///
/// # Panics
///
/// As [`load`].
#[must_use]
pub fn counts(statements: &BTreeMap<String, Statement>, tests: usize) -> String {
    let mut out = String::new();
    for (file, suffix) in TABLES {
        let of_table = |citation: &str| match citation.split_once(' ') {
            Some((_, version)) => suffix.ends_with(version) && !suffix.is_empty(),
            None => suffix.is_empty(),
        };
        let count = |status| {
            let rows = statements.iter().filter(|(citation, _)| of_table(citation));
            rows.filter(|(_, statement)| statement.status == status).count()
        };
        let (tested, not_applicable, not_tested) =
            (count(Status::Tested), count(Status::NotApplicable), count(Status::NotTested));
        writeln!(
            out,
            "{file:<10} {:>4} statements: {tested} tested, {not_applicable} not applicable, {not_tested} not tested",
            tested + not_applicable + not_tested,
        )
        .expect("a string takes all");
    }
    write!(out, "{tests} tests cite them").expect("a string takes all");
    out
}

/// Writes the names of the citing tests into the tables, and `tested` where there are any.
///
/// # Panics
///
/// If a table cannot be read or written.
pub fn bless(tests: &BTreeMap<String, BTreeSet<String>>) {
    for (file, suffix) in TABLES {
        let path = directory().join(file);
        let text = fs::read_to_string(&path).expect("the table is there");
        let (head, rows) = text.split_once("[[statement]]").unwrap_or((&text, ""));
        let mut out = head.to_owned();
        let table: Table = toml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let rows = if rows.is_empty() { Vec::new() } else { table.statement };
        for (index, row) in rows.iter().enumerate() {
            let citation = format!("{}{suffix}", row.tag);
            let citing = tests.iter().filter(|(_, cited)| cited.contains(&citation));
            let names: Vec<_> = citing.map(|(test, _)| format!("{test:?}")).collect();
            let gap = if index == 0 { "" } else { "\n" };
            write!(out, "{gap}[[statement]]\ntag = {:?}\nsays = {:?}\n", row.tag, row.says)
                .expect("a string takes all");
            match (names.as_slice(), &row.why, row.status) {
                ([], Some(why), Status::NotApplicable) => {
                    write!(out, "status = \"not-applicable\"\nwhy = {why:?}\n")
                }
                ([], why, _) => {
                    let why = why.as_deref().unwrap_or("no test cites it");
                    write!(out, "status = \"not-tested\"\nwhy = {why:?}\n")
                }
                ([one], ..) => write!(out, "status = \"tested\"\ntests = [{one}]\n"),
                (several, ..) => {
                    write!(
                        out,
                        "status = \"tested\"\ntests = [\n    {},\n]\n",
                        several.join(",\n    ")
                    )
                }
            }
            .expect("a string takes all");
        }
        fs::write(&path, out).expect("the table can be written");
    }
}
