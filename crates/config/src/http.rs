//! Settings of a service that is asked about clients over HTTP.

use std::path::PathBuf;

use serde::Deserialize;

use crate::jwt::check_url;
use crate::units::Period;
use crate::validate::Problems;

/// Who is asked, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpAuthenticator {
    /// Where questions are POSTed: `https://…`, or `http://` on a loopback address. Required.
    pub url: String,

    /// A file whose first line is the value of the `Authorization` header, such as `Bearer …`. Default `null`: no such header.
    #[serde(default)]
    pub authorization_file: Option<PathBuf>,

    /// How long an answer may take: 100 ms to 30 s, default 5 s.
    #[serde(default = "timeout")]
    pub timeout: Period,

    /// Questions under way at the same time: 1 to 1024, default 32. As many again wait four times over; further clients are told
    /// that the broker is busy (0x89).
    #[serde(default = "concurrency_max")]
    pub concurrency_max: u16,

    /// How long an answer is remembered for the same question, under a keyed hash: up to 1 h, default 10 s, 0 not at all.
    #[serde(default = "cache")]
    pub cache: Period,

    /// Failures in a row after which nothing is asked for `pause`: 1 to 1000, default 5. Clients are told 0x88 meanwhile.
    #[serde(default = "failures_max")]
    pub failures_max: u16,

    /// See `failures_max`: 1 s to 10 min, default 10 s.
    #[serde(default = "pause")]
    pub pause: Period,
}

fn timeout() -> Period {
    Period::from_seconds(5)
}

fn concurrency_max() -> u16 {
    32
}

fn cache() -> Period {
    Period::from_seconds(10)
}

fn failures_max() -> u16 {
    5
}

fn pause() -> Period {
    Period::from_seconds(10)
}

impl HttpAuthenticator {
    pub(crate) fn check(&self, problems: &mut Problems) {
        check_url("security.http.url", &self.url, problems);
        let (min, max) = (Period::from_milliseconds(100), Period::from_seconds(30));
        problems.range("security.http.timeout", self.timeout, min, max);
        problems.range("security.http.concurrency_max", self.concurrency_max, 1, 1024);
        let (zero, hour) = (Period::default(), Period::from_seconds(3600));
        problems.range("security.http.cache", self.cache, zero, hour);
        problems.range("security.http.failures_max", self.failures_max, 1, 1000);
        let (second, max) = (Period::from_seconds(1), Period::from_seconds(600));
        problems.range("security.http.pause", self.pause, second, max);
    }
}
