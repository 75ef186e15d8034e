//! `midge plan`: what so many connections need, before there is a machine to ask.
//!
//! Arithmetic over the measured constants of [`capacity`] and the sizes of packets. It says where it rounds and what it
//! assumes; a figure that nobody has measured is not made up.

use std::{
    fmt::{self, Display},
    io::Write,
};

use clap::Args;
use serde_json::json;

use crate::{
    capacity,
    failure::Failure,
    units::{count, human},
};

/// Options of `midge plan`.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct PlanArguments {
    /// Connections at the same time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) connections: u64,

    /// Plan for TLS: its memory and its handshakes are in the figures, what records cost is not.
    #[arg(long)]
    pub(crate) tls: bool,

    /// Messages published per second, all clients together, each delivered to one subscriber.
    #[arg(long, value_name = "MESSAGES", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub(crate) rate: u64,

    /// Payload of a message.
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u64).range(0..=268_435_455))]
    pub(crate) payload: u64,

    /// QoS of messages, 0 or 1.
    #[arg(long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) qos: u8,

    /// Seconds between two pings of a quiet client; 0: no pings.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=65_535))]
    pub(crate) keep_alive: u64,

    /// Subscriptions of all connections together. Default: one for each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1_000_000_000_000))]
    pub(crate) subscriptions: Option<u64>,

    /// The limit of open descriptors (ulimit -n, LimitNOFILE) that the broker will run under.
    #[arg(long, value_name = "N", default_value_t = capacity::SLOTS_MAX, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) nofile: u64,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(arguments: &PlanArguments) -> Result<(), Failure> {
    let plan = Plan::new(arguments).ok_or_else(|| {
        Failure::configuration(format_args!(
            "--nofile: {} shards, the most there can be, do not hold {} connections under a limit of {}; \
             raise it to {} or more",
            midge_config::SHARDS_MAX,
            count(arguments.connections),
            count(arguments.nofile),
            count(capacity::slots_per_ring(arguments.connections, midge_config::SHARDS_MAX)),
        ))
    })?;
    // Whoever closed standard output does not want the answer.
    _ = if arguments.json {
        writeln!(std::io::stdout(), "{:#}", plan.json())
    } else {
        write!(std::io::stdout(), "{plan}")
    };
    Ok(())
}

/// Bytes of a topic name, where nobody has said: `site-12/line-3/sensor-123456/t`.
const TOPIC_BYTES: u64 = 32;

/// What one packet takes on the wire besides its data: Ethernet with preamble and gap 38, IPv4 20, TCP with
/// timestamps 32.
const PACKET_OVERHEAD_BYTES: u64 = 90;

/// Data of a full packet: an MTU of 1,500 less the headers of IPv4 and TCP with timestamps.
const SEGMENT_BYTES: u64 = 1448;

/// How busy a core is planned to be, per cent: the rest is for bursts and for what clients do besides.
const CORE_BUSY_PERCENT: u64 = 70;

/// Ports of one source address of a load generator after `kernel-tuning/tune apply sockets --load-generator`: three
/// quarters of 10,240 to 65,535, for other programs need some.
const SOURCE_PORTS: u64 = (65_536 - 10_240) / 4 * 3;

/// Open files of everything else on the machine.
const OTHER_FILES: u64 = 65_536;

/// What was asked for and what follows from it.
#[derive(Debug, PartialEq)]
struct Plan {
    arguments: PlanArguments,
    subscriptions: u64,
    shards: u16,
    slots_per_ring: u64,
    user_bytes: u64,
    /// What of it is for TLS.
    tls_bytes: u64,
    kernel_bytes: u64,
    pings_per_second: u64,
    messages_cpu: f64,
    pings_cpu: f64,
    cores: u64,
    connect_seconds: f64,
    received: Traffic,
    sent: Traffic,
}

/// One direction of the wire, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Traffic {
    packets: u64,
    bits: u64,
}

impl Traffic {
    /// The same with so many pieces of data of one size.
    fn and(self, times: u64, data: u64) -> Self {
        let packets = times.saturating_mul(data.div_ceil(SEGMENT_BYTES).max(1));
        let bytes = packets
            .saturating_mul(PACKET_OVERHEAD_BYTES)
            .saturating_add(times.saturating_mul(data));
        Self {
            packets: self.packets.saturating_add(packets),
            bits: self.bits.saturating_add(bytes.saturating_mul(8)),
        }
    }
}

impl Plan {
    /// `None`: no number of shards holds the connections under that limit of descriptors.
    fn new(arguments: &PlanArguments) -> Option<Self> {
        let PlanArguments { connections, rate, payload, qos, keep_alive, nofile, .. } = *arguments;
        let subscriptions = arguments.subscriptions.unwrap_or(connections);
        let (tls_bytes, handshake_ns) = if arguments.tls {
            (connections.saturating_mul(capacity::TLS_USER_BYTES), capacity::TLS_HANDSHAKE_CPU_NS)
        } else {
            (0, 0)
        };

        let pings_per_second = connections.checked_div(keep_alive).unwrap_or(0);
        let message_ns =
            if qos == 0 { capacity::MESSAGE_CPU_NS } else { capacity::MESSAGE_QOS1_CPU_NS };
        let busy = |times: u64, ns: u64| times as f64 * ns as f64 / 1e9;
        let messages_cpu = busy(rate, message_ns);
        let pings_cpu = busy(pings_per_second, capacity::PING_CPU_NS);
        let cores = ((messages_cpu + pings_cpu) * 100.0 / CORE_BUSY_PERCENT as f64).ceil() as u64;
        let cores = cores.max(1);

        let by_cores = u16::try_from(cores).unwrap_or(u16::MAX).min(midge_config::SHARDS_MAX);
        let shards = capacity::shards_needed(connections, nofile)?.max(by_cores);

        // Fixed header, topic and its length, packet id, payload.
        let publish = 5 + 2 + TOPIC_BYTES + 2 * u64::from(qos) + payload;
        let segments = publish.div_ceil(SEGMENT_BYTES);
        // Nothing goes back that could carry an acknowledgement of TCP, so each segment has one of its own; a PUBACK
        // carries it, and then has one itself.
        let (there, back) = if qos == 0 {
            (Traffic::default().and(rate, publish), Traffic::default().and(rate * segments, 0))
        } else {
            (
                Traffic::default().and(rate, publish).and(rate, 0),
                Traffic::default().and(rate, 4).and(rate * (segments - 1), 0),
            )
        };
        let both = Traffic { packets: there.packets + back.packets, bits: there.bits + back.bits };
        // Every message comes in once and goes out once. A PINGREQ is answered by a PINGRESP, and that by TCP.
        let received = both.and(pings_per_second, 2).and(pings_per_second, 0);
        let sent = both.and(pings_per_second, 2);

        Some(Self {
            subscriptions,
            shards,
            slots_per_ring: capacity::slots_per_ring(connections, shards),
            user_bytes: capacity::user_bytes(connections, subscriptions, shards)
                .saturating_add(tls_bytes),
            tls_bytes,
            kernel_bytes: capacity::kernel_bytes(connections, shards),
            pings_per_second,
            messages_cpu,
            pings_cpu,
            cores,
            connect_seconds: busy(connections, capacity::CYCLE_CPU_NS + handshake_ns)
                / cores as f64,
            received,
            sent,
            arguments: arguments.clone(),
        })
    }

    fn memory_bytes(&self) -> u64 {
        self.user_bytes + self.kernel_bytes
    }

    /// A tenth is for everything else.
    fn machine_bytes(&self) -> u64 {
        self.memory_bytes() / 9 * 10
    }

    fn files(&self) -> u64 {
        self.arguments.connections + OTHER_FILES
    }

    fn sources(&self) -> u64 {
        self.arguments.connections.div_ceil(SOURCE_PORTS)
    }

    fn json(&self) -> serde_json::Value {
        let PlanArguments { connections, tls, rate, payload, qos, keep_alive, nofile, .. } =
            self.arguments;
        let traffic = |traffic: Traffic| json!({"packets_per_second": traffic.packets, "bits_per_second": traffic.bits});
        json!({
            "connections": connections,
            "subscriptions": self.subscriptions,
            "messages_per_second": rate,
            "payload_bytes": payload,
            "qos": qos,
            "keep_alive_seconds": keep_alive,
            "memory": {
                "broker_bytes": self.user_bytes,
                "kernel_bytes": self.kernel_bytes,
                "total_bytes": self.memory_bytes(),
                "machine_bytes": self.machine_bytes(),
                "broker_bytes_per_connection": capacity::CONNECTION_USER_BYTES,
                "broker_bytes_per_subscription": capacity::SUBSCRIPTION_USER_BYTES,
                "kernel_bytes_per_connection": capacity::CONNECTION_KERNEL_BYTES,
                "locked_bytes": capacity::SHARD_LOCKED_BYTES * u64::from(self.shards),
            },
            "tls": tls.then(|| json!({
                "broker_bytes": self.tls_bytes,
                "broker_bytes_per_connection": capacity::TLS_USER_BYTES,
                "handshake_seconds": capacity::TLS_HANDSHAKE_CPU_NS as f64 / 1e9,
                "records_measured": false,
            })),
            "descriptors": {
                "nofile": nofile,
                "shards": self.shards,
                "slots_per_ring": self.slots_per_ring,
                "file_max": self.files(),
            },
            "cores": {
                "cores": self.cores,
                "busy_with_messages": self.messages_cpu,
                "busy_with_pings": self.pings_cpu,
                "pings_per_second": self.pings_per_second,
                "connect_all_seconds": self.connect_seconds,
            },
            "network": {"received": traffic(self.received), "sent": traffic(self.sent)},
            "load_generator": {
                "source_addresses": self.sources(),
                "ports_per_source": SOURCE_PORTS,
                "kernel_bytes": capacity::kernel_bytes(connections, self.shards),
            },
        })
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlanArguments { connections, tls, rate, payload, qos, keep_alive, nofile, .. } =
            self.arguments;
        let shards = u64::from(self.shards);
        let mut heading = format!(
            "{} connections, {} subscriptions",
            count(connections),
            count(self.subscriptions)
        );
        if rate > 0 {
            heading +=
                &format!(", {} messages/s of {} bytes at QoS {qos}", count(rate), count(payload));
        }
        if keep_alive > 0 {
            heading += &format!(", a ping each {keep_alive} s");
        }
        writeln!(f, "{heading}")?;

        let mut section = |title: &str, rows: &[(&str, String, String)]| {
            writeln!(f, "\n{title}")?;
            for (name, value, how) in rows {
                let line = format!("  {name:18} {value:>12}  {how}");
                writeln!(f, "{}", line.trim_end())?;
            }
            Ok(())
        };
        let mut memory = vec![
            (
                "broker",
                human(self.user_bytes),
                format!(
                    "{} × {} B, {} × {} B, {} × {}, {}",
                    count(connections),
                    capacity::CONNECTION_USER_BYTES,
                    count(self.subscriptions),
                    capacity::SUBSCRIPTION_USER_BYTES,
                    shards,
                    human(capacity::SHARD_USER_BYTES),
                    human(capacity::PROCESS_USER_BYTES),
                ),
            ),
            (
                "kernel",
                human(self.kernel_bytes),
                format!(
                    "{} × {} B, and the rings' tables",
                    count(connections),
                    count(capacity::CONNECTION_KERNEL_BYTES)
                ),
            ),
            (
                "total",
                human(self.memory_bytes()),
                "idle; what is queued or retained comes on top".into(),
            ),
            ("machine", human(self.machine_bytes()), "a tenth for everything else".into()),
        ];
        if tls {
            let each = count(capacity::TLS_USER_BYTES);
            let how = format!("of the broker's, {} × {each} B", count(connections));
            memory.insert(1, ("TLS", human(self.tls_bytes), how));
        }
        section("Memory", &memory)?;
        section(
            "Descriptors",
            &[
                (
                    "shards",
                    count(shards),
                    format!("midge serve --shards {shards}, under a limit of {}", count(nofile)),
                ),
                (
                    "slots per ring",
                    count(self.slots_per_ring),
                    "of that limit; a quarter for uneven spread, and 256".into(),
                ),
                ("fs.file-max", count(self.files()), "each connection is an open file".into()),
                (
                    "locked memory",
                    human(capacity::SHARD_LOCKED_BYTES * shards),
                    "ulimit -l, without CAP_IPC_LOCK".into(),
                ),
            ],
        )?;
        let mut cores = vec![(
            "cores",
            count(self.cores),
            format!("at most {CORE_BUSY_PERCENT} % busy; costs without batches, so an upper bound"),
        )];
        if rate > 0 {
            cores.push(("messages", format!("{:.2}", self.messages_cpu), "cores' time".into()));
        }
        if keep_alive > 0 {
            cores.push((
                "pings",
                format!("{:.2}", self.pings_cpu),
                format!("cores' time, {} pings/s", count(self.pings_per_second)),
            ));
        }
        cores.push((
            "all connect",
            format!("{:.1} s", self.connect_seconds),
            "of the broker's time, on those cores".into(),
        ));
        if tls {
            let each = capacity::TLS_HANDSHAKE_CPU_NS / 1000;
            let how = "records of messages and pings come on top: not measured".into();
            cores.push(("handshake", format!("{each} µs"), "of that time, for each".into()));
            cores.push(("TLS records", "not measured".into(), how));
        }
        section("Processor", &cores)?;
        let traffic = |traffic: Traffic| {
            (format!("{}/s", count(traffic.packets)), format!("packets, {}", bits(traffic.bits)))
        };
        let ((received, received_bits), (sent, sent_bits)) =
            (traffic(self.received), traffic(self.sent));
        section("Network", &[("in", received, received_bits), ("out", sent, sent_bits)])?;
        section(
            "Load generator elsewhere",
            &[
                (
                    "source addresses",
                    count(self.sources()),
                    format!("{} ports each; over loopback it finds its own", count(SOURCE_PORTS)),
                ),
                (
                    "kernel memory",
                    human(capacity::kernel_bytes(connections, self.shards)),
                    "for its ends; twice the broker's on one machine".into(),
                ),
            ],
        )
    }
}

/// Bits per second, as networks are sold: powers of 1,000.
fn bits(number: u64) -> String {
    match number {
        0..1_000 => format!("{number} bit/s"),
        1_000..1_000_000 => format!("{:.1} kbit/s", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} Mbit/s", number as f64 / 1e6),
        _ => format!("{:.1} Gbit/s", number as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(connections: u64) -> PlanArguments {
        PlanArguments {
            connections,
            tls: false,
            rate: 0,
            payload: 64,
            qos: 0,
            keep_alive: 60,
            subscriptions: None,
            nofile: 20_000,
            json: false,
        }
    }

    fn plan(arguments: &PlanArguments) -> Plan {
        Plan::new(arguments).expect("enough shards")
    }

    #[test]
    fn a_million_under_a_low_limit() {
        let plan = plan(&arguments(1_000_000));
        assert_eq!((plan.shards, plan.slots_per_ring), (64, 19_787));
        let each = capacity::CONNECTION_USER_BYTES + capacity::SUBSCRIPTION_USER_BYTES;
        let own = capacity::PROCESS_USER_BYTES + 64 * capacity::SHARD_USER_BYTES;
        assert_eq!(plan.user_bytes, 1_000_000 * each + own);
        assert_eq!(
            plan.kernel_bytes,
            1_000_000 * capacity::CONNECTION_KERNEL_BYTES + 64 * 19_787 * 8
        );
        assert_eq!(plan.pings_per_second, 16_666);
        assert_eq!(plan.cores, 1);
        // PINGREQ and the acknowledgement of the answer; PINGRESP.
        assert_eq!(plan.received.packets, 33_332);
        assert_eq!(plan.sent, Traffic { packets: 16_666, bits: 16_666 * 92 * 8 });
        assert_eq!(plan.sources(), 25);
    }

    #[test]
    fn messages_need_cores_and_packets() {
        let quiet = PlanArguments { keep_alive: 0, ..arguments(1000) };
        let one = plan(&PlanArguments { rate: 1_000_000, ..quiet.clone() });
        // 5.4 cores' time at 70 %.
        assert_eq!(one.cores, 8);
        assert_eq!(one.shards, 8);
        // 103 bytes in one packet in, one out, each acknowledged.
        let each = (103 + 2 * 90) * 8;
        assert_eq!(one.received, Traffic { packets: 2_000_000, bits: 1_000_000 * each });
        assert_eq!(one.received, one.sent);
        let large = plan(&PlanArguments { rate: 10, payload: 2_900, ..quiet.clone() });
        assert_eq!(large.received.packets, 10 * (3 + 3));
        let acknowledged = plan(&PlanArguments { rate: 10, qos: 1, ..quiet });
        assert_eq!(acknowledged.received.packets, 10 * (2 + 1));
        assert!(acknowledged.messages_cpu > 10.0 * 5e-6);
    }

    #[test]
    fn limits_that_cannot_do() {
        assert_eq!(Plan::new(&PlanArguments { nofile: 1024, ..arguments(10_000_000) }), None);
        let plan = plan(&PlanArguments { nofile: 1 << 40, ..arguments(10_000_000) });
        assert_eq!(plan.shards, 12);
    }

    #[test]
    fn tls_costs_what_was_measured_and_nothing_is_made_up() {
        let tls = plan(&PlanArguments { tls: true, ..arguments(1000) });
        let plain = plan(&arguments(1000));
        assert_eq!(tls.memory_bytes() - plain.memory_bytes(), 1000 * capacity::TLS_USER_BYTES);
        assert!(tls.connect_seconds > 5.0 * plain.connect_seconds);
        assert!(tls.to_string().contains("TLS records        not measured"), "{tls}");
        assert_eq!(plain.to_string().matches("not measured").count(), 0);
        assert_eq!(tls.json()["tls"]["records_measured"], false);
        assert_eq!(tls.json()["tls"]["broker_bytes"], 3_900_000);
        assert!(plain.json()["tls"].is_null());
    }

    #[test]
    fn the_table_and_the_object_say_the_same() {
        let plan = plan(&PlanArguments { rate: 20_000, ..arguments(1_000_000) });
        let (text, json) = (plan.to_string(), plan.json());
        assert!(text.contains("1,000,000 connections, 1,000,000 subscriptions, 20,000 messages/s"));
        for (key, shown) in [
            (&json["descriptors"]["slots_per_ring"], count(plan.slots_per_ring)),
            (&json["memory"]["total_bytes"], human(plan.memory_bytes())),
            (&json["network"]["sent"]["packets_per_second"], count(plan.sent.packets)),
        ] {
            assert!(!key.is_null());
            assert!(text.contains(&shown), "{shown} in {text}");
        }
        assert!(text.lines().all(|line| line.len() <= 120 && !line.ends_with(' ')), "{text}");
    }

    #[test]
    fn networks_count_in_thousands() {
        for (number, text) in [
            (999, "999 bit/s"),
            (1_500, "1.5 kbit/s"),
            (12_300_000, "12.3 Mbit/s"),
            (40_000_000_000, "40.0 Gbit/s"),
        ] {
            assert_eq!(bits(number), text);
        }
    }
}
