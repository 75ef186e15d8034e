//! The control socket as its own clients never use it: words that are none, too many, too large, too slow.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running broker and its control socket; ends with the test.
struct Broker {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
}

impl Broker {
    fn start(test: &str, shards: u16) -> Self {
        let name = format!("midge-control-{test}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        _ = fs::remove_dir_all(&directory);
        let mut child = Command::new(env!("CARGO_BIN_EXE_midge"))
            .args([
                "serve",
                "--ephemeral",
                "--listen",
                "127.0.0.1:0",
                "--shards",
                &shards.to_string(),
            ])
            .arg("--runtime-dir")
            .arg(&directory)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        stderr.read_line(&mut line).expect("a line");
        // Nobody writes more than a pipe holds.
        child.stderr = Some(stderr.into_inner());
        let mut words = line.split_whitespace().skip_while(|word| *word != "on");
        let address = words.nth(1).expect(&line).trim_end_matches(':').parse().expect(&line);
        Self { child, directory, address }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(self.child.id().to_string()).join("control.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("is above zero");
        stream
    }

    /// Threads that serve a connection to the control socket.
    fn talking(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let names = tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")));
        names.filter(|name| name.as_ref().is_ok_and(|name| name == "control-client\n")).count()
    }

    /// Waits until so many threads serve connections to the control socket.
    fn wait_until_talking(&self, wanted: usize) {
        let since = Instant::now();
        while self.talking() != wanted {
            assert!(since.elapsed() < PATIENCE, "{} instead of {wanted}", self.talking());
            std::thread::yield_now();
        }
    }

    /// An MQTT 3.1.1 client.
    fn client(&self, client_id: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("is above zero");
        let size = client_id.len() as u8;
        let mut connect = vec![0x10, 12 + size, 0, 4];
        connect.extend(b"MQTT\x04\x02\0\0\0");
        connect.push(size);
        connect.extend(client_id.as_bytes());
        stream.write_all(&connect).expect("is taken");
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).expect("a CONNACK");
        assert_eq!(connack, [0x20, 2, 0, 0]);
        stream
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        _ = fs::remove_dir_all(&self.directory);
    }
}

/// The lines up to the one that ends an answer.
fn answer(reader: &mut impl BufRead) -> Vec<Value> {
    let mut lines = Vec::new();
    loop {
        let mut text = String::new();
        assert!(reader.read_line(&mut text).expect("a line") > 0, "closed after {lines:?}");
        let line: Value = serde_json::from_str(&text).expect(&text);
        let last = line.get("end").is_some() || line.get("error").is_some();
        lines.push(line);
        if last {
            return lines;
        }
    }
}

fn ask(stream: &UnixStream, request: &str) -> Vec<Value> {
    writeln!(&*stream, "{request}").expect("is taken");
    answer(&mut BufReader::new(stream))
}

fn code(lines: &[Value]) -> &str {
    lines.last().and_then(|line| line["error"]["code"].as_str()).unwrap_or("none")
}

#[test]
fn only_the_owner_may_ask() {
    let broker = Broker::start("owner", 1);
    let mode = |path: PathBuf| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(broker.socket()), 0o600);
    assert_eq!(mode(broker.socket().parent().expect("a directory").into()), 0o700);
}

#[test]
fn requests_that_are_none_are_told_so() {
    let broker = Broker::start("none", 1);
    let stream = broker.connect();
    for (request, expected) in [
        ("", "usage"),
        ("GET / HTTP/1.1", "usage"),
        (r#"{"version":1,"command":"clients""#, "usage"),
        (r#"{"version":9,"command":"clients"}"#, "version"),
        (r#"{"version":1,"command":"shutdown"}"#, "unknown_command"),
        (r#"{"version":1,"command":"clients","x":1}"#, "usage"),
        (r#"{"version":1,"command":"clients","after":"9.s1"}"#, "usage"),
        (r#"{"version":1,"command":"clients","after":"\u0000"}"#, "usage"),
        (r#"{"version":1,"command":"explain","topic":"a/#"}"#, "usage"),
        (r#"{"version":1,"command":"retained","filter":""}"#, "usage"),
        (r#"{"version":1,"command":"subscriptions","filter":"$share//a"}"#, "usage"),
        // A cursor of another list gives some part of this one.
        (r#"{"version":1,"command":"clients","after":"0.tx"}"#, "none"),
        (r#"{"version":1,"command":"clients"}"#, "none"),
    ] {
        assert_eq!(code(&ask(&stream, request)), expected, "{request}");
    }

    // Not UTF-8, and no line end.
    let mut junk = broker.connect();
    junk.write_all(&[0xff; 300]).expect("is taken");
    junk.shutdown(std::net::Shutdown::Write).expect("is open");
    assert_eq!(code(&answer(&mut BufReader::new(&junk))), "usage");

    let large = broker.connect();
    // The broker may close before it has all.
    _ = (&large).write_all(&vec![b'x'; 300 * 1024]);
    let mut reader = BufReader::new(&large);
    assert_eq!(code(&answer(&mut reader)), "too_large");
    // Closed, with what it did not read left over.
    _ = reader.read_to_end(&mut Vec::new());
    broker.wait_until_talking(1);
}

#[test]
fn requests_are_answered_in_their_order() {
    let broker = Broker::start("order", 2);
    let _clients: Vec<TcpStream> = (0..20).map(|n| broker.client(&format!("c{n}"))).collect();
    let stream = broker.connect();
    let requests: String = (0..10)
        .map(|n| format!("{{\"version\":1,\"command\":\"clients\",\"client_id\":\"c{n}\"}}\n"))
        .collect();
    (&stream).write_all(requests.as_bytes()).expect("is taken");
    let mut reader = BufReader::new(&stream);
    for n in 0..10 {
        let lines = answer(&mut reader);
        assert_eq!(lines[0]["client"]["client_id"], format!("c{n}"));
        assert_eq!(lines[1]["end"]["rows"], 1);
    }

    // Seven at a time, each once, from a connection of its own for every part.
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let request = format!(r#"{{"version":1,"command":"clients","limit":7{after}}}"#);
        let mut lines = ask(&broker.connect(), &request);
        let end = lines.pop().expect("a last line");
        assert!(lines.len() == 7 || end["end"]["next"].is_null(), "{end}");
        ids.extend(lines.iter().map(|line| line["client"]["client_id"].to_string()));
        match end["end"]["next"].as_str() {
            Some(next) => after = format!(r#","after":"{next}""#),
            None => break,
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn more_than_eight_are_sent_away() {
    let broker = Broker::start("eight", 1);
    let mut streams: Vec<UnixStream> = (0..8).map(|_| broker.connect()).collect();
    broker.wait_until_talking(8);
    assert_eq!(code(&answer(&mut BufReader::new(broker.connect()))), "busy");
    for stream in &streams {
        assert_eq!(code(&ask(stream, r#"{"version":1,"command":"clients"}"#)), "none");
    }
    streams.pop();
    broker.wait_until_talking(7);
    assert_eq!(code(&ask(&broker.connect(), r#"{"version":1,"command":"clients"}"#)), "none");
}

/// Whoever asks for a long list and does not read it is dropped, and keeps nobody waiting meanwhile.
#[test]
fn a_client_that_stops_reading_is_dropped() {
    let broker = Broker::start("stops", 1);
    let mut publisher = broker.client("publisher");
    let mut bytes = Vec::new();
    for n in 0..8_000 {
        bytes.extend([0x31, 13, 0, 10]);
        bytes.extend(format!("topic/{n:04}x").as_bytes());
    }
    publisher.write_all(&bytes).expect("is taken");
    publisher.write_all(&[0xC0, 0]).expect("is taken");
    publisher.read_exact(&mut [0; 2]).expect("a PINGRESP: all is published");

    let stuck = broker.connect();
    writeln!(&stuck, r#"{{"version":1,"command":"retained"}}"#).expect("is taken");
    broker.wait_until_talking(1);
    let other = broker.connect();
    assert_eq!(code(&ask(&other, r#"{"version":1,"command":"clients"}"#)), "none");
    drop(other);
    broker.wait_until_talking(0);
    let mut received = String::new();
    _ = BufReader::new(&stuck).read_to_string(&mut received);
    assert!(received.len() > 10_000, "{} bytes", received.len());
    assert!(!received.contains("\"end\""), "the whole list fitted into the socket");

    let rows = ask(&broker.connect(), r#"{"version":1,"command":"retained"}"#);
    assert_eq!(rows.len(), 8_001);
}

/// The code of the CONNACK.
fn connack(address: SocketAddr, client_id: &str) -> u8 {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("is above zero");
    let size = client_id.len() as u8;
    let head = [&[0x10, 12 + size, 0, 4][..], b"MQTT\x04\x02\0\0\0", &[size]].concat();
    stream.write_all(&[&head, client_id.as_bytes()].concat()).expect("is taken");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).expect("a CONNACK");
    connack[3]
}

#[test]
fn a_ban_closes_keeps_out_and_is_lifted() {
    let broker = Broker::start("ban", 2);
    let mut bad = broker.client("bad");
    let _good = broker.client("good");
    let stream = broker.connect();
    let lines = ask(&stream, r#"{"version":1,"command":"ban","client_id":"bad","seconds":600}"#);
    assert_eq!(lines[0]["banned"]["client_id"], "bad", "{lines:?}");
    assert_eq!(lines[1]["kicked"]["outcome"], "closed", "{lines:?}");
    assert_eq!(bad.read(&mut [0; 1]).expect("an end"), 0);
    // Shards get the list with their next turn.
    let since = Instant::now();
    while connack(broker.address, "bad") != 5 {
        assert!(since.elapsed() < PATIENCE);
    }
    assert_eq!(connack(broker.address, "better"), 0);
    let listed = ask(&stream, r#"{"version":1,"command":"bans"}"#);
    assert!(listed[0]["banned"]["seconds"].as_u64() > Some(500), "{listed:?}");
    let lifted = ask(&stream, r#"{"version":1,"command":"unban","client_id":"bad"}"#);
    assert_eq!(lifted[0]["unbanned"]["client_id"], "bad", "{lifted:?}");
    let since = Instant::now();
    while connack(broker.address, "bad") != 0 {
        assert!(since.elapsed() < PATIENCE);
    }
    let again = ask(&stream, r#"{"version":1,"command":"unban","client_id":"bad"}"#);
    assert_eq!(again[0]["end"]["rows"], 0, "{again:?}");
}
