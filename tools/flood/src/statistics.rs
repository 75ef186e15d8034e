//! What a run counts, and how long things took.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;

/// The longest duration told apart from longer ones: a minute, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Three digits: a percentile is right to a thousandth.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Durations in nanoseconds.
#[derive(Debug)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
    /// Equal durations come in runs, since one receive has one time and one send had one: recorded together.
    run_ns: u64,
    run_count: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("bounds are constants that hdrhistogram accepts");
        Self { histogram, run_ns: 0, run_count: 0 }
    }

    /// Records one duration; a longer one than a minute counts as a minute.
    #[inline]
    pub(crate) fn record(&mut self, duration_ns: u64) {
        if duration_ns != self.run_ns {
            self.settle();
            self.run_ns = duration_ns;
        }
        self.run_count += 1;
    }

    #[inline]
    fn settle(&mut self) {
        if self.run_count > 0 {
            self.histogram.saturating_record_n(self.run_ns, self.run_count);
            self.run_count = 0;
        }
    }

    /// Forgets everything.
    pub(crate) fn reset(&mut self) {
        self.histogram.reset();
        self.run_count = 0;
    }

    /// The duration that `quantile` (0 to 1) of all are not above; 0 without any.
    pub(crate) fn at(&mut self, quantile: f64) -> u64 {
        self.settle();
        self.histogram.value_at_quantile(quantile)
    }

    /// The longest one; 0 without any.
    pub(crate) fn max(&mut self) -> u64 {
        self.settle();
        self.histogram.max()
    }

    /// Takes the durations of another one in.
    pub(crate) fn merge(&mut self, other: &mut Self) {
        self.settle();
        other.settle();
        self.histogram.add(&other.histogram).expect("all have the same bounds");
    }

    /// How many were recorded.
    pub(crate) fn count(&mut self) -> u64 {
        self.settle();
        self.histogram.len()
    }
}

/// Why a client is not connected, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// TCP did not connect: the error number.
    Connect(i32),
    /// A connected socket failed: the error number.
    Socket(i32),
    /// CONNACK with this code.
    Refused(u8),
    /// SUBACK with this code.
    SubscriptionRefused(u8),
    /// The broker closed the connection.
    ClosedByBroker,
    /// DISCONNECT from the broker with this reason.
    Disconnected(u8),
    /// The handshake took longer than `--connect-timeout`.
    HandshakeTimeout,
    /// A ping was not answered until the next one was due.
    PingTimeout,
    /// The broker's bytes are not MQTT.
    Malformed,
    /// The broker's certificate is not trusted, or not for this host.
    TlsCertificate,
    /// The broker ended TLS with this alert.
    TlsAlert(u8),
    /// The broker's bytes are not TLS, or have nothing in common with this side's.
    Tls,
    /// The request for a WebSocket was answered with this status; 0: with no HTTP.
    Http(u16),
    /// The broker's bytes are no WebSocket of MQTT.
    WebSocket,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(errno) => {
                write!(out, "connect: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Socket(errno) => {
                write!(out, "socket: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Refused(code) => write!(out, "CONNACK 0x{code:02X}"),
            Self::SubscriptionRefused(code) => write!(out, "SUBACK 0x{code:02X}"),
            Self::ClosedByBroker => write!(out, "closed by the broker"),
            Self::Disconnected(code) => write!(out, "DISCONNECT 0x{code:02X} from the broker"),
            Self::HandshakeTimeout => write!(out, "handshake timed out"),
            Self::PingTimeout => write!(out, "ping not answered"),
            Self::Malformed => write!(out, "not MQTT"),
            Self::TlsCertificate => {
                write!(
                    out,
                    "certificate not trusted, or not for this host (see --cafile, --insecure)"
                )
            }
            Self::TlsAlert(alert) => write!(out, "TLS alert {alert} from the broker"),
            Self::Tls => write!(out, "not TLS, or nothing in common"),
            Self::Http(status) => write!(out, "no WebSocket: HTTP status {status}"),
            Self::WebSocket => write!(out, "not a WebSocket"),
        }
    }
}

/// Plain counters of a whole run.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Handshakes that succeeded, subscription included.
    pub connected: u64,
    /// Clients that could not connect, or lost their connection before the end.
    pub failed: u64,
    /// The same by reason.
    pub failures: BTreeMap<Failure, u64>,
    /// Messages that nobody of this run sent there.
    pub foreign: u64,
    /// Publishes that the broker answered with an error code.
    pub publish_refused: u64,
    /// Times that a window was opened again because nothing had arrived for a second.
    pub window_resets: u64,
    /// Keep-alive pings sent.
    pub pings_sent: u64,
    /// Keep-alive pings answered.
    pub pings_answered: u64,
    /// Finished connect-subscribe-disconnect rounds.
    pub cycles: u64,
    /// Refused connections, by the CONNACK's code, where those are cycles too.
    pub refusals: BTreeMap<u8, u64>,
}

/// Plain counters of one group over a whole run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GroupCounters {
    /// Messages handed to the kernel or about to be.
    pub sent: u64,
    /// Messages that arrived for the first time, over all subscribers.
    pub delivered: u64,
    /// Messages that arrived again.
    pub duplicated: u64,
    /// Messages that arrived behind a later one of their publisher.
    pub reordered: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_recorded_whole() {
        let mut latencies = Latencies::new();
        assert_eq!((latencies.at(0.5), latencies.max(), latencies.count()), (0, 0, 0));
        for duration_ns in [0, 100, 100, 100, 2_000] {
            latencies.record(duration_ns);
        }
        assert_eq!(latencies.count(), 5);
        assert_eq!(latencies.at(0.5), 100);
        assert!(latencies.max() >= 2_000 && latencies.max() < 2_010);
        latencies.record(u64::MAX);
        assert!(latencies.max() >= LATENCY_NS_MAX);
        let mut all = Latencies::new();
        all.record(7);
        all.merge(&mut latencies);
        assert_eq!(all.count(), 7);
        latencies.reset();
        assert_eq!(latencies.count(), 0);
    }
}
