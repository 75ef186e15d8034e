//! A data directory as a person meets it: damaged, full, taken, somebody else's.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
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

    /// The same for commands that look at no broker.
    fn run_plain(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
        let output = command.args(words).stdin(Stdio::null()).output().expect("the program starts");
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

    /// Every file below the data directory, but for what locks it, and what a running broker removes meanwhile.
    fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut waiting = vec![self.data()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).expect("a directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    waiting.push(path);
                } else if path.file_name().is_some_and(|name| name != "lock") {
                    match fs::read(&path) {
                        Ok(bytes) => _ = files.insert(path, bytes),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                    }
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
        Self::start_on(directory, &directory.data(), more)
    }

    /// On another data directory than the usual one.
    fn start_on(directory: &Directory, data: &Path, more: &[&str]) -> Self {
        let data = data.display().to_string();
        Self::start_with(directory, &[&["--data-dir", &data][..], more].concat())
    }

    fn start_with(directory: &Directory, more: &[&str]) -> Self {
        let words = [&["serve", "--listen", "127.0.0.1:0", "--shards", "2"][..], more].concat();
        Self::spawn(directory.command(&words))
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
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

/// Payloads of the messages that come to `away` when it is back, in order.
fn messages(broker: &Broker, count: usize) -> Vec<String> {
    let mut away = broker.client("away");
    let got = (0..count).map(|_| away.message()).collect();
    away.nothing();
    got
}

#[test]
fn a_backup_of_a_running_broker_is_a_data_directory() {
    let directory = Directory::new("backup");
    let broker = Broker::start(&directory, &[]);
    broker.client("away").subscribe("flow/#");
    let mut publisher = broker.client("publisher");
    for number in 0..50 {
        publisher.publish("flow/one", &format!("payload {number}"), false);
    }
    publisher.publish("kept", "retained payload", true);
    let target = directory.0.join("copies/first");
    fs::create_dir(directory.0.join("copies")).expect("our own");
    let target_text = target.display().to_string();
    let (code, said, errors) = directory.run(&["store", "backup", &target_text]);
    assert!(code == 0 && said.contains(&format!("are copied to {target_text}")), "{said}{errors}");
    // What comes later is not in it, and nothing is written where something is.
    publisher.publish("flow/one", "later", false);
    let (code, _, errors) = directory.run(&["store", "backup", &target_text]);
    assert!(code == 1 && errors.contains("is there already: choose a new directory"), "{errors}");
    drop(broker);

    let broker = Broker::start_on(&directory, &target, &[]);
    assert!(!broker.said.contains("ERROR"), "{}", broker.said);
    let expected: Vec<String> = (0..50).map(|number| format!("payload {number}")).collect();
    assert_eq!(messages(&broker, 50), expected);
    let mut late = broker.client("late");
    late.subscribe("kept");
    assert_eq!(late.message(), "retained payload");
    broker.stop();
    let ephemeral = Broker::start_with(&directory, &["--ephemeral"]);
    let (code, _, errors) = directory.run(&["store", "backup", &format!("{target_text}-2")]);
    assert!(code == 1 && errors.contains("nothing is kept: this broker has no data"), "{errors}");
    drop(ephemeral);
}

#[test]
fn a_backup_under_load_loses_nothing_that_was_acknowledged_before() {
    let directory = Directory::new("backup-load");
    let broker = Broker::start(&directory, &[]);
    broker.client("away").subscribe("flow/#");
    let address = broker.address;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let acknowledged = std::sync::atomic::AtomicUsize::new(0);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = Client::connect(address, "publisher");
            while !stop.load(relaxed) && acknowledged.load(relaxed) < 900 {
                let number = acknowledged.load(relaxed);
                publisher.publish("flow/one", &format!("payload {number}"), false);
                acknowledged.fetch_add(1, relaxed);
            }
        });
        for copy in 0..3 {
            let before = acknowledged.load(relaxed);
            let target = directory.0.join(format!("copy-{copy}"));
            let (code, _, errors) =
                directory.run(&["store", "backup", &target.display().to_string()]);
            assert_eq!(code, 0, "{errors}");
            let (code, lines, errors) =
                directory.run_plain(&["store", "export", &target.display().to_string()]);
            assert_eq!(code, 0, "{errors}");
            let messages = lines.lines().filter(|line| line.contains("\"message\"")).count();
            assert!(messages >= before, "{messages} of {before} are in copy {copy}");
            for number in 0..before {
                assert!(
                    lines.contains(&format!("\"payload {number}\"")),
                    "{number} in copy {copy}"
                );
            }
        }
        stop.store(true, relaxed);
    });
    broker.stop();
}

#[test]
fn what_is_exported_can_be_imported() {
    let directory = filled("export");
    let data = directory.data().display().to_string();
    let (code, lines, errors) = directory.run_plain(&["store", "export", &data]);
    assert_eq!(code, 0, "{errors}");
    let kinds: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line)["type"].to_string())
        .collect();
    let count = |kind: &str| kinds.iter().filter(|one| **one == format!("\"{kind}\"")).count();
    // Two clients, one subscription, five messages and a retained one.
    assert_eq!((count("session"), count("subscription"), count("message")), (2, 1, 6), "{lines}");
    assert!(lines.contains(r#""payload":"payload 3""#), "{lines}");

    let file = directory.file("lines.jsonl", &lines).display().to_string();
    let target = directory.0.join("imported");
    let target_text = target.display().to_string();
    let (code, said, errors) = directory.run_plain(&["store", "import", &target_text, &file]);
    assert!(code == 0 && said.starts_with("9 lines are imported to "), "{said}{errors}");
    let (_, again, _) = directory.run_plain(&["store", "export", &target_text]);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted(&again), sorted(&lines));

    let broker = Broker::start_on(&directory, &target, &[]);
    let expected: Vec<String> = (0..5).map(|number| format!("payload {number}")).collect();
    assert_eq!(messages(&broker, 5), expected);
    broker.stop();
}

#[test]
fn lines_that_are_none_are_named_and_leave_nothing() {
    let directory = Directory::new("import");
    let target = directory.0.join("new");
    let session = r#"{"type":"session","client_id":"a","expiry_interval_seconds":60}"#;
    for (line, problem) in [
        ("hello", "expected value"),
        (r#"{"type":"dance"}"#, "unknown variant `dance`"),
        (
            r#"{"type":"subscription","client_id":"a","filter":"a/#/b","qos":1}"#,
            "is no Topic Filter",
        ),
        (r#"{"type":"subscription","client_id":"a","filter":"a","qos":3}"#, "3 is no QoS"),
        (r#"{"type":"message","topic":"a/+","qos":1,"retained":true}"#, "is no Topic Name"),
        (r#"{"type":"message","topic":"a","qos":1}"#, "nobody gets this message"),
        (
            r#"{"type":"message","topic":"a","qos":1,"retained":true,"payload_base64":"?"}"#,
            "that is no base64",
        ),
        (r#"{"type":"inbound","client_id":"a","packet_id":0}"#, "no packet id is 0"),
        (session, "has a session already"),
    ] {
        let file = directory.file("lines.jsonl", &format!("{session}\n{line}\n"));
        let words = [target.display().to_string(), file.display().to_string()];
        let (code, _, errors) = directory.run_plain(&["store", "import", &words[0], &words[1]]);
        assert_eq!(code, 2, "{line}: {errors}");
        let place = format!("{}:2: ", words[1]);
        assert!(errors.starts_with(&place) && errors.contains(problem), "{line}: {errors}");
        assert!(!target.exists() && !directory.0.join("new.partial").exists(), "{line}");
    }
    let line = r#"{"type":"inbound","client_id":"b","packet_id":1}"#;
    let file = directory.file("lines.jsonl", line).display().to_string();
    let (code, _, errors) =
        directory.run_plain(&["store", "import", &target.display().to_string(), &file]);
    assert!(code == 2 && errors.contains("no session line for \"b\""), "{errors}");
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let directory = filled("in-use");
    let broker = Broker::start(&directory, &[]);
    let before = directory.snapshot();
    let sentence = directory.refusal(&[]);
    let data = directory.data();
    let expected = format!(
        "error: the data directory {} is in use by process {}; stop it, or choose another with \
         --data-dir",
        data.display(),
        broker.child.id()
    );
    assert_eq!(sentence, expected);
    assert!(directory.snapshot() == before, "nothing may be changed");
    broker.stop();
}

#[test]
fn a_newer_format_is_left_alone() {
    let directory = filled("newer");
    let format = directory.data().join("format");
    let layout = directory.data().join("layout");
    let (sound_format, sound_layout) = (fs::read(&format).unwrap(), fs::read(&layout).unwrap());
    // As a newer version writes both.
    fs::write(&format, "midge data directory, format 2\n").expect("our own");
    let line =
        String::from_utf8(sound_layout.clone()).expect("ASCII").replace("format 1", "format 2");
    let (said, _) = line.split_once(" checksum ").expect("a checksum");
    let sum = midge_store::checksum(said.as_bytes());
    fs::write(&layout, format!("{said} checksum {sum:08x}\n")).expect("our own");
    let before = directory.snapshot();
    let sentence = directory.refusal(&[]);
    assert!(
        sentence.contains("has format 2, and this program knows formats up to 1"),
        "{sentence}"
    );
    assert!(directory.snapshot() == before, "nothing may be changed");
    fs::write(&format, sound_format).expect("our own");
    fs::write(&layout, sound_layout).expect("our own");

    // One segment of the second log, in both copies of its header.
    let segment = directory.data().join("shard-00001/0000000001.log");
    let mut bytes = fs::read(&segment).expect("it is there");
    bytes[8] = 2;
    bytes[12..16].fill(0);
    let sum = midge_store::checksum(&bytes[..456]).to_le_bytes();
    bytes[12..16].copy_from_slice(&sum);
    bytes.copy_within(..456, 4096);
    fs::write(&segment, bytes).expect("our own");
    let before = directory.snapshot();
    let sentence = directory.refusal(&[]);
    assert!(sentence.contains("segment 1 has format version 2, which is newer"), "{sentence}");
    assert!(directory.snapshot() == before, "nothing may be changed");
}

#[test]
fn a_directory_that_cannot_be_written_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new("unwritable");
    directory.file("data", "a file, and no directory");
    let sentence = directory.refusal(&[]);
    let data = directory.data().display().to_string();
    assert!(sentence.contains(&data) && sentence.contains("Not a directory"), "{sentence}");
    assert_eq!(
        fs::read_to_string(directory.data()).expect("untouched"),
        "a file, and no directory"
    );

    let directory = filled("read-only");
    fs::set_permissions(directory.data(), fs::Permissions::from_mode(0o555)).expect("our own");
    fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o755)).expect("our own");
    for entry in fs::read_dir(directory.data()).expect("ours").flatten() {
        if entry.path().is_file() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o444)).expect("our own");
        }
    }
    let before = directory.snapshot();
    let data = directory.data().display().to_string();
    let mut command = directory.command(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &data]);
    if rustix::process::geteuid().is_root() {
        // Root may write everywhere; nobody may not.
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    }
    let output = command.output().expect("the program starts");
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    fs::set_permissions(directory.data(), fs::Permissions::from_mode(0o755)).expect("our own");
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let last = errors.lines().last().unwrap_or_default();
    let expected = format!("error: cannot write to the data directory: cannot open {data}/lock: ");
    assert!(last.starts_with(&expected) && last.contains("Permission denied"), "{errors}");
    assert!(directory.snapshot() == before, "nothing may be changed");

    let directory = Directory::new("foreign");
    fs::create_dir(directory.data()).expect("our own");
    fs::write(directory.data().join("letter.txt"), "dear reader").expect("our own");
    let before = directory.snapshot();
    assert!(directory.refusal(&[]).contains("holds files that are not a data directory's"));
    assert!(directory.snapshot() == before, "nothing may be changed");
}

/// Without a word about where, what is kept goes where the system or the user keeps such things, and a second broker
/// there is refused.
#[test]
fn the_default_is_a_place_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new("default-place");
    let state = directory.0.join("deep/state");
    let serve = |state: &Path| {
        let mut command = directory.command(&["serve", "--listen", "127.0.0.1:0", "--shards", "2"]);
        command.env("STATE_DIRECTORY", state);
        command
    };
    let broker = Broker::spawn(serve(&state));
    broker.client("c").publish("kept/one", "retained payload", true);
    let mode = fs::metadata(&state).expect("it was made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "for nobody else's eyes");
    let second = serve(&state).output().expect("the program starts");
    let errors = String::from_utf8(second.stderr).expect("UTF-8");
    assert_eq!(second.status.code(), Some(1), "{errors}");
    let expected = format!(
        "error: the data directory {} is in use by process {}; stop it, or choose another with \
         --data-dir",
        state.display(),
        broker.child.id()
    );
    assert_eq!(errors.lines().last(), Some(&expected[..]), "{errors}");
    drop(broker);
    let broker = Broker::spawn(serve(&state));
    let mut late = broker.client("late");
    late.subscribe("kept/one");
    assert_eq!(late.message(), "retained payload");
    broker.stop();

    let nowhere = directory.file("file", "").join("below");
    let refused = serve(&nowhere).output().expect("the program starts");
    let errors = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!(refused.status.code(), Some(1), "{errors}");
    let last = errors.lines().last().unwrap_or_default();
    assert!(last.contains(&nowhere.display().to_string()), "{errors}");
    let ways =
        "; choose another place with --data-dir, or keep everything in memory with --ephemeral";
    assert!(last.ends_with(ways), "{errors}");
}

/// The promise by level. Stopped in good order, every level keeps everything; a kill takes nothing at `written`, and nothing
/// at `memory` that has come to the log meanwhile; `--ephemeral` keeps nothing.
#[test]
fn each_level_keeps_what_it_promises() {
    for (level, is_killed) in [
        ("fsync", false),
        ("written", false),
        ("memory", false),
        ("written", true),
        ("memory", true),
    ] {
        let directory = Directory::new(&format!("level-{level}-{is_killed}"));
        let text = format!("durability: {{acknowledge_after: {level}}}\n");
        let config = directory.file("level.yaml", &text).display().to_string();
        let broker = Broker::start(&directory, &["--config", &config]);
        broker.client("away").subscribe("flow/#");
        let mut publisher = broker.client("publisher");
        for number in 0..5 {
            publisher.publish("flow/one", &format!("payload {number}"), false);
        }
        publisher.publish("kept", "retained payload", true);
        if !is_killed {
            broker.stop();
        } else {
            if level == "memory" {
                for payload in ["payload 4", "retained payload"] {
                    wait_for(&directory, payload);
                }
            }
            drop(broker);
        }
        let broker = Broker::start(&directory, &["--config", &config]);
        let mut away = broker.client("away");
        for number in 0..5 {
            assert_eq!(away.message(), format!("payload {number}"), "{level} {is_killed}");
        }
        let mut late = broker.client("late");
        late.subscribe("kept");
        assert_eq!(late.message(), "retained payload", "{level} {is_killed}");
    }

    let directory = Directory::new("level-none");
    let broker = Broker::start_with(&directory, &["--ephemeral"]);
    broker.client("publisher").publish("kept", "retained payload", true);
    broker.stop();
    let broker = Broker::start_with(&directory, &["--ephemeral"]);
    let mut late = broker.client("late");
    late.subscribe("kept");
    broker.client("publisher").publish("kept", "later", false);
    assert_eq!(late.message(), "later", "nothing is kept");
}

/// Until the logs have it, which nobody is told.
fn wait_for(directory: &Directory, payload: &str) {
    let began = std::time::Instant::now();
    let stands_in =
        |bytes: &Vec<u8>| bytes.windows(payload.len()).any(|part| part == payload.as_bytes());
    while !directory.snapshot().values().any(stands_in) {
        assert!(began.elapsed() < PATIENCE, "{payload} does not come to the log");
    }
}

#[test]
fn another_number_of_shards_finds_everything() {
    let directory = filled("shards");
    let data = directory.data().display().to_string();
    let serve = |shards| {
        let words = ["serve", "--listen", "127.0.0.1:0", "--shards", shards, "--data-dir", &data];
        Broker::spawn(directory.command(&words))
    };
    for shards in ["3", "1", "4"] {
        let broker = serve(shards);
        let mut late = broker.client("late");
        late.subscribe("kept");
        assert_eq!(late.message(), "retained payload", "{shards} shards");
        broker.client("publisher").publish("flow/one", &format!("with {shards}"), false);
        broker.stop();
    }
    let broker = serve("2");
    let mut away = broker.client("away");
    for number in 0..5 {
        assert_eq!(away.message(), format!("payload {number}"));
    }
    for shards in ["3", "1", "4"] {
        assert_eq!(away.message(), format!("with {shards}"));
    }
}

/// Some bytes of all, in the real program: it starts, and delivers what is whole.
#[test]
fn a_sample_of_changed_bytes_does_not_stop_it() {
    let directory = filled("sample");
    let sound = directory.snapshot();
    let files: Vec<&PathBuf> = sound.keys().collect();
    let seed = std::process::id() as usize;
    for round in 0..8 {
        let file = files[(seed + round) % files.len()];
        let size = sound[file].len();
        // Where something stands, for the most part.
        let at =
            (seed * 7919 + round * 104_729) % size.min(if round % 2 == 0 { 20_000 } else { size });
        let context = format!("byte {at} of {}", file.display());
        for cut in [false, true] {
            _ = fs::remove_dir_all(directory.data());
            for (path, bytes) in &sound {
                fs::create_dir_all(path.parent().expect("below the data directory"))
                    .expect("our own");
                let mut bytes = bytes.clone();
                if path == file && cut {
                    bytes.truncate(at);
                } else if path == file {
                    bytes[at] ^= 1 << (at % 7);
                }
                fs::write(path, bytes).expect("our own");
            }
            let broker = Broker::start(&directory, &[]);
            let mut away = broker.client("away");
            let mut got = Vec::new();
            // What is read from the disk first does not hold up an answer to PINGREQ.
            for _ in 0..50 {
                away.0.write_all(&[0xC0, 0]).expect("taken");
                loop {
                    let (first, body) = away.next();
                    if first == 0xD0 {
                        break;
                    }
                    let at = 4 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                    got.push(String::from_utf8(body[at..].to_vec()).expect(&context));
                }
                if got.len() >= 5 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            for payload in &got {
                let number = payload.strip_prefix("payload ").and_then(|n| n.parse::<u32>().ok());
                assert!(number.is_some_and(|number| number < 5), "{context}: {payload}");
            }
            if !cut {
                assert!(got.len() >= 4 || broker.said.contains("damaged"), "{context}: {got:?}");
            }
        }
    }
}
