//! The endpoint over real sockets, in front of made-up statistics pages.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use midge_metrics::{Busiest, Counters, Identity, Instance, LogCondition, PageWriter, Series};
use midge_services::{
    ListenerCounter, ListenerLabel, ListenerNumbers, Services, Stage, Standing, Starting, View,
    start,
};

/// A broker that is not there: its pages and its endpoint.
struct Fixture {
    address: SocketAddr,
    standing: Standing,
    directory: PathBuf,
    services: Option<Services>,
}

impl Fixture {
    fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("midge-{test}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for this test");
        for shard in 0..2 {
            let identity = Identity { shard, shards: 2, started: SystemTime::now() };
            let mut page = PageWriter::create(&directory, identity).expect("a page");
            page.record(Series::Turn, 30_000, 2);
            let counters = Counters {
                connections_now: 5 + u64::from(shard),
                dropped_expired: 1,
                ..Counters::default()
            };
            page.publish(&counters, &mut Busiest::default(), 1);
        }
        let instance = Instance::open(&directory).map_err(|error| error.to_string());
        let mut fixture = Self::with(instance);
        fixture.directory = directory;
        fixture
    }

    fn with(instance: Result<Instance, String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let standing = Standing::default();
        let view = View {
            standing: standing.clone(),
            starting: Starting::default(),
            version: "1.2.3",
            listeners: Arc::new(RwLock::new(vec![ListenerLabel {
                name: "plain".into(),
                address: address.to_string(),
                number: 0,
            }])),
            counter: ListenerCounter(Arc::new(|_| ListenerNumbers::default())),
        };
        let services = start(listener, view).expect("a thread");
        services.show(instance, vec!["0000000001.log, offset 8192: damaged".into()]);
        let services = Some(services);
        Self { address, standing, directory: PathBuf::new(), services }
    }

    /// Everything that comes back for these bytes, until the other end closes.
    fn ask_raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        stream.write_all(request).expect("taken");
        let mut answer = Vec::new();
        // A connection that is reset has said all it will.
        _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("UTF-8")
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let answer = self.ask_raw(
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (status(head), body.to_owned())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.services = None;
        _ = fs::remove_dir_all(&self.directory);
    }
}

fn status(answer: &str) -> u16 {
    let word = answer.split(' ').nth(1).expect("a status");
    word.parse().expect(answer)
}

#[test]
fn metrics_tell_what_the_pages_say() {
    let fixture = Fixture::new("admin-metrics");
    let (code, text) = fixture.ask("GET", "/metrics");
    assert_eq!(code, 200);
    for line in [
        "midge_connections{core=\"0\"} 5",
        "midge_connections{core=\"1\"} 6",
        "midge_messages_dropped_total{core=\"1\",reason=\"expired\"} 1",
        "midge_turn_seconds_bucket{core=\"0\",le=\"0.00005\"} 2",
        "midge_build_info{version=\"1.2.3\"} 1",
        "midge_ready 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    let head = fixture.ask_raw(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn health_follows_the_broker() {
    let fixture = Fixture::new("admin-health");
    for (stage, code, sentence) in [
        (None, 503, "starting\n"),
        (Some(Stage::Serving), 200, "ready\n"),
        (Some(Stage::Draining), 503, "draining\n"),
    ] {
        if let Some(stage) = stage {
            fixture.standing.reach(stage);
        }
        assert_eq!(fixture.ask("GET", "/health/ready"), (code, sentence.into()));
        let (_, text) = fixture.ask("GET", "/metrics");
        let ready = u8::from(code == 200);
        assert!(text.contains(&format!("\nmidge_ready {ready}\n")), "{stage:?}");
        // A process that starts or drains is not to be restarted.
        assert_eq!(fixture.ask("GET", "/health/live"), (200, "live\n".into()));
    }
}

#[test]
fn a_disk_that_is_not_well_shows() {
    let mut pages = Vec::new();
    let directory = std::env::temp_dir().join(format!("midge-admin-disk-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory for this test");
    for shard in 0..2 {
        let identity = Identity { shard, shards: 2, started: SystemTime::now() };
        pages.push(PageWriter::create(&directory, identity).expect("a page"));
    }
    let mut show = |shard: usize, condition: LogCondition, damage| {
        let mut counters = Counters { log_damage_now: damage, ..Counters::default() };
        counters.logs_by_condition_now[condition as usize] = 1;
        pages[shard].publish(&counters, &mut Busiest::default(), 1);
    };
    show(0, LogCondition::Healthy, 0);
    show(1, LogCondition::Healthy, 0);
    let mut fixture = Fixture::with(Instance::open(&directory).map_err(|error| error.to_string()));
    fixture.directory = directory;
    assert_eq!(fixture.ask("GET", "/health"), (503, "starting\n".into()));
    fixture.standing.reach(Stage::Serving);
    assert_eq!(fixture.ask("GET", "/health"), (200, "healthy\n".into()));

    show(1, LogCondition::Full, 0);
    let full = "shard 1: the disk has no room, so what must be kept is not acknowledged\n";
    assert_eq!(fixture.ask("GET", "/health"), (503, format!("degraded\n{full}")));
    assert_eq!(fixture.ask("GET", "/health/ready"), (503, full.into()));
    assert_eq!(fixture.ask("GET", "/health/live").0, 200, "a new process would find the same disk");
    let (_, text) = fixture.ask("GET", "/metrics");
    assert!(text.contains("midge_ready 0\n"), "{text}");
    let series = "midge_logs_by_condition{core=\"1\",condition=\"full\"} 1\n";
    assert!(text.contains(series), "{text}");

    show(1, LogCondition::Healthy, 3);
    let (code, text) = fixture.ask("GET", "/health");
    assert_eq!(code, 200, "it serves what is left");
    assert!(
        text.starts_with("degraded\nshard 1: 3 places of its log were found damaged"),
        "{text}"
    );
    assert!(text.ends_with("\n0000000001.log, offset 8192: damaged\n"), "{text}");
    assert_eq!(fixture.ask("GET", "/health/ready"), (200, "ready\n".into()));

    show(1, LogCondition::Healthy, 0);
    assert_eq!(fixture.ask("GET", "/health"), (200, "healthy\n".into()));
}

#[test]
fn requests_that_are_not_understood_get_a_sentence() {
    let fixture = Fixture::new("admin-requests");
    let (code, text) = fixture.ask("GET", "/");
    assert_eq!(code, 404);
    assert_eq!(text, "no such page; there are /metrics, /health, /health/live and /health/ready\n");
    let (code, text) = fixture.ask("POST", "/metrics");
    assert_eq!((code, text), (405, "nothing can be changed here; ask with GET or HEAD\n".into()));
    assert_eq!(fixture.ask("DELETE", "/nowhere").0, 404);

    let body = b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
    let answer = fixture.ask_raw(body);
    assert_eq!(status(&answer), 413, "{answer}");
    assert!(answer.ends_with("a request here has no body\n"), "{answer}");
    let chunked = b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(status(&fixture.ask_raw(chunked)), 413);

    for nonsense in [&b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0\r\n\r\n"[..], b"\r\nhello\r\n\r\n"] {
        let answer = fixture.ask_raw(nonsense);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(10_000));
    assert!((400..500).contains(&status(&fixture.ask_raw(long.as_bytes()))));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    assert_eq!(status(&fixture.ask_raw(many.as_bytes())), 431);
    // None of it has hurt it.
    assert_eq!(fixture.ask("GET", "/health/live").0, 200);
}

/// Whoever connects and says nothing, or half of something, is not waited for.
#[test]
fn silence_is_cut_off() {
    let fixture = Fixture::new("admin-silence");
    let started = Instant::now();
    let silent = std::thread::scope(|scope| {
        let nothing = scope.spawn(|| fixture.ask_raw(b""));
        let half = scope.spawn(|| fixture.ask_raw(b"GET /metrics HTTP/1.1\r\nHost"));
        [nothing.join().expect("an answer"), half.join().expect("an answer")]
    });
    assert!(started.elapsed() < Duration::from_secs(15));
    assert!(silent.iter().all(|answer| !answer.contains("200 OK")), "{silent:?}");
}

/// More than a burst waits, whoever asks; nobody is turned away.
#[test]
fn a_flood_waits() {
    let fixture = Fixture::new("admin-flood");
    let requests = midge_services::REQUESTS_PER_SECOND_MAX as usize * 2;
    let mut stream = TcpStream::connect(fixture.address).expect("somebody listens");
    let started = Instant::now();
    let one = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n".repeat(requests - 1);
    stream.write_all(&one).expect("taken");
    stream
        .write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("taken");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("answers");
    assert_eq!(answers.matches("200 OK").count(), requests);
    // The second half came at the rate.
    assert!(started.elapsed() > Duration::from_millis(900), "{:?}", started.elapsed());
}

#[test]
fn without_pages_it_says_why() {
    let fixture = Fixture::with(Err("no directory".into()));
    let expected = (503, "there are no statistics: no directory\n".to_owned());
    assert_eq!(fixture.ask("GET", "/metrics"), expected);
    fixture.standing.reach(Stage::Serving);
    assert_eq!(fixture.ask("GET", "/health/ready").0, 200);
}

/// A broker that reads its logs answers, and says how far it has come.
#[test]
fn a_long_start_can_be_looked_at() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let percent = Arc::new(AtomicU32::new(7));
    let read = Arc::clone(&percent);
    let standing = Standing::default();
    let view = View {
        standing: standing.clone(),
        starting: Starting(Arc::new(move || format!("{} %", read.load(Ordering::Relaxed)))),
        version: "1.2.3",
        listeners: Arc::default(),
        counter: ListenerCounter(Arc::new(|_| ListenerNumbers::default())),
    };
    let services = Some(start(listener, view).expect("a thread"));
    let fixture = Fixture { address, standing, directory: PathBuf::new(), services };
    for said in ["7 %", "93 %"] {
        assert_eq!(fixture.ask("GET", "/health/ready"), (503, format!("{said}\n")));
        assert_eq!(fixture.ask("GET", "/health"), (503, format!("{said}\n")));
        let nothing = format!("there are no statistics yet: {said}\n");
        assert_eq!(fixture.ask("GET", "/metrics"), (503, nothing));
        assert_eq!(fixture.ask("GET", "/health/live"), (200, "live\n".into()), "no restart");
        percent.store(93, Ordering::Relaxed);
    }
    let services = fixture.services.as_ref().expect("it runs");
    services.show(Err("no directory".into()), Vec::new());
    let none = (503, "there are no statistics: no directory\n".into());
    assert_eq!(fixture.ask("GET", "/metrics"), none);
    fixture.standing.reach(Stage::Serving);
    assert_eq!(fixture.ask("GET", "/health/ready"), (200, "ready\n".into()));
}

#[test]
fn it_ends_when_it_is_dropped() {
    let mut fixture = Fixture::new("admin-end");
    let _open = TcpStream::connect(fixture.address).expect("somebody listens");
    fixture.services = None;
    assert!(TcpStream::connect(fixture.address).is_err());
}
