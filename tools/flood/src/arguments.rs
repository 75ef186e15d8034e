//! The command line: raw values as clap reads them, then resolved to what a run uses.
//!
//! Flag names follow the MQTT bench tools that people know (`-c -R -t -q -s -k -I`). Everything that can be checked is
//! checked here, before the first socket.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::scenario::{Mode, Plan};
use crate::wire::{self, Protocol};

/// Opens, holds and drives very many MQTT clients against one broker, and says what arrived.
#[derive(Debug, Parser)]
#[command(name = "midge-flood", version, about, disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Print help.
    #[arg(long, action = ArgAction::Help, global = true)]
    help: Option<bool>,
    #[command(subcommand)]
    mode: ModeArguments,
}

#[derive(Debug, Subcommand)]
enum ModeArguments {
    /// Opens COUNT idle clients, one subscription each, and holds them, answering and sending keep-alive.
    Connect(Common),
    /// COUNT publishers, each with one subscriber of its own.
    Pairs(Common),
    /// One publisher, COUNT subscribers of its topic.
    FanOut(Common),
    /// COUNT publishers, one subscriber of all their topics.
    FanIn(Common),
    /// Connect, subscribe, disconnect, again and again, COUNT clients at a time.
    Cycle(Common),
    /// Pairs at a fixed total rate: latency counts from the intended send time, so a stall counts whole.
    Paced(Common),
    /// COUNT publishers, MEMBERS subscribers in one shared subscription.
    Shared(Common),
}

#[derive(Args, Debug)]
struct Common {
    /// The broker: a name or an address.
    #[arg(long, short = 'h', alias = "hostname", default_value = "127.0.0.1")]
    host: String,
    /// The broker's TCP port.
    #[arg(long, short, default_value_t = 1883)]
    port: u16,
    /// How many: clients (connect), pairs, subscribers (fan-out), publishers (fan-in), clients at a time (cycle).
    #[arg(long, short, default_value_t = 100)]
    count: u32,
    /// Per second, in total: connections (connect, cycle) or messages (the others). Without it connects are as fast
    /// as the broker accepts, and messages follow the window of --inflight.
    #[arg(long, short = 'R')]
    rate: Option<f64>,
    /// Milliseconds between two messages of one publisher (or, in connect, between two connections): another way to
    /// say --rate.
    #[arg(long, short = 'I', conflicts_with = "rate")]
    interval: Option<f64>,
    /// Topics begin with this; the number of the publisher or client follows after a slash.
    #[arg(long, short, default_value = "flood")]
    topic: String,
    /// 0, 1 or 2, of publishers and of subscriptions.
    #[arg(long, short, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Payload bytes, at least 16: publisher, sequence and time stand in front.
    #[arg(long, short, default_value_t = 64)]
    size: usize,
    /// Seconds; 0 turns keep-alive off. A quiet client sends its ping after three quarters of it.
    #[arg(long, short, default_value_t = 60)]
    keepalive: u16,
    /// Messages that one publisher has sent and its subscribers have not yet all seen, at most.
    #[arg(long, short = 'F', default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    inflight: u32,
    /// Seconds measured, after the warm-up.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds of the same work before the measured window.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Seconds to hold the connections once all are up (connect).
    #[arg(long, default_value_t = 0.0)]
    hold: f64,
    /// MQTT version: 3 (3.1), 4 (3.1.1) or 5. Names work too: 3.1, 3.1.1, 5.0.
    #[arg(long, short = 'V', default_value = "4", value_parser = parse_protocol)]
    protocol: Protocol,
    /// Source addresses, separated by commas; each has about 28,000 ports. Without it, a broker on a loopback address
    /// is connected to from as many addresses of 127.0.0.0/8 as are needed.
    #[arg(long, alias = "ifaddr", value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// Subscriptions of each client (connect, cycle): 0 or 1.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    subscriptions: u8,
    /// Members of the shared subscription (shared).
    #[arg(long, default_value_t = 4)]
    members: u32,
    /// Handshakes under way at one time, at most. Some brokers queue no more than 100 for accepting, and a client that
    /// finds the queue full tries again after a second.
    #[arg(long, default_value_t = 64)]
    handshakes: u32,
    /// Seconds that one connection and its handshake may take.
    #[arg(long, default_value_t = 20.0)]
    connect_timeout: f64,
    /// Connect with this user name.
    #[arg(long, short)]
    username: Option<String>,
    /// And this password.
    #[arg(long, short = 'P', requires = "username")]
    password: Option<String>,
    /// Connect without clean session (3.x) or clean start (5.0).
    #[arg(long)]
    persistent: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Stay on this core.
    #[arg(long, value_name = "CORE")]
    pin: Option<usize>,
    /// Poll instead of sleeping while messages are under way: steadier, and a whole core.
    #[arg(long)]
    spin: bool,
    /// The broker's process on this machine: report its CPU per message and memory per connection.
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
}

impl Arguments {
    /// From what was typed to what a run uses.
    ///
    /// # Errors
    /// One sentence that names the flag and what it may be.
    pub(crate) fn resolve(self) -> Result<Plan, String> {
        let (mode, common) = match self.mode {
            ModeArguments::Connect(common) => (Mode::Connect, common),
            ModeArguments::Pairs(common) => (Mode::Pairs, common),
            ModeArguments::FanOut(common) => (Mode::FanOut, common),
            ModeArguments::FanIn(common) => (Mode::FanIn, common),
            ModeArguments::Cycle(common) => (Mode::Cycle, common),
            ModeArguments::Paced(common) => (Mode::Pairs, common.paced()),
            ModeArguments::Shared(common) => (Mode::Shared { members: common.members }, common),
        };
        common.resolve(mode)
    }
}

/// What `paced` does without `--rate`, messages per second in total.
const PACED_RATE: f64 = 20_000.0;

/// The longest payload, bytes: with its topic it stays inside MQTT's largest packet.
const PAYLOAD_SIZE_MAX: usize = 200 << 20;

impl Common {
    fn paced(mut self) -> Self {
        if self.interval.is_none() && self.rate.is_none() {
            self.rate = Some(PACED_RATE);
        }
        self.spin = true;
        self
    }

    fn resolve(self, mode: Mode) -> Result<Plan, String> {
        if self.count == 0 {
            return Err("--count: at least 1".into());
        }
        if !(wire::STAMP_SIZE..=PAYLOAD_SIZE_MAX).contains(&self.size) {
            return Err(format!(
                "--size {}: from {} to {PAYLOAD_SIZE_MAX} bytes; publisher, sequence and time take the first {}",
                self.size,
                wire::STAMP_SIZE,
                wire::STAMP_SIZE
            ));
        }
        if matches!(mode, Mode::Shared { members: 0 }) {
            return Err("--members: at least 1".into());
        }
        if self.topic.is_empty() || self.topic.len() > 1000 || self.topic.contains(['+', '#', '\0'])
        {
            return Err("--topic: 1 to 1,000 bytes without + and #".into());
        }
        let (flag, rate) = match (self.rate, self.interval) {
            (Some(rate), _) => ("--rate", Some(rate)),
            (None, Some(interval)) => {
                let senders =
                    if mode.has_publishers() { mode.publisher_count(self.count) } else { 1 };
                ("--interval", Some(1000.0 * f64::from(senders) / interval))
            }
            (None, None) => ("--rate", None),
        };
        if let Some(rate) = rate
            && !(rate > 0.0 && rate <= 1e9)
        {
            return Err(format!("{flag}: above 0, and at most 1,000,000,000 a second"));
        }
        let remote = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| format!("--host {}: {error}", self.host))?
            .next()
            .ok_or_else(|| format!("--host {}: the name has no address", self.host))?;
        check_sources(remote, &self.source)?;
        Ok(Plan {
            mode,
            remote,
            count: self.count,
            rate,
            topic: self.topic,
            qos: self.qos,
            payload_size: self.size,
            keep_alive_seconds: self.keepalive,
            inflight: self.inflight,
            duration: seconds("--duration", self.duration)?,
            warmup: seconds("--warmup", self.warmup)?,
            hold: seconds("--hold", self.hold)?,
            protocol: self.protocol,
            sources: self.source,
            subscribe: self.subscriptions > 0,
            handshakes_max: self.handshakes.max(1),
            connect_timeout: seconds("--connect-timeout", self.connect_timeout)?,
            username: self.username,
            password: self.password,
            clean_start: !self.persistent,
            json: self.json,
            core: self.pin,
            spin: self.spin,
            broker_pid: self.broker_pid,
        })
    }
}

fn check_sources(remote: SocketAddr, sources: &[IpAddr]) -> Result<(), String> {
    match sources.iter().find(|source| source.is_ipv4() != remote.is_ipv4()) {
        Some(source) => {
            Err(format!("--source {source}: not of the family of the broker's {remote}"))
        }
        None => Ok(()),
    }
}

/// A day: every run ends.
const SECONDS_MAX: f64 = 86_400.0;

fn seconds(flag: &str, value: f64) -> Result<Duration, String> {
    if (0.0..=SECONDS_MAX).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(format!("{flag} {value}: from 0 to {SECONDS_MAX} seconds"))
    }
}

fn parse_protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "3" | "31" | "3.1" => Ok(Protocol::V31),
        "4" | "311" | "3.1.1" => Ok(Protocol::V311),
        "5" | "5.0" => Ok(Protocol::V5),
        _ => Err("3, 4 or 5".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(line: &str) -> Result<Plan, String> {
        let words = ["midge-flood"].into_iter().chain(line.split(' '));
        Arguments::try_parse_from(words).map_err(|error| error.to_string())?.resolve()
    }

    #[test]
    fn flags_that_people_know() {
        let plan = resolve("pairs -c 200 -t a/b -q 2 -s 32 -k 9 -I 10 -V 5").expect("valid");
        assert_eq!((plan.mode, plan.count, plan.qos), (Mode::Pairs, 200, 2));
        assert_eq!((plan.payload_size, plan.keep_alive_seconds), (32, 9));
        assert_eq!((plan.topic.as_str(), plan.protocol), ("a/b", Protocol::V5));
        assert_eq!(plan.rate, Some(20_000.0));
        let plan = resolve("connect -c 1000000 -R 5000 --hold 600").expect("valid");
        assert_eq!((plan.rate, plan.hold), (Some(5000.0), Duration::from_secs(600)));
        let plan = resolve("paced").expect("valid");
        assert_eq!((plan.mode, plan.rate, plan.spin), (Mode::Pairs, Some(PACED_RATE), true));
    }

    #[test]
    fn mistakes_name_the_flag() {
        let cases = [
            ("pairs -s 15", "--size"),
            ("pairs -c 0", "--count"),
            ("pairs -R 0", "--rate"),
            ("pairs -R NaN", "--rate"),
            ("pairs -I 0", "--interval"),
            ("pairs --duration 1e9", "--duration"),
            ("pairs --warmup NaN", "--warmup"),
            ("pairs --source ::1", "--source"),
            ("pairs -t a/#", "--topic"),
            ("pairs -q 3", "--qos"),
            ("pairs -V 6", "--protocol"),
            ("shared --members 0", "--members"),
            ("pairs --inflight 0", "--inflight"),
        ];
        for (line, flag) in cases {
            let error = resolve(line).expect_err(line);
            assert!(error.contains(flag), "{line}: {error}");
        }
    }
}
