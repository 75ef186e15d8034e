//! What a person sees while a run goes on: one line that is rewritten on a terminal, a plain line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::mem;

use crate::scenario::Mode;
use crate::swarm::{Phase, Swarm};

/// A terminal's line is rewritten this often.
const TERMINAL_PERIOD_NS: u64 = 250_000_000;

/// Plain lines come this often.
const PLAIN_PERIOD_NS: u64 = 5_000_000_000;

/// Cells of the bar.
const BAR_WIDTH: usize = 24;

/// Shows progress on standard error.
pub(crate) struct Progress {
    shown: bool,
    terminal: bool,
    next_ns: u64,
    last_ns: u64,
    last_work: u64,
    /// A new phase is shown at once.
    phase: Option<mem::Discriminant<Phase>>,
}

impl Progress {
    /// Shows nothing at all unless `shown`.
    pub(crate) fn new(shown: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { shown, terminal, next_ns: 0, last_ns: 0, last_work: 0, phase: None }
    }

    /// To be called often; writes seldom.
    pub(crate) fn tick(&mut self, swarm: &Swarm, now_ns: u64) {
        let phase = mem::discriminant(&swarm.phase());
        if !self.shown || now_ns < self.next_ns && self.phase == Some(phase) {
            return;
        }
        self.phase = Some(phase);
        let work = match swarm.plan().mode {
            Mode::Flow | Mode::Retained => swarm.delivered_count(),
            Mode::Connect | Mode::Cycle | Mode::Storm { .. } => swarm.counters.connected,
        };
        let elapsed = now_ns.saturating_sub(self.last_ns).max(1) as f64 / 1e9;
        let rate = work.saturating_sub(self.last_work) as f64 / elapsed;
        let line = line(swarm, rate, now_ns);
        // A closed standard error is no reason to stop a measurement.
        let _ = if self.terminal {
            write!(io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(io::stderr(), "{line}")
        };
        let period = if self.terminal { TERMINAL_PERIOD_NS } else { PLAIN_PERIOD_NS };
        (self.next_ns, self.last_ns, self.last_work) = (now_ns + period, now_ns, work);
    }

    /// Leaves the line to the report.
    pub(crate) fn finish(&mut self) {
        if self.shown && self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(swarm: &Swarm, rate: f64, now_ns: u64) -> String {
    let (live, wanted) = (swarm.live(), swarm.plan().client_count());
    let counters = &swarm.counters;
    let left = |until: u64| until.saturating_sub(now_ns) as f64 / 1e9;
    let work = match swarm.plan().mode {
        Mode::Flow | Mode::Retained => {
            format!("{} delivered, {rate:.0}/s", swarm.delivered_count())
        }
        Mode::Connect | Mode::Cycle | Mode::Storm { .. } => format!("{rate:.0} connections/s"),
    };
    match swarm.phase() {
        Phase::Opening => format!(
            "connecting [{}] {live}/{wanted}, {rate:.0}/s, {} failed",
            bar(f64::from(live) / f64::from(wanted)),
            counters.failed
        ),
        Phase::Storing(_) => "storing retained messages".into(),
        Phase::Warming(until) => format!("warming up, {:.1} s left: {work}", left(until)),
        Phase::Measuring(until) => format!("measuring, {:.1} s left: {work}", left(until)),
        Phase::Holding(until) => format!(
            "holding {live} clients, {:.0} s left: {} pings sent, {} answered, {} failed",
            left(until),
            counters.pings_sent,
            counters.pings_answered,
            counters.failed
        ),
        Phase::Storming { left, .. } => {
            format!("storm: {live}/{wanted} back, {rate:.0}/s, {left} waves to come")
        }
        Phase::Draining(_) => "waiting for what is under way".into(),
        Phase::Leaving(_) | Phase::Finished => format!("disconnecting, {live} left"),
    }
}

fn bar(share: f64) -> String {
    let filled = (share.clamp(0.0, 1.0) * BAR_WIDTH as f64) as usize;
    format!("{}{}", "#".repeat(filled), ".".repeat(BAR_WIDTH - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_keep_their_width() {
        for share in [-1.0, 0.0, 0.5, 1.0, 2.0, f64::NAN] {
            assert_eq!(bar(share).len(), BAR_WIDTH, "{share}");
        }
        assert_eq!(bar(0.5).matches('#').count(), BAR_WIDTH / 2);
    }
}
