//! What all lists have in common: how much of them, as a table or as JSON.

use std::io::{self, BufWriter, StdoutLock, Write};

use clap::Args;
use serde::Serialize;

use crate::{control::protocol::End, failure::Failure};

use super::table::{Column, Table};

/// Rows of a table, unless more are asked for.
const TABLE_ROWS: u64 = 100;

/// Options of every list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct ListArguments {
    /// Rows at most; 0 for all [default: 100 in a table, all with --json]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,

    /// Go on where an earlier list ended: the text that it gave.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,

    /// One JSON object a line; if more rows follow, a last one with the cursor: {"next":"…"}.
    #[arg(long)]
    pub(crate) json: bool,
}

impl ListArguments {
    /// What to ask for; 0 is all.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.unwrap_or(if self.json { 0 } else { TABLE_ROWS })
    }
}

/// Writes rows as they come.
pub(crate) struct Listing<const N: usize> {
    arguments: ListArguments,
    noun: &'static str,
    table: Table<N>,
    out: BufWriter<StdoutLock<'static>>,
}

impl<const N: usize> Listing<N> {
    /// `noun` is what a list without rows has none of.
    pub(crate) fn new(arguments: &ListArguments, noun: &'static str, columns: [Column; N]) -> Self {
        Self {
            arguments: arguments.clone(),
            noun,
            table: Table::new(columns),
            out: BufWriter::new(io::stdout().lock()),
        }
    }

    /// # Errors
    /// When nobody reads standard output any more.
    pub(crate) fn row<T: Serialize>(
        &mut self,
        row: &T,
        cells: impl FnOnce(&T) -> [String; N],
    ) -> Result<(), Failure> {
        if self.arguments.json {
            return json_line(&mut self.out, row);
        }
        self.table.row(cells(row), &mut self.out).map_err(|error| unwritten(&error))
    }

    /// # Errors
    /// When nobody reads standard output any more.
    pub(crate) fn end(mut self, end: &End) -> Result<(), Failure> {
        if self.arguments.json {
            if end.next.is_some() {
                #[derive(Serialize)]
                struct Next<'a> {
                    next: Option<&'a str>,
                }
                json_line(&mut self.out, &Next { next: end.next.as_deref() })?;
            }
            return self.out.flush().map_err(|error| unwritten(&error));
        }
        self.table.end(&mut self.out).and_then(|()| self.out.flush()).map_err(|e| unwritten(&e))?;
        match &end.next {
            Some(next) => {
                eprintln!("there may be more: go on with --after '{next}', or --limit 0 for all");
            }
            None if end.rows == 0 => eprintln!("no {}", self.noun),
            None => {}
        }
        Ok(())
    }
}

/// One JSON object and the end of its line.
pub(crate) fn json_line<T: Serialize>(out: &mut impl Write, value: &T) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value)
        .map_err(io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .map_err(|error| unwritten(&error))
}

/// Whoever has closed standard output, as `head` does, knows why.
pub(crate) fn unwritten(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Told,
        _ => Failure::Other(format!("cannot write the answer: {error}")),
    }
}
