//! The command line: raw values as clap reads them, then resolved to what a run uses.
//!
//! Flag names follow the MQTT bench tools that people know (`-c -R -t -q -s -k -I`). Everything that can be checked is
//! checked here, before the first socket.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::scenario::{Group, Mode, Plan, Shape};
use crate::scenario_file;
use crate::transport::{Request, TlsFiles, TlsTransport, Transport};
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
    /// COUNT publishers store one retained message each, then MEMBERS subscribers ask for all of them at once.
    Retained(Common),
    /// COUNT idle clients that are all cut off at once and come back, WAVES times.
    Storm(Common),
    /// Several groups at once, from a YAML file: bench/scenarios has examples.
    Mixed {
        /// The scenario file. What it leaves out is taken from the flags.
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
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
    /// Publish with the retain flag.
    #[arg(long)]
    retain: bool,
    /// Payload bytes, at least 16: publisher, sequence and time stand in front.
    #[arg(long, short, default_value_t = 64)]
    size: usize,
    /// Seconds; 0 turns keep-alive off. A quiet client sends its ping after three quarters of it.
    #[arg(long, short, default_value_t = 60)]
    keepalive: u16,
    /// Messages that one publisher has sent and its subscribers have not yet all seen, at most.
    #[arg(long, short = 'F', default_value_t = 16)]
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
    /// Speak TLS.
    #[arg(long)]
    tls: bool,
    /// Authorities of the broker's certificate, PEM. Without it: those of the system.
    #[arg(long, value_name = "FILE", requires = "tls")]
    cafile: Option<PathBuf>,
    /// Take any certificate of the broker.
    #[arg(long, requires = "tls", conflicts_with = "cafile")]
    insecure: bool,
    /// The clients' certificate, PEM, those of the authorities in between behind it.
    #[arg(long, value_name = "FILE", requires_all = ["tls", "key"])]
    cert: Option<PathBuf>,
    /// And its key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// No resumption: each handshake of TLS is a full one.
    #[arg(long, requires = "tls")]
    full_handshakes: bool,
    /// TLS 1.2 instead of 1.3.
    #[arg(long, requires = "tls")]
    tls12: bool,
    /// Offer no post-quantum key exchange (X25519MLKEM768), as clients with older libraries.
    #[arg(long, requires = "tls")]
    classical: bool,
    /// Speak MQTT over WebSocket; with --tls over WebSocket over TLS.
    #[arg(long)]
    ws: bool,
    /// The path that the WebSocket is asked for.
    #[arg(long, default_value = "/mqtt", requires = "ws")]
    path: String,
    /// Source addresses, separated by commas; each has about 28,000 ports. Without it, a broker on a loopback address
    /// is connected to from as many addresses of 127.0.0.0/8 as are needed.
    #[arg(long, alias = "ifaddr", value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// Subscriptions of each client (connect, cycle): 0 or 1.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    subscriptions: u8,
    /// Members of the shared subscription (shared), subscribers (retained).
    #[arg(long, default_value_t = 4)]
    members: u32,
    /// How often all clients are cut off (storm).
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    waves: u32,
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
    /// A connection that is refused is a cycle like any other (cycle): how a broker bears bad logins.
    #[arg(long)]
    refusals: bool,
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
        let (name, shape, common) = match self.mode {
            ModeArguments::Connect(common) => {
                let groups = vec![common.group(Shape::Idle, 0, common.count)?];
                return common.plan("connect", Mode::Connect, groups);
            }
            ModeArguments::Cycle(common) => {
                let groups = vec![common.group(Shape::Idle, 0, common.count)?];
                return common.plan("cycle", Mode::Cycle, groups);
            }
            ModeArguments::Storm(common) => {
                let groups = vec![common.group(Shape::Idle, 0, common.count)?];
                let waves = common.waves;
                return common.plan("storm", Mode::Storm { waves }, groups);
            }
            ModeArguments::Retained(mut common) => {
                common.retain = true;
                let groups = vec![common.group(Shape::All, common.count, common.members)?];
                return common.plan("retained", Mode::Retained, groups);
            }
            ModeArguments::Mixed { file, common } => {
                let defaults = common.group(Shape::Pairs, common.count, common.count)?;
                let groups = scenario_file::read(&file, &defaults)?;
                return common.plan("mixed", Mode::Flow, groups);
            }
            ModeArguments::Pairs(common) => ("pairs", Shape::Pairs, common),
            ModeArguments::Paced(common) => ("paced", Shape::Pairs, common.paced()),
            ModeArguments::FanOut(common) => ("fan-out", Shape::All, common),
            ModeArguments::FanIn(common) => ("fan-in", Shape::All, common),
            ModeArguments::Shared(common) => ("shared", Shape::Shared, common),
        };
        let (publishers, subscribers) = match name {
            "fan-out" => (1, common.count),
            "fan-in" => (common.count, 1),
            "shared" => (common.count, common.members),
            _ => (common.count, common.count),
        };
        let groups = vec![common.group(shape, publishers, subscribers)?];
        common.plan(name, Mode::Flow, groups)
    }
}

/// What `paced` does without `--rate`, messages per second in total.
const PACED_RATE: f64 = 20_000.0;

/// Messages of one publisher under way at most: packet identifiers repeat after 65,535.
const INFLIGHT_MAX: u32 = 30_000;

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

    /// One group of what the flags say.
    fn group(&self, shape: Shape, publishers: u32, subscribers: u32) -> Result<Group, String> {
        let rate = match (self.rate, self.interval) {
            (Some(rate), _) => Some(rate),
            (None, Some(interval)) => Some(1000.0 * f64::from(publishers.max(1)) / interval),
            (None, None) => None,
        };
        let group = Group {
            name: self.topic.clone(),
            shape,
            publishers,
            subscribers,
            topic: self.topic.clone(),
            qos: self.qos,
            retain: self.retain,
            payload_size: self.size,
            inflight: self.inflight,
            rate,
            subscribe: self.subscriptions > 0,
        };
        let flag = |field| match field {
            Field::Publishers | Field::Subscribers if shape == Shape::Shared => {
                "--count, --members"
            }
            Field::Publishers | Field::Subscribers => "--count",
            Field::Topic => "--topic",
            Field::PayloadSize => "--size",
            Field::Inflight => "--inflight",
            Field::Rate if self.interval.is_some() => "--interval",
            Field::Rate => "--rate",
        };
        match check_group(&group) {
            Err((field, reason)) => Err(format!("{}: {reason}", flag(field))),
            Ok(()) => Ok(group),
        }
    }

    fn transport(&self) -> Result<Option<Transport>, String> {
        let files = TlsFiles {
            cafile: self.cafile.clone(),
            insecure: self.insecure,
            identity: self.cert.clone().zip(self.key.clone()),
            full_handshakes: self.full_handshakes,
            only_tls12: self.tls12,
            classical: self.classical,
        };
        let protocol_name = if self.ws { "http/1.1" } else { "mqtt" };
        let tls =
            self.tls.then(|| TlsTransport::new(&files, &self.host, protocol_name)).transpose()?;
        if !self.path.starts_with('/') || !self.path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("--path {}: begins with / and has no spaces", self.path));
        }
        let host = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let websocket = self.ws.then(|| Request { host, path: self.path.clone() });
        let spoken = tls.is_some() || websocket.is_some();
        Ok(spoken.then_some(Transport { tls, websocket }))
    }

    fn plan(self, name: &'static str, mode: Mode, mut groups: Vec<Group>) -> Result<Plan, String> {
        let remote = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| format!("--host {}: {error}", self.host))?
            .next()
            .ok_or_else(|| format!("--host {}: the name has no address", self.host))?;
        check_sources(remote, &self.source)?;
        let transport = self.transport()?;
        if self.refusals && mode != Mode::Cycle {
            return Err("--refusals: only cycle goes on when it is refused".into());
        }
        // Where no messages flow, the rate is that of connections.
        let flows = mode == Mode::Flow;
        let connect_rate = if flows { None } else { groups.iter().find_map(|group| group.rate) };
        for group in groups.iter_mut().filter(|group| group.shape == Shape::Idle) {
            group.rate = None;
        }
        Ok(Plan {
            name,
            mode,
            groups,
            remote,
            connect_rate,
            keep_alive_seconds: self.keepalive,
            duration: seconds("--duration", self.duration)?,
            warmup: seconds("--warmup", self.warmup)?,
            hold: seconds("--hold", self.hold)?,
            protocol: self.protocol,
            transport,
            sources: self.source,
            handshakes_max: self.handshakes.max(1),
            connect_timeout: seconds("--connect-timeout", self.connect_timeout)?,
            username: self.username,
            password: self.password,
            clean_start: !self.persistent,
            refusals: self.refusals,
            json: self.json,
            core: self.pin,
            spin: self.spin,
            broker_pid: self.broker_pid,
        })
    }
}

/// What of a group may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Publishers,
    Subscribers,
    Topic,
    PayloadSize,
    Inflight,
    Rate,
}

/// Clients of one group at most, of each kind.
const CLIENTS_MAX: u32 = 100_000_000;

/// Streams of one group at most: each publisher at each subscriber is tracked, 16 bytes each.
const STREAMS_MAX: usize = 50_000_000;

/// Checks what a group says, wherever it was said.
pub(crate) fn check_group(group: &Group) -> Result<(), (Field, String)> {
    let idle = group.shape == Shape::Idle;
    if idle && group.publishers > 0 {
        return Err((Field::Publishers, "idle clients do not publish: 0".into()));
    }
    if !idle && !(1..=CLIENTS_MAX).contains(&group.publishers) {
        return Err((Field::Publishers, format!("from 1 to {CLIENTS_MAX}")));
    }
    if !(1..=CLIENTS_MAX).contains(&group.subscribers) {
        return Err((Field::Subscribers, format!("from 1 to {CLIENTS_MAX}")));
    }
    if group.shape == Shape::Pairs && group.publishers != group.subscribers {
        return Err((Field::Subscribers, "pairs have as many subscribers as publishers".into()));
    }
    if group.stream_count() > STREAMS_MAX {
        let streams = group.stream_count();
        let reason = format!("{streams} streams to track; {STREAMS_MAX} at most");
        return Err((Field::Subscribers, reason));
    }
    if group.topic.is_empty() || group.topic.len() > 1000 || group.topic.contains(['+', '#', '\0'])
    {
        return Err((Field::Topic, "1 to 1,000 bytes without + and #".into()));
    }
    if !(wire::STAMP_SIZE..=PAYLOAD_SIZE_MAX).contains(&group.payload_size) {
        return Err((
            Field::PayloadSize,
            format!(
                "from {} to {PAYLOAD_SIZE_MAX} bytes; publisher, sequence and time take the first {}",
                wire::STAMP_SIZE,
                wire::STAMP_SIZE
            ),
        ));
    }
    if !(1..=INFLIGHT_MAX).contains(&group.inflight) {
        return Err((Field::Inflight, format!("from 1 to {INFLIGHT_MAX}")));
    }
    match group.rate {
        Some(rate) if !(rate > 0.0 && rate <= 1e9) => {
            Err((Field::Rate, "above 0, and at most 1,000,000,000 a second".into()))
        }
        _ => Ok(()),
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
        let group = &plan.groups[0];
        assert_eq!((plan.mode, group.shape, group.publishers), (Mode::Flow, Shape::Pairs, 200));
        assert_eq!((group.qos, group.payload_size, plan.keep_alive_seconds), (2, 32, 9));
        assert_eq!((group.topic.as_str(), plan.protocol), ("a/b", Protocol::V5));
        assert_eq!((group.rate, plan.connect_rate), (Some(20_000.0), None));
        let plan = resolve("connect -c 1000000 -R 5000 --hold 600").expect("valid");
        assert_eq!((plan.connect_rate, plan.hold), (Some(5000.0), Duration::from_secs(600)));
        let plan = resolve("paced").expect("valid");
        assert_eq!((plan.groups[0].rate, plan.spin), (Some(PACED_RATE), true));
    }

    #[test]
    fn what_lies_below_mqtt() {
        let name = |line: &str| resolve(line).expect(line).transport.map(|spoken| spoken.name());
        assert_eq!(name("pairs"), None);
        assert_eq!(name("pairs --tls --insecure"), Some("tls"));
        assert_eq!(name("connect --ws --path /a"), Some("ws"));
        assert_eq!(name("connect --ws --tls --insecure"), Some("wss"));
    }

    #[test]
    fn shapes_by_mode() {
        let cases = [
            ("fan-out -c 7", Shape::All, 1, 7),
            ("fan-in -c 7", Shape::All, 7, 1),
            ("shared -c 7 --members 3", Shape::Shared, 7, 3),
            ("retained -c 7 --members 3", Shape::All, 7, 3),
            ("storm -c 7", Shape::Idle, 0, 7),
            ("cycle -c 7", Shape::Idle, 0, 7),
        ];
        for (line, shape, publishers, subscribers) in cases {
            let plan = resolve(line).expect(line);
            let group = &plan.groups[0];
            assert_eq!(
                (group.shape, group.publishers, group.subscribers),
                (shape, publishers, subscribers),
                "{line}"
            );
        }
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
            ("storm --waves 0", "--waves"),
            ("mixed /nowhere/at/all.yaml", "/nowhere/at/all.yaml"),
            ("pairs --inflight 0", "--inflight"),
            ("pairs --insecure", "--tls"),
            ("pairs --tls --cafile /nowhere/at/all.pem", "/nowhere/at/all.pem"),
            ("pairs --tls --insecure --cert a.pem", "--key"),
            ("pairs --tls --insecure --cert /nowhere.pem --key /nowhere.key", "--cert"),
            ("pairs --ws --path mqtt", "--path"),
            ("pairs --path /mqtt2", "--ws"),
        ];
        for (line, flag) in cases {
            let error = resolve(line).expect_err(line);
            assert!(error.contains(flag), "{line}: {error}");
        }
    }
}
