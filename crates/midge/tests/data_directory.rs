//! A data directory as a person meets it: damaged, full, taken, somebody else's.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("midge-data-{test}-{}", std::process::id()));
        _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory for this test");
        Self(path)
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file for this test");
        path
    }

    /// `midge` with these words; exit code, standard output and standard error.
    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let output = self.command(words).output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
        command.args(words).arg("--runtime-dir").arg(self.0.join("run")).stdin(Stdio::null());
        command
    }

    /// What `serve` says when it refuses to start on the data directory, and that it ends with exit code 1.
    fn refusal(&self, more: &[&str]) -> String {
        let data = self.data().display().to_string();
        let words = [&["serve", "--listen", "127.0.0.1:0", "--data-dir", &data][..], more].concat();
        let (code, _, errors) = self.run(&words);
        assert_eq!(code, 1, "{errors}");
        let last = errors.lines().last().unwrap_or_default().to_owned();
        assert!(last.starts_with("error: "), "{errors}");
        last
    }

    /// Every file below the data directory, but for what locks it.
    fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut waiting = vec![self.data()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).expect("a directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    waiting.push(path);
                } else if path.file_name().is_some_and(|name| name != "lock") {
                    let bytes = fs::read(&path).expect("a file");
                    files.insert(path, bytes);
                }
            }
        }
        files
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// A broker on the data directory; ends with the test.
struct Broker {
    child: Child,
    stderr: BufReader<ChildStderr>,
    address: SocketAddr,
    /// What it said before it served.
    said: String,
}

impl Broker {
    fn start(directory: &Directory, more: &[&str]) -> Self {
        let data = directory.data().display().to_string();
        let words =
            [&["serve", "--listen", "127.0.0.1:0", "--shards", "2", "--data-dir", &data][..], more]
                .concat();
        let mut child =
            directory.command(&words).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut said = String::new();
        let line = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).expect("text") > 0, "it ended:\n{said}");
            if line.contains("serves mqtt on ") {
                break line;
            }
            said += &line;
        };
        let mut words = line.split_whitespace().skip_while(|word| *word != "on");
        let address = words.nth(1).expect(&line).trim_end_matches(':').parse().expect(&line);
        Self { child, stderr, address, said }
    }

    /// The next line with these words.
    fn line(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(
                self.stderr.read_line(&mut line).expect("text") > 0,
                "it ended without {words}"
            );
            if line.contains(words) {
                return line;
            }
        }
    }

    fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("it runs");
        kill_process(pid, Signal::TERM).expect("it runs");
        assert_eq!(self.child.wait().expect("ours").code(), Some(0));
    }

    fn client(&self, client_id: &str) -> Client {
        Client::connect(self.address, client_id)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// An MQTT 3.1.1 client whose session is kept.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr, client_id: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("is above zero");
        let mut body = b"\0\x04MQTT\x04\0\0\0".to_vec();
        body.extend(text(client_id));
        stream.write_all(&packet(0x10, &body)).expect("taken");
        let mut client = Self(stream);
        let (first, body) = client.next();
        assert_eq!((first, body[1]), (0x20, 0));
        client
    }

    fn subscribe(&mut self, filter: &str) {
        let body = [&[0, 1][..], &text(filter), &[1]].concat();
        self.0.write_all(&packet(0x82, &body)).expect("taken");
        assert_eq!(self.next(), (0x90, vec![0, 1, 1]));
    }

    /// Publishes at QoS 1 and waits for the PUBACK.
    fn publish(&mut self, topic: &str, payload: &str, retain: bool) {
        let body = [&text(topic)[..], &[0, 7], payload.as_bytes()].concat();
        self.0.write_all(&packet(0x32 | u8::from(retain), &body)).expect("taken");
        assert_eq!(self.next(), (0x40, vec![0, 7]));
    }

    /// The payload of the next message, which is acknowledged.
    fn message(&mut self) -> String {
        let (first, body) = self.next();
        assert_eq!(first & 0xF6, 0x32, "a PUBLISH at QoS 1");
        let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        self.0.write_all(&packet(0x40, &body[at..at + 2])).expect("taken");
        String::from_utf8(body[at + 2..].to_vec()).expect("UTF-8")
    }

    /// Nothing more comes before the answer to a ping.
    fn nothing(&mut self) {
        self.0.write_all(&[0xC0, 0]).expect("taken");
        assert_eq!(self.next(), (0xD0, Vec::new()));
    }

    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a packet");
        let mut size = usize::from(head[1] & 127);
        if head[1] > 127 {
            let mut more = [0];
            self.0.read_exact(&mut more).expect("a packet");
            size += usize::from(more[0]) << 7;
        }
        let mut body = vec![0; size];
        self.0.read_exact(&mut body).expect("a packet");
        (head[0], body)
    }
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("short").to_be_bytes(), text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let size = body.len();
    let mut packet = vec![first];
    if size > 127 {
        packet.push(size as u8 | 128);
    }
    packet.push(if size > 127 { (size >> 7) as u8 } else { size as u8 });
    packet.extend(body);
    packet
}

fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("is above zero");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    (head.split(' ').nth(1).expect(head).to_owned(), body.to_owned())
}

/// Where in the data directory these bytes stand.
fn find(directory: &Path, wanted: &str) -> (PathBuf, usize) {
    let logs = fs::read_dir(directory).expect("a directory").flatten();
    for log in logs.filter(|entry| entry.file_name().to_string_lossy().starts_with("shard-")) {
        for segment in fs::read_dir(log.path()).expect("a directory").flatten() {
            let bytes = fs::read(segment.path()).expect("a file");
            let found = bytes.windows(wanted.len()).position(|part| part == wanted.as_bytes());
            if let Some(at) = found {
                return (segment.path(), at);
            }
        }
    }
    panic!("no {wanted} in {}", directory.display());
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[at] ^= 0x20;
    fs::write(file, bytes).expect("a file");
}

/// A data directory with messages `payload 0` to `payload 4` for the client `away`, and a retained one.
fn filled(test: &str) -> Directory {
    let directory = Directory::new(test);
    let broker = Broker::start(&directory, &[]);
    broker.client("away").subscribe("flow/#");
    let mut publisher = broker.client("publisher");
    for number in 0..5 {
        publisher.publish("flow/one", &format!("payload {number}"), false);
    }
    publisher.publish("kept", "retained payload", true);
    broker.stop();
    directory
}

#[test]
fn damage_is_named_and_costs_one_message() {
    let directory = filled("damaged");
    let (file, at) = find(&directory.data(), "payload 2");
    flip(&file, at);
    let before = directory.snapshot();

    // Strict: one sentence, nothing touched.
    let config = directory.file("strict.yaml", "durability: {recovery: strict}\n");
    let sentence = directory.refusal(&["--config", &config.display().to_string()]);
    for words in ["is damaged in one place", "shard-0000", "record", "midge store verify"] {
        assert!(sentence.contains(words), "{words} in {sentence}");
    }
    assert!(directory.snapshot() == before, "nothing may be changed");

    let mut broker = Broker::start(&directory, &["--admin", "127.0.0.1:0"]);
    let named = format!("{}, offset ", file.display());
    assert!(broker.said.contains(&named), "{}", broker.said);
    let concerned = "a message to \\\"flow/one\\\" for client \\\"away\\\"";
    let said = broker.said.replace('\\', "");
    assert!(said.contains(&concerned.replace('\\', "")), "{}", broker.said);
    let line = broker.line("metrics and health on http://");
    let (_, admin) = line.trim_end().split_once("http://").expect(&line);

    let (code, health) = get(admin, "/health");
    assert!(code == "200" && health.starts_with("degraded\n"), "{code} {health}");
    assert!(health.contains(&named) && health.contains("1 record is known to be lost"), "{health}");
    assert_eq!(get(admin, "/health/ready"), ("200".into(), "ready\n".into()));
    let (_, metrics) = get(admin, "/metrics");
    assert!(metrics.lines().any(|l| l.starts_with("midge_log_damage{") && l.ends_with(" 1")));

    let (code, stats, errors) = directory.run(&["stats", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let stats: Value = serde_json::from_str(&stats).expect("an object");
    let durability = &stats["durability"];
    assert_eq!(durability["state"], "degraded", "{durability}");
    assert_eq!(durability["damage"][0]["file"], file.display().to_string());
    let copy = durability["damage"][0]["copy"].as_str().expect("a copy");
    assert!(fs::read(copy).expect("the copy") == before[&file], "as it was found");
    let (_, table, _) = directory.run(&["stats"]);
    assert!(table.contains("\ndegraded: shard ") && table.contains(&named), "{table}");

    let mut away = broker.client("away");
    let got: Vec<String> = (0..4).map(|_| away.message()).collect();
    assert_eq!(got, ["payload 0", "payload 1", "payload 3", "payload 4"]);
    away.nothing();
    broker.stop();

    // The same damage, found again, is not copied again.
    let broker = Broker::start(&directory, &[]);
    assert_eq!(fs::read_dir(directory.data().join("damaged")).expect("copies").count(), 1);
    broker.stop();
}

#[test]
fn what_is_well_says_so() {
    let directory = filled("well");
    let broker = Broker::start(&directory, &["--admin", "127.0.0.1:0"]);
    assert!(!broker.said.contains("ERROR"), "{}", broker.said);
    let (_, stats, _) = directory.run(&["stats", "--json"]);
    let stats: Value = serde_json::from_str(&stats).expect("an object");
    assert_eq!(stats["durability"]["state"], "healthy");
    assert_eq!(stats["durability"]["acknowledge_after"], "fsync");
    assert_eq!(stats["total"]["logs_by_condition_now"]["healthy"], 2);
    let (_, table, _) = directory.run(&["stats"]);
    assert!(table.contains("\nkept in ") && !table.contains("degraded"), "{table}");
    let mut away = broker.client("away");
    for number in 0..5 {
        assert_eq!(away.message(), format!("payload {number}"));
    }
    broker.stop();
}
