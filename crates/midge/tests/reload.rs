//! `midge reload` and `midge check --diff` against a running broker: what changes, what waits, what is refused.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running broker with a configuration file of its own; ends with the test.
struct Broker {
    child: Child,
    directory: PathBuf,
}

impl Broker {
    fn start(test: &str, configuration: &str) -> Self {
        let name = format!("midge-reload-{test}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("midge.yaml"), configuration).expect("a file");
        fs::write(directory.join("acl"), "topic read a\n").expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_midge"))
            .args([
                "serve",
                "--config",
                "midge.yaml",
                "--ephemeral",
                "--shards",
                "2",
                "--runtime-dir",
            ])
            .arg(directory.join("run"))
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("serves mqtt") {
            line.clear();
            assert!(stderr.read_line(&mut line).expect("a line") > 0, "it ended");
        }
        // Nobody writes more than a pipe holds.
        child.stderr = Some(stderr.into_inner());
        Self { child, directory }
    }

    fn write(&self, configuration: &str) {
        fs::write(self.directory.join("midge.yaml"), configuration).expect("a file");
    }

    fn midge(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_midge"))
            .args(arguments)
            .arg("--runtime-dir")
            .arg(self.directory.join("run"))
            .current_dir(&self.directory)
            .output()
            .expect("the program starts")
    }

    /// The lines of a command that succeeds.
    fn lines(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.midge(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        _ = fs::remove_dir_all(&self.directory);
    }
}

/// An address that was free a moment ago, of which no other test here is told, and whose port the kernel gives to nobody who
/// asks for any: its own range begins above.
fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(16);
    let free = (0..10_000).find_map(|_| {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 15_000 + u16::try_from(number % 15_000).ok()?;
        TcpListener::bind(("127.0.0.1", port)).and_then(|free| free.local_addr()).ok()
    });
    free.expect("a free port")
}

/// The code of the CONNACK; `None`: closed without one.
fn connect(
    address: SocketAddr,
    client_id: &str,
    user: Option<(&str, &str)>,
) -> (TcpStream, Option<u8>) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("is above zero");
    let mut body = b"\0\x04MQTT\x04".to_vec();
    body.push(if user.is_some() { 0xc2 } else { 2 });
    body.extend([0, 0]);
    for text in
        [Some(client_id), user.map(|user| user.0), user.map(|user| user.1)].into_iter().flatten()
    {
        body.extend((text.len() as u16).to_be_bytes());
        body.extend(text.as_bytes());
    }
    let packet = [&[0x10, body.len() as u8][..], &body].concat();
    stream.write_all(&packet).expect("is taken");
    let mut connack = [0; 4];
    match stream.read_exact(&mut connack) {
        Ok(()) => (stream, Some(connack[3])),
        Err(_) => (stream, None),
    }
}

fn is_alive(stream: &mut TcpStream) -> bool {
    let mut pong = [0; 2];
    stream.write_all(&[0xc0, 0]).is_ok()
        && stream.read_exact(&mut pong).is_ok()
        && pong == [0xd0, 0]
}

/// A listener is closed a moment after the command has answered.
fn wait_until_closed(address: SocketAddr) {
    let since = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            _ => assert!(since.elapsed() < PATIENCE, "{address} still accepts"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_until_open(address: SocketAddr, client_id: &str) -> TcpStream {
    let since = Instant::now();
    loop {
        if TcpStream::connect(address).is_ok()
            && let (stream, Some(0)) = connect(address, client_id, None)
        {
            return stream;
        }
        assert!(since.elapsed() < PATIENCE, "{address} does not accept");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn listeners_and_limits_change_and_nobody_is_dropped() {
    let (first, second) = (free(), free());
    let one = format!("listeners: [{{name: a, address: \"{first}\"}}]\n");
    let broker = Broker::start("listeners", &one);
    let mut early = wait_until_open(first, "early");

    let both = format!(
        "listeners: [{{name: a, address: \"{first}\", backlog: 7}}, {{name: b, address: \"{second}\"}}]\n\
         limits: {{queued_messages_max: 5, maximum_packet_size_bytes: 1KiB, client_id_size_max: 23}}\n\
         shards: 4\n"
    );
    broker.write(&both);
    let expected = [
        "limits.client_id_size_max: 65535 → 23",
        "limits.maximum_packet_size_bytes: 1 MiB → 1 KiB (needs a restart)",
        "limits.queued_messages_max: 1000 → 5",
        "listeners[a].backlog: 4096 → 7",
    ];
    let dry = broker.lines(&["check", "--diff"]);
    assert_eq!(dry[..4], expected);
    assert_eq!(dry[4], format!("listeners[b]: none → {second}"));
    assert!(dry.last().is_some_and(|line| line.contains("nothing was changed")), "{dry:?}");
    assert_eq!(
        TcpStream::connect(second).map_err(|error| error.kind()).err(),
        Some(ErrorKind::ConnectionRefused)
    );
    assert_eq!(broker.lines(&["check", "--config", "midge.yaml", "--diff"]), dry);

    let told = broker.lines(&["reload"]);
    assert_eq!(told[..5], dry[..5]);
    let mut late = wait_until_open(second, "late");
    assert_eq!(connect(first, "an-identifier-that-is-too-long", None).1, Some(2));
    assert!(is_alive(&mut early) && is_alive(&mut late));
    let clients = broker.lines(&["clients", "--json"]).concat();
    assert!(clients.contains("\"listener\":\"b\""), "{clients}");

    // The first one goes: who came by it stays.
    broker.write(&format!("listeners: [{{name: b, address: \"{second}\"}}]\nshards: 2\n"));
    broker.lines(&["reload"]);
    wait_until_closed(first);
    assert!(is_alive(&mut early) && is_alive(&mut late));
    // And comes back.
    broker.write(&one);
    broker.lines(&["reload"]);
    let mut again = wait_until_open(first, "again");
    wait_until_closed(second);
    assert!(is_alive(&mut early) && is_alive(&mut late) && is_alive(&mut again));
}

#[test]
fn a_wrong_file_changes_nothing() {
    let address = free();
    let sound = format!("listeners: [{{address: \"{address}\"}}]\n");
    let broker = Broker::start("wrong", &sound);
    let mut client = wait_until_open(address, "stays");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("an address");
    let other = free();
    for (configuration, problem) in [
        (
            "limits: {maximum_qos: 3}\n".to_owned(),
            "midge.yaml:2:10: limits.maximum_qos: 3 is out of range",
        ),
        ("nonsense: 1\n".to_owned(), "midge.yaml:2:1: nonsense: unknown key"),
        ("security: {acl_file: nowhere}\n".to_owned(), "security.acl_file: cannot read nowhere"),
        ("security: {allow_anonymous: false}\n".to_owned(), "nobody may connect"),
    ] {
        let added = format!(
            "listeners: [{{address: \"{address}\"}}, {{address: \"{other}\"}}]\n{configuration}"
        );
        broker.write(&added);
        for command in [&["reload"][..], &["reload", "--dry-run"], &["check", "--diff"]] {
            let output = broker.midge(command);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{configuration}: {said}");
            assert!(said.contains(problem), "{configuration}: {said}");
        }
    }
    // One that can be opened and one that cannot: neither is.
    broker.write(&format!(
        "listeners: [{{address: \"{address}\"}}, {{address: \"{other}\"}}, {{address: \"{}\"}}]\n",
        taken.1
    ));
    let output = broker.midge(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("already in use"), "{said}");
    assert_eq!(
        TcpStream::connect(other).map_err(|error| error.kind()).err(),
        Some(ErrorKind::ConnectionRefused)
    );
    assert!(is_alive(&mut client));
    broker.write(&sound);
    assert_eq!(broker.lines(&["reload"])[0], "no setting and no certificate differs");
}

#[test]
fn users_rules_and_descriptors_over_many_reloads() {
    let (address, extra) = (free(), free());
    let broker = Broker::start("many", &format!("listeners: [{{address: \"{address}\"}}]\n"));
    let mut anonymous = wait_until_open(address, "stays");
    let before = broker.descriptors();
    for round in 0..20 {
        let more =
            if round % 2 == 0 { format!(", {{address: \"{extra}\"}}") } else { String::new() };
        broker.write(&format!(
            "listeners: [{{address: \"{address}\"}}{more}]\nlimits: {{queued_messages_max: {}}}\n",
            100 + round
        ));
        broker.lines(&["reload"]);
        assert!(is_alive(&mut anonymous), "round {round}");
    }
    wait_until_closed(extra);
    // Connections to the control socket and to listeners end a moment later.
    let since = Instant::now();
    while broker.descriptors() > before {
        assert!(since.elapsed() < PATIENCE, "{} instead of {before}", broker.descriptors());
        std::thread::sleep(Duration::from_millis(10));
    }
    let rules = broker.directory.join("acl");
    fs::write(&rules, "topic read a\n").expect("a file");
    broker
        .write(&format!("listeners: [{{address: \"{address}\"}}]\nsecurity: {{acl_file: acl}}\n"));
    let told = broker.lines(&["reload"]);
    assert!(told.iter().any(|line| line == "security.acl_file: none → acl"), "{told:?}");
    // SUBSCRIBE to `a` and to `b`.
    anonymous.write_all(b"\x82\x0a\0\x01\0\x01a\0\0\x01b\0").expect("is taken");
    let mut suback = [0; 6];
    anonymous.read_exact(&mut suback).expect("a SUBACK");
    assert_eq!(suback, [0x90, 4, 0, 1, 0, 0x80]);

    // The first users of a broker that had none.
    let passwd = Command::new(env!("CARGO_BIN_EXE_midge"))
        .args(["passwd", "-H", "sha512", "users", "anna", "pw"])
        .current_dir(&broker.directory)
        .status()
        .expect("the program starts");
    assert!(passwd.success());
    broker.write(&format!(
        "listeners: [{{address: \"{address}\"}}]\nsecurity: {{password_file: users}}\n"
    ));
    broker.lines(&["reload"]);
    assert!(is_alive(&mut anonymous));
    let since = Instant::now();
    while connect(address, "anna", Some(("anna", "wrong"))).1 == Some(0) {
        assert!(since.elapsed() < PATIENCE, "the new users do not count");
    }
    assert_eq!(connect(address, "anna", Some(("anna", "pw"))).1, Some(0));
    assert_eq!(connect(address, "nobody", None).1, Some(5));
}

/// What all clients of one listener publish together is held to its rate on both shards, and not any more after a reload.
#[test]
fn a_listener_has_a_rate_and_loses_it() {
    let (public, inside) = (free(), free());
    let configuration = |limits: &str| {
        format!(
            "listeners: [{{name: public, address: \"{public}\"{limits}}}, {{name: inside, address: \"{inside}\"}}]\n"
        )
    };
    let limited = configuration(", limits: {publishes_per_second_total_max: 40}");
    let broker = Broker::start("rate", &limited);
    let mut reader = wait_until_open(inside, "reader");
    reader.write_all(b"\x82\x06\0\x01\0\x01t\0").expect("is taken");
    reader.read_exact(&mut [0; 5]).expect("a SUBACK");
    // Clients of both shards, who say all they have at once.
    let packet = b"\x30\x04\0\x01tx";
    let started = Instant::now();
    let writers: Vec<TcpStream> = (0..8)
        .map(|number| {
            let (mut stream, code) = connect(public, &format!("writer-{number}"), None);
            assert_eq!(code, Some(0));
            stream.write_all(&packet.repeat(100)).expect("is taken");
            stream
        })
        .collect();
    let mut got = 0;
    for wanted in [40, 100, 150] {
        reader.read_exact(&mut vec![0; (wanted - got) * packet.len()]).expect("they come");
        got = wanted;
        // A second's worth at once, a quarter ahead, and one that each shard has booked already.
        let allowed = started.elapsed().as_millis() * 40 / 1000 + 40 + 10 + 2;
        assert!(allowed >= got as u128, "{got} in {:?}", started.elapsed());
    }
    let paced: u64 = {
        let stats = broker.lines(&["stats", "--json"]).concat();
        let name = "\"publishers_paced_together\":";
        let numbers = stats.split(name).skip(1).map(|rest| {
            let digits: String =
                rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().unwrap_or(0)
        });
        numbers.sum()
    };
    assert!(paced > 0);

    broker.write(&configuration(""));
    let told = broker.lines(&["reload"]);
    let line = "listeners[public].limits.publishes_per_second_total_max: 40 → 0";
    assert!(told.iter().any(|one| one == line), "{told:?}");
    reader.read_exact(&mut vec![0; (800 - got) * packet.len()]).expect("all of them come");
    assert!(started.elapsed() < Duration::from_millis((800 - 40) * 1000 / 40), "as slow as before");
    drop(writers);
}

/// What a listener's clients have retained is counted over both shards, and a reload gives room for more.
#[test]
fn a_listener_has_so_many_retained_messages() {
    let (public, inside) = (free(), free());
    let configuration = |most: u32| {
        format!(
            "listeners: [{{name: public, address: \"{public}\", limits: {{retained_messages_max: {most}}}}}, \
             {{name: inside, address: \"{inside}\"}}]\n"
        )
    };
    let broker = Broker::start("retained", &configuration(5));
    let connect = |address, client_id: u8| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("is above zero");
        let packet = [b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01", &[client_id][..]].concat();
        stream.write_all(&packet).expect("is taken");
        let mut head = [0; 2];
        stream.read_exact(&mut head).expect("a CONNACK");
        stream.read_exact(&mut vec![0; usize::from(head[1])]).expect("all of it");
        stream
    };
    // A reason code for each topic.
    let retain = |stream: &mut TcpStream, topics: std::ops::Range<u8>| -> Vec<u8> {
        let told = topics.map(|topic| {
            let packet = [b"\x33\x07\0\x01", &[b'a' + topic][..], b"\0\x01\0x"].concat();
            stream.write_all(&packet).expect("is taken");
            let mut head = [0; 2];
            stream.read_exact(&mut head).expect("a PUBACK");
            let mut body = vec![0; usize::from(head[1])];
            stream.read_exact(&mut body).expect("all of it");
            body.get(2).copied().unwrap_or(0)
        });
        told.collect()
    };
    let (mut outside, mut within) = (connect(public, b'x'), connect(inside, b'y'));
    assert_eq!(retain(&mut outside, 0..8), [0, 0, 0, 0, 0, 0x97, 0x97, 0x97]);
    assert_eq!(retain(&mut within, 5..8), [0, 0, 0]);
    // What the other one replaces is its own from then on.
    assert_eq!(retain(&mut within, 0..1), [0]);
    assert_eq!(retain(&mut outside, 8..10), [0, 0x97]);
    broker.write(&configuration(7));
    let told = broker.lines(&["reload"]);
    let line = "listeners[public].limits.retained_messages_max: 5 → 7";
    assert!(told.iter().any(|one| one == line), "{told:?}");
    let since = Instant::now();
    while retain(&mut outside, 10..11) != [0] {
        assert!(since.elapsed() < PATIENCE, "the new limit does not count");
    }
    assert_eq!(retain(&mut outside, 11..14), [0, 0x97, 0x97]);
}

/// Who comes, goes and is denied, and what operators do, in a file that may be moved away.
#[test]
fn the_audit_log_tells_who_did_what() {
    let address = free();
    let broker = Broker::start(
        "audit",
        &format!(
            "listeners: [{{name: a, address: \"{address}\"}}]\naudit: {{file: audit.log}}\n\
             limits: {{client_id_size_max: 23}}\nsecurity: {{acl_file: acl}}\n"
        ),
    );
    let path = broker.directory.join("audit.log");
    let wait_for = |path: &std::path::Path, parts: &[&str]| {
        let since = Instant::now();
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.lines().any(|line| parts.iter().all(|part| line.contains(part))) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{parts:?} in {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut client = wait_until_open(address, "auditee");
    wait_for(&path, &["connect", "auditee", "\"listener\":\"a\"", "3.1.1"]);
    client.write_all(b"\x30\x04\0\x01xp").expect("is taken");
    wait_for(&path, &["denied", "publish", "\"topic\":\"x\""]);
    connect(address, "an-identifier-that-is-too-long", None);
    wait_for(&path, &["denied", "an-identifier-that-is-too-long"]);
    fs::rename(&path, broker.directory.join("audit.log.1")).expect("ours");
    broker.lines(&["reload"]);
    wait_for(&path, &["configuration"]);
    broker.lines(&["kick", "auditee"]);
    wait_for(&path, &["admin", "kick", "auditee"]);
    wait_for(&path, &["disconnect", "auditee", "\"said_goodbye\":false"]);
}

/// A service that gives everybody the same answer, for as long as the test runs.
fn service(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                // A question fits; the connection is kept for the next one.
                while stream.read(&mut request).is_ok_and(|size| size > 0) {
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json";
                    let size = answer.len();
                    let whole = format!("{head}\r\nContent-Length: {size}\r\n\r\n{answer}");
                    if stream.write_all(whole.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Whether a new subscription gets the retained `$SYS/broker/uptime`.
fn wait_until_uptime_is(address: SocketAddr, there: bool) {
    let since = Instant::now();
    loop {
        let (mut stream, _) = connect(address, "uptime", None);
        let topic = b"$SYS/broker/uptime";
        let head = [0x82, 5 + topic.len() as u8, 0, 1, 0, topic.len() as u8];
        stream.write_all(&[&head[..], topic, &[0]].concat()).expect("is taken");
        let mut suback = [0; 5];
        stream.read_exact(&mut suback).expect("a SUBACK");
        // Longer than it takes from the shard that keeps it.
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("is above zero");
        let comes = stream.read_exact(&mut [0; 2]).is_ok();
        if comes == there {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "uptime: {comes}");
    }
}

/// Whom others are asked, how much is logged, and how the end goes.
#[test]
fn what_lies_outside_of_the_shards_changes_too() {
    let address = free();
    let (yes, no) = (service(r#"{"result": "allow"}"#), service(r#"{"result": "deny"}"#));
    let configuration = |service: Option<SocketAddr>, more: &str| {
        let http = service.map_or_else(String::new, |service| {
            format!("http: {{url: \"http://{service}/\", cache: 0}}, ")
        });
        format!(
            "listeners: [{{address: \"{address}\"}}]\n\
             security: {{{http}allow_anonymous: {}}}\n{more}",
            service.is_none()
        )
    };
    let mut broker = Broker::start("outside", &configuration(Some(yes), ""));
    let anna = Some(("anna", "x"));
    assert_eq!(connect(address, "anna", anna).1, Some(0));

    broker.write(&configuration(
        Some(no),
        "log: {level: debug}\nsys: {interval: 1s}\nshutdown: {drain_timeout: 3s}\n",
    ));
    let told = broker.lines(&["reload"]);
    for line in [
        "log.level: info → debug",
        "sys.interval: 10s → 1s",
        "shutdown.drain_timeout: 10s → 3s",
        &format!("security.http.url: http://{yes}/ → http://{no}/"),
    ] {
        assert!(told.iter().any(|one| one == line), "{line} in {told:?}");
    }
    assert_eq!(connect(address, "anna", anna).1, Some(4));

    // Nobody is asked any more: names mean nothing.
    let rest = "log: {level: debug}\nshutdown: {drain_timeout: 3s}\n";
    broker.write(&configuration(None, &format!("{rest}sys: {{interval: 1s}}\n")));
    broker.lines(&["reload"]);
    assert_eq!(connect(address, "ben", Some(("ben", "x"))).1, Some(0));
    wait_until_uptime_is(address, true);
    // What is not published any more is not retained either.
    broker.write(&configuration(None, &format!("{rest}sys: {{interval: 0}}\n")));
    broker.lines(&["reload"]);
    wait_until_uptime_is(address, false);
    broker.write(&configuration(Some(no), "log: {level: debug, format: json}\n"));
    let told = broker.lines(&["reload", "--dry-run"]);
    assert!(told.contains(&"log.format: text → json (needs a restart)".to_owned()), "{told:?}");
    assert_eq!(connect(address, "carl", Some(("carl", "x"))).1, Some(0));

    let pid = rustix::process::Pid::from_raw(broker.child.id().cast_signed()).expect("it runs");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let mut said = String::new();
    broker.child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert!(said.contains("DEBUG"), "{said}");
    assert!(said.contains("draining for 3s at most"), "{said}");
}
