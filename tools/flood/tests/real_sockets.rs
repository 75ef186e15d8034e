//! The flooder's program over real sockets, against the forwarder of `examples/`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const FLOOD: &str = env!("CARGO_BIN_EXE_midge-flood");

/// The forwarder's process, ended with the test.
struct Forwarder {
    process: Child,
    port: String,
}

impl Forwarder {
    fn start() -> Self {
        let mut process = Command::new(forwarder_program())
            .arg("0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo builds the examples with the tests");
        let mut address = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut address).expect("it says its address");
        let port = address.trim().rsplit(':').next().expect("an address has a port").to_owned();
        Self { process, port }
    }

    fn flood(&self, line: &str) -> Output {
        Command::new(FLOOD)
            .args(line.split(' '))
            .args(["--port", &self.port, "--json"])
            .output()
            .expect("the program starts")
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // It may have ended by itself; then the test has failed elsewhere.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn forwarder_program() -> PathBuf {
    Path::new(FLOOD).with_file_name("examples").join("forwarder")
}

fn report(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr))
    })
}

#[test]
fn what_is_sent_arrives() {
    let forwarder = Forwarder::start();
    let lines = [
        ("pairs -c 20 --duration 0.3 --warmup 0.1", 40),
        ("fan-out -c 30 --duration 0.3 --warmup 0.1 --size 9000", 31),
        ("fan-in -c 20 --duration 0.3 --warmup 0.1", 21),
        ("paced -c 10 -R 1000 --duration 0.3 --warmup 0.1", 20),
    ];
    for (line, clients) in lines {
        let output = forwarder.flood(line);
        let report = report(&output);
        assert!(output.status.success(), "{line}: {report}");
        assert_eq!(report["connected"], clients, "{line}: {report}");
        assert!(report["window_delivered"].as_u64() > Some(100), "{line}: {report}");
        for count in ["failed", "lost", "duplicated", "reordered", "foreign"] {
            assert_eq!(report[count], 0, "{line}: {count}: {report}");
        }
        assert!(report["latency_ns"]["p99"].as_u64() > Some(0), "{line}: {report}");
    }
}

#[test]
fn clients_come_stay_and_come_again() {
    let forwarder = Forwarder::start();
    let connect = report(&forwarder.flood("connect -c 500 --hold 1 --keepalive 1"));
    assert_eq!((&connect["connected"], &connect["failed"]), (&500.into(), &0.into()), "{connect}");
    assert!(connect["pings_answered"].as_u64() >= Some(500), "{connect}");
    let cycle = report(&forwarder.flood("cycle -c 10 --duration 0.3 --warmup 0"));
    assert!(cycle["cycles"].as_u64() > Some(50), "{cycle}");
    let storm = report(&forwarder.flood("storm -c 200 --waves 2"));
    assert_eq!(storm["connected"], 600, "{storm}");
    assert_eq!(storm["waves_ns"].as_array().map(Vec::len), Some(2), "{storm}");
}

#[test]
fn refusals_are_cycles_where_they_are_asked_for_and_come_at_the_rate() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    // Not joined: it ends with the test's process.
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            let mut peer = peer.expect("a peer");
            let mut bytes = [0; 256];
            if matches!(peer.read(&mut bytes), Ok(1..)) {
                // CONNACK: not authorized. The peer may be gone already.
                let _ = peer.write_all(&[0x20, 2, 0, 5]);
            }
        }
    });
    let flood = |line: &str| {
        Command::new(FLOOD)
            .args(line.split(' '))
            .args(["-u", "anna", "-P", "wrong", "--port", &port.to_string(), "--json"])
            .output()
            .expect("the program starts")
    };
    let refused = report(&flood("cycle -c 10 --refusals -R 200 --duration 1 --warmup 0"));
    assert_eq!(refused["refusals"]["CONNACK 0x05"], refused["cycles"], "{refused}");
    assert_eq!((&refused["connected"], &refused["failed"]), (&0.into(), &0.into()), "{refused}");
    assert!((10..=260).contains(&refused["cycles"].as_u64().expect("a count")), "{refused}");
    assert_eq!(flood("cycle -c 1 --duration 1").status.code(), Some(1), "not asked for");
    let elsewhere = flood("connect -c 1 --refusals");
    assert_eq!(elsewhere.status.code(), Some(2), "{elsewhere:?}");
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    // The port was free a moment ago, and nobody was told of it.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port();
    let output = Command::new(FLOOD)
        .args(["connect", "-c", "3", "--port", &port.to_string()])
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("0 of 3"), "{said}");
}
