//! Rows 9 and 18: what others do to log in, or not to, is not felt by those who are in.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use midge_codec::{Connect, ProtocolVersion};

use crate::{Broker, Client, Figure, Incoming, Kind, Latencies, Probe, Size};

/// How long a peer may take to log in.
const CLOSED_AFTER: Duration = Duration::from_secs(5);

/// How long good clients are watched, with and without company.
fn watched(size: Size) -> Duration {
    size.pick(Duration::from_millis(500), Duration::from_secs(20))
}

fn quiet(address: SocketAddr, size: Size) -> Latencies {
    let probe = Probe::start(address, 2);
    thread::sleep(watched(size));
    probe.stop()
}

/// What the ratio is of: twice next to nothing is next to nothing too.
fn felt(row: u8, what: &'static str, latencies: &Latencies) -> Figure {
    Figure::at_most(row, Kind::Speed, what, latencies.p99(), 10.0, "ms")
}

/// Two thousand peers that say their CONNECT a byte at a time, and begin anew when they are closed.
pub(super) fn run_slow_opens(shards: u16, size: Size) -> Vec<Figure> {
    let count = size.pick(100, 2000);
    let seconds = CLOSED_AFTER.as_secs();
    let broker = Broker::start(shards, &format!("limits: {{connect_timeout: {seconds}s}}"));
    let address = broker.address();
    let before = quiet(address, size).p99();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let spread = CLOSED_AFTER.min(watched(size));
    let dripping = thread::spawn(move || drip(address, count, spread, &stopped));
    thread::sleep(spread);
    let probe = Probe::start(address, 2);
    thread::sleep(watched(size));
    let latencies = probe.stop();
    stop.store(true, Ordering::Relaxed);
    let bytes = dripping.join().expect("it drips");
    vec![
        Figure::at_least(
            9,
            Kind::Exact,
            "bytes of CONNECTs that were never finished",
            bytes as f64,
            count as f64,
            "",
        ),
        Figure::at_most(
            9,
            Kind::Speed,
            "others beside slow opens, p99 over quiet",
            latencies.p99() / before,
            2.0,
            "x",
        ),
        felt(9, "others beside slow opens, p99", &latencies),
    ]
}

/// Behind the broker and those who are watched: attackers have machines of their own.
fn give_way() {
    // A wish: who may not be polite measures a busier machine.
    let _ = rustix::process::setpriority_process(None, 10);
}

/// Each connection says one byte every half second, each at its own moment; how many bytes were said.
fn drip(address: SocketAddr, count: usize, spread: Duration, stop: &AtomicBool) -> usize {
    give_way();
    // A CONNECT of 200 bytes, which takes longer than it may.
    let packet = [&b"\x10\xc6\x01\0\x04MQTT\x05\x02\0\0\0\0\xb9"[..], &[b'c'; 185]].concat();
    let began = Instant::now();
    // Not all at once, or they would all come back at once too, as often as the broker closes them.
    let mut peers: Vec<(Client, usize)> = (0..count)
        .map(|number| {
            let at = spread.mul_f64(number as f64 / count as f64);
            thread::sleep(at.saturating_sub(began.elapsed()));
            (Client::open(address, 2 + (number % 8) as u8), 0)
        })
        .collect();
    let (mut said, mut rounds) = (0, 0);
    let began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for (number, (peer, at)) in peers.iter_mut().enumerate() {
            let part = f64::from(rounds) + number as f64 / count as f64;
            thread::sleep(Duration::from_secs_f64(part / 2.0).saturating_sub(began.elapsed()));
            let byte = packet.get(*at..=*at);
            let sent = byte.is_some_and(|byte| peer.stream().write_all(byte).is_ok());
            if sent {
                *at += 1;
                said += 1;
            } else {
                *peer = Client::open(address, 2 + (number % 8) as u8);
                *at = 0;
            }
        }
        rounds += 1;
    }
    said
}

/// Users with one of them in their file, whose password nobody in the storm knows.
fn with_users(shards: u16, security: &str) -> Broker {
    let settings = format!("security: {{password_file: users, allow_anonymous: true{security}}}");
    Broker::start_with(shards, &settings, |make| {
        make(&["passwd", "-H", "sha512-pbkdf2", "-I", "1000", "users", "anna", "right"]);
    })
}

/// What came of a storm of logins.
struct Storm {
    let_in: usize,
    /// Tries that were answered, with a packet or an end.
    per_second: f64,
    /// What others noticed before it, and meanwhile.
    quiet: Latencies,
    noticed: Latencies,
}

impl Storm {
    /// Logins with wrong passwords, of users that exist and of users that do not, as many a second as `size` says; what
    /// clients of `broker` notice while it rages against `target`.
    fn rage(broker: &Broker, target: &Broker, size: Size) -> Self {
        let (address, target) = (broker.address(), target.address());
        let quiet = quiet(address, size);
        let stop = Arc::new(AtomicBool::new(false));
        let tried = Arc::new(AtomicUsize::new(0));
        let per_second = storm_per_second(size);
        let threads = 2;
        let storm: Vec<_> = (0..threads)
            .map(|number| {
                let (stop, tried) = (Arc::clone(&stop), Arc::clone(&tried));
                thread::spawn(move || log_in(target, number, per_second / threads, &stop, &tried))
            })
            .collect();
        let probe = Probe::start(address, 2);
        let since = Instant::now();
        thread::sleep(watched(size));
        let noticed = probe.stop();
        let per_second = tried.load(Ordering::Relaxed) as f64 / since.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let let_in = storm.into_iter().map(|one| one.join().expect("it storms")).sum();
        Self { let_in, per_second, quiet, noticed }
    }
}

fn storm_per_second(size: Size) -> usize {
    size.pick(500, 10_000)
}

/// Ten thousand logins a second with wrong passwords, against a broker that answers each of them.
pub(super) fn run_bad_logins(shards: u16, size: Size) -> Vec<Figure> {
    let names = StormNames {
        let_in: "let in with a wrong password",
        per_second: "bad logins a second",
        over_quiet: "others beside bad logins, p99 over quiet",
        over_elsewhere: "others beside bad logins, p99 over the same at another broker",
        noticed: "others beside bad logins, p99",
    };
    run_storm(shards, size, "", &names)
}

/// The same storm, against a broker that bans addresses whose logins fail again and again, as an open one should.
pub(super) fn run_banned_logins(shards: u16, size: Size) -> Vec<Figure> {
    let bans = ", failed_logins: {count: 10, within: 1m, ban_for: 10m}";
    let names = StormNames {
        let_in: "let in with a wrong password, bans",
        per_second: "bad logins a second, bans",
        over_quiet: "others beside banned logins, p99 over quiet",
        over_elsewhere: "others beside banned logins, p99 over the same at another broker",
        noticed: "others beside banned logins, p99",
    };
    run_storm(shards, size, bans, &names)
}

/// What the figures of a storm are called.
struct StormNames {
    let_in: &'static str,
    per_second: &'static str,
    over_quiet: &'static str,
    over_elsewhere: &'static str,
    noticed: &'static str,
}

fn run_storm(shards: u16, size: Size, security: &str, names: &StormNames) -> Vec<Figure> {
    // The attackers have no machine of their own: what they take from everybody is felt by clients of another broker, too.
    let (broker, target) = (with_users(shards, security), with_users(shards, security));
    let elsewhere = Storm::rage(&broker, &target, size);
    drop((broker, target));
    let broker = with_users(shards, security);
    let storm = Storm::rage(&broker, &broker, size);
    let enough = storm_per_second(size) as f64 * 0.8;
    let p99 = storm.noticed.p99();
    let (over_quiet, over_elsewhere) = (p99 / storm.quiet.p99(), p99 / elsewhere.noticed.p99());
    vec![
        Figure::exactly(18, names.let_in, storm.let_in + elsewhere.let_in, 0),
        Figure::at_least(18, Kind::Speed, names.per_second, storm.per_second, enough, ""),
        Figure::at_most(18, Kind::Speed, names.over_quiet, over_quiet, 2.0, "x"),
        Figure::at_most(18, Kind::Speed, names.over_elsewhere, over_elsewhere, 2.0, "x"),
        felt(18, names.noticed, &storm.noticed),
    ]
}

/// Peers of one thread that have not been answered, at most.
const UNANSWERED_MAX: usize = 4000;

/// When a peer looks for its answer.
const ANSWER_AFTER: Duration = Duration::from_millis(100);

/// Tries to log in at a rate, whether or not those before have been answered; how often that worked.
fn log_in(
    address: SocketAddr,
    number: usize,
    per_second: usize,
    stop: &AtomicBool,
    tried: &AtomicUsize,
) -> usize {
    give_way();
    let since = Instant::now();
    let mut waiting: VecDeque<(Client, Instant)> = VecDeque::new();
    let (mut count, mut let_in) = (0_usize, 0);
    while !stop.load(Ordering::Relaxed) {
        let due = Duration::from_secs_f64(count as f64 / per_second as f64);
        thread::sleep(due.saturating_sub(since.elapsed()));
        count += 1;
        let client_id = format!("storm-{number}-{count}");
        let user = if count % 2 == 0 { "anna" } else { "nobody" };
        let mut connect = Connect::new(ProtocolVersion::V5, &client_id);
        connect.username = Some(user);
        connect.password = Some(b"wrong");
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        let mut peer = Client::open(address, 10 + (count % 40) as u8);
        peer.send(&bytes);
        waiting.push_back((peer, Instant::now()));
        while waiting.len() > UNANSWERED_MAX
            || waiting.front().is_some_and(|(_, at)| at.elapsed() >= ANSWER_AFTER)
        {
            let (mut peer, _) = waiting.pop_front().expect("one waits");
            let Some(answer) = peer.poll() else {
                // Nobody is waited for: look at it again later.
                waiting.push_back((peer, Instant::now()));
                break;
            };
            let_in += usize::from(is_let_in(&answer));
            tried.fetch_add(1, Ordering::Relaxed);
        }
    }
    for (mut peer, _) in waiting {
        let answer = peer.next(Duration::from_secs(10));
        let_in += usize::from(answer.as_ref().is_some_and(is_let_in));
    }
    let_in
}

fn is_let_in(answer: &Incoming) -> bool {
    matches!(answer, Incoming::ConnAck(_, reason_code) if !reason_code.is_error())
}
