//! Rows 9 and 18: what others do to log in, or not to, is not felt by those who are in.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use midge_codec::{Connect, ProtocolVersion};
use socket2::{Domain, Socket, Type};

use crate::{Broker, Client, Figure, Kind, Latencies, Probe, Size};

/// How long a peer may take to log in.
const CLOSED_AFTER: Duration = Duration::from_secs(5);

/// How long good clients are watched, with and without company.
fn watched(size: Size) -> Duration {
    size.pick(Duration::from_millis(500), Duration::from_secs(8))
}

fn watch(address: SocketAddr, size: Size) -> Latencies {
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
    let before = watch(address, size).p99();
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
    /// What others noticed meanwhile: p99 in milliseconds.
    p99: f64,
}

impl Storm {
    /// Logins with wrong passwords, as many a second as `size` says: guesses at a user that exists, another one each time, and
    /// as many of a user that does not, always with the same password, as a fleet of devices with an old one; what clients of
    /// `broker` notice while it rages against `target`.
    fn rage(broker: &Broker, target: &Broker, size: Size) -> Self {
        let (address, target) = (broker.address(), target.address());
        let stop = Arc::new(AtomicBool::new(false));
        let tried = Arc::new(AtomicUsize::new(0));
        let per_second = storm_per_second(size);
        let threads = 2;
        let since = Instant::now();
        let storm: Vec<_> = (0..threads)
            .map(|number| {
                let (stop, tried) = (Arc::clone(&stop), Arc::clone(&tried));
                thread::spawn(move || log_in(target, number, per_second / threads, &stop, &tried))
            })
            .collect();
        // The first ones are answered, and banned where there are bans.
        thread::sleep(ANSWER_AFTER);
        let p99 = watch(address, size).p99();
        let per_second = tried.load(Ordering::Relaxed) as f64
            / since.elapsed().saturating_sub(ANSWER_AFTER).as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let let_in = storm.into_iter().map(|one| one.join().expect("it storms")).sum();
        Self { let_in, per_second, p99 }
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

/// Quiet, a storm against another broker, a storm against this one: in turn, so that an hour in which the machine is slower is
/// slower for all three; medians.
///
/// The attackers have no machine of their own: what they take from everybody is felt by clients of another broker, too.
fn run_storm(shards: u16, size: Size, security: &str, names: &StormNames) -> Vec<Figure> {
    let (broker, other) = (with_users(shards, security), with_users(shards, security));
    let mut let_in = 0;
    let [mut per_second, mut p99, mut over_quiet, mut over_elsewhere] = [const { Vec::new() }; 4];
    for _ in 0..size.pick(1, STORM_ROUNDS) {
        let quiet = watch(broker.address(), size).p99();
        let elsewhere = Storm::rage(&broker, &other, size);
        let storm = Storm::rage(&broker, &broker, size);
        let_in += storm.let_in + elsewhere.let_in;
        per_second.push(storm.per_second);
        p99.push(storm.p99);
        over_quiet.push(storm.p99 / quiet);
        over_elsewhere.push(storm.p99 / elsewhere.p99);
    }
    let enough = storm_per_second(size) as f64 * 0.8;
    vec![
        Figure::exactly(18, names.let_in, let_in, 0),
        Figure::at_least(18, Kind::Speed, names.per_second, median(per_second), enough, ""),
        Figure::at_most(18, Kind::Speed, names.over_quiet, median(over_quiet), 2.0, "x"),
        Figure::at_most(18, Kind::Speed, names.over_elsewhere, median(over_elsewhere), 2.0, "x"),
        Figure::at_most(18, Kind::Speed, names.noticed, median(p99), 10.0, "ms"),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How often a storm and a quiet time follow each other: an odd number.
const STORM_ROUNDS: usize = 5;

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
    let mut waiting: VecDeque<(Attacker, Instant)> = VecDeque::new();
    let (mut count, mut let_in) = (0_usize, 0);
    while !stop.load(Ordering::Relaxed) {
        let due = Duration::from_secs_f64(count as f64 / per_second as f64);
        thread::sleep(due.saturating_sub(since.elapsed()));
        count += 1;
        let client_id = format!("storm-{number}-{count}");
        let (user, password) =
            if count % 2 == 0 { ("anna", client_id.as_bytes()) } else { ("nobody", &b"old"[..]) };
        let mut connect = Connect::new(ProtocolVersion::V5, &client_id);
        connect.username = Some(user);
        connect.password = Some(password);
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        let peer = Attacker::knock(address, 10 + (count % 40) as u8, &bytes);
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
            let_in += usize::from(answer == Answer::LetIn);
            tried.fetch_add(1, Ordering::Relaxed);
        }
    }
    for (peer, _) in waiting {
        let_in += usize::from(peer.wait() == Answer::LetIn);
    }
    let_in
}

/// What came of a try to log in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    LetIn,
    TurnedAway,
}

/// One try to log in, with as few system calls and as little memory as it takes: what ten thousand of them a second cost is
/// missing where the broker and those who are watched run.
struct Attacker(Socket);

impl Attacker {
    /// Connects from 127.0.0.`source` and says a CONNECT.
    fn knock(address: SocketAddr, source: u8, connect: &[u8]) -> Self {
        let from = SocketAddr::from(([127, 0, 0, source], 0));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("descriptors are left");
        // A port whose last connection is in TIME-WAIT will do.
        socket.set_reuse_address(true).expect("always possible");
        socket.bind(&from.into()).expect("all of 127.0.0.0/8 is this machine");
        socket.connect(&address.into()).expect("the broker accepts");
        // Who is banned is closed before he has said anything.
        let _ = socket.send(connect);
        Self(socket)
    }

    /// What has come of it, if anything has.
    fn poll(&mut self) -> Option<Answer> {
        self.0.set_nonblocking(true).expect("always possible");
        match self.read() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            read => Some(answer(read)),
        }
    }

    /// What comes of it, in the end.
    fn wait(self) -> Answer {
        self.0.set_nonblocking(false).expect("always possible");
        let patience = Some(Duration::from_secs(10));
        self.0.set_read_timeout(patience).expect("always possible");
        answer(self.read())
    }

    /// The first four bytes of a CONNACK, which end with the reason code; fewer where there is none.
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut head = [0; 4];
        let count = (&self.0).read(&mut head)?;
        Ok(head[..count].to_vec())
    }
}

fn answer(read: io::Result<Vec<u8>>) -> Answer {
    match read.as_deref() {
        Ok([0x20, _, _, 0]) => Answer::LetIn,
        _ => Answer::TurnedAway,
    }
}
