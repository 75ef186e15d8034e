//! The program as a person or a service manager meets it: words in, sentences and exit codes out.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

fn midge(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error of a run that ends by itself.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = midge(arguments).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("midge-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for this test");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file for this test");
        path.display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// A running broker; ends with the test.
struct Serving {
    child: std::process::Child,
    stderr: BufReader<ChildStderr>,
    /// The first line it wrote.
    line: String,
}

impl Serving {
    fn start(arguments: &[&str]) -> Self {
        Self::spawn(midge(arguments))
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("a line");
        Self { child, stderr, line }
    }

    /// From the start-up line.
    fn address(&self) -> SocketAddr {
        let mut words = self.line.split_whitespace().skip_while(|word| *word != "on");
        let address = words.nth(1).expect("an address after `on`");
        address.trim_end_matches(':').parse().expect(&self.line)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill_process(Pid::from_raw(pid).expect("not zero"), signal).expect("it still runs");
    }

    /// Waits for the end: exit code and the rest of standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).expect("UTF-8");
        (self.child.wait().expect("a child").code(), rest)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn version_and_help() {
    let version = format!("midge {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]), (0, version, String::new()));
    for arguments in [&["--help"][..], &["serve", "--help"], &["check", "--help"]] {
        let (code, help, errors) = run(arguments);
        assert_eq!((code, errors), (0, String::new()), "{arguments:?}");
        assert!(help.contains("--config <FILE>"), "{arguments:?}: {help}");
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for (arguments, named) in [
        (&["dance"][..], "dance"),
        (&["serve", "--port", "1883"], "--port"),
        (&["serve", "--listen", "localhost:1883"], "expected an IP address and a port"),
        (&["serve", "--shards", "many"], "expected auto or a whole number from 1 to 1024"),
        (&["serve", "--shards", "0"], "--shards: 0 is out of range; set 1 to 1024"),
        (&["serve", "--shards", "1025"], "--shards: 1025 is out of range; set 1 to 1024"),
        (
            &["serve", "--listen", "127.0.0.1:5", "--listen", "127.0.0.1:5"],
            "--listen: 127.0.0.1:5 is already taken",
        ),
        (&["check"], "--config <FILE>"),
        (&["doctor", "--connections", "0"], "0 is not in 1..=1000000000"),
        (&["doctor", "--shards", "1025"], "1025 is not in 1..=1024"),
        (&["doctor", "--role", "guest"], "possible values: broker, generator, both"),
        (&["plan"], "--connections <N>"),
        (&["plan", "--connections", "many"], "invalid digit"),
        (
            &["plan", "--connections", "10000000", "--nofile", "1024"],
            "--nofile: 1024 shards, the most there can be, do not hold 10,000,000 connections",
        ),
    ] {
        let (code, output, errors) = run(arguments);
        assert_eq!((code, output), (2, String::new()), "{arguments:?}");
        assert!(errors.contains(named), "{arguments:?}: {errors}");
    }
}

#[test]
fn check_accepts_the_default_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/default.yaml");
    let path = path.display().to_string();
    assert_eq!(run(&["check", "--config", &path]), (0, format!("{path}: ok\n"), String::new()));
}

/// `serve` refuses what `check` refuses, with the same words.
#[test]
fn bad_configurations_exit_with_2() {
    let directory = Directory::new("bad-configurations");
    for (name, text, lines) in [
        ("unknown.yaml", "limits:\n  foo: 1\n", &[":2:3: limits.foo: unknown key; "][..]),
        ("broken.yaml", "limits:\n\tmaximum_qos: 1\n", &[":2:2: not YAML: tabs "]),
        (
            "range.yaml",
            "shards: 0\nlimits:\n  maximum_qos: 9\n",
            &[
                ":1:1: shards: 0 is out of range; set 1 to 1024",
                ":3:3: limits.maximum_qos: 9 is out of range; set 0 to 2",
            ],
        ),
    ] {
        let path = directory.file(name, text);
        for command in ["check", "serve"] {
            let (code, output, errors) = run(&[command, "--config", &path]);
            assert_eq!((code, output), (2, String::new()), "{command} {name}");
            let found: Vec<&str> = errors.lines().collect();
            assert_eq!(found.len(), lines.len(), "{command} {name}: {errors}");
            for (found, expected) in found.iter().zip(lines) {
                assert!(found.starts_with(&format!("{path}{expected}")), "{found}");
            }
        }
    }
    let absent = directory.0.join("absent.yaml").display().to_string();
    let sentence = "cannot be read: no such file or directory; check the path and its rights";
    let expected = (2, String::new(), format!("{absent}: {sentence}\n"));
    assert_eq!(run(&["check", "--config", &absent]), expected);
    assert_eq!(run(&["serve", "--config", &absent]), expected);
}

/// No broker runs, and none is needed. A billion connections fit no machine of these days.
#[test]
fn the_doctor_answers_by_exit_code() {
    for (connections, code) in [("1", 0), ("1000000000", 1)] {
        let (found, text, errors) = run(&["doctor", "--connections", connections, "--shards", "1"]);
        assert_eq!((found, errors), (code, String::new()), "{text}");
        let stops = text.contains("STOPS at ");
        assert_eq!(stops, code == 1, "{text}");
        let arguments = ["doctor", "--json", "--connections", connections, "--shards", "1"];
        let (found, text, _) = run(&arguments);
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((found, report["stops"] == 0), (code, code == 0), "{text}");
    }
}

#[test]
fn a_plan_is_a_table_or_an_object() {
    let arguments = ["plan", "--connections", "1000000", "--nofile", "20000"];
    let (code, text, errors) = run(&arguments);
    assert_eq!((code, errors), (0, String::new()));
    assert!(text.contains("midge serve --shards 64, under a limit of 20,000"), "{text}");
    let (_, text, _) = run(&[&arguments[..], &["--json", "--tls"]].concat());
    let plan: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(plan["descriptors"]["shards"], 64);
    assert_eq!(plan["tls"]["records_measured"], false);
}

#[test]
fn a_wish_that_the_machine_cannot_meet_exits_with_2() {
    let directory = Directory::new("wish");
    // More than the kernel's bound of one ring, on any machine.
    let path = directory.file("m.yaml", "shards: 1\nlimits: {connections_max: 4000000000}\n");
    assert_eq!(run(&["check", "--config", &path]).0, 0);
    let (code, _, errors) =
        run(&["serve", "--config", &path, "--listen", "127.0.0.1:0", "--ephemeral"]);
    assert_eq!(code, 2);
    assert!(errors.starts_with("limits.connections_max: 4000000000 is more than "), "{errors}");
}

#[test]
fn an_occupied_port_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let sentence = |way_out: &str| {
        format!(
            "error: cannot listen on {address}: address already in use; stop the other program or \
             choose another port {way_out}\n"
        )
    };
    for shards in ["1", "2"] {
        let found = run(&["serve", "--listen", &address, "--shards", shards, "--ephemeral"]);
        assert_eq!(found, (1, String::new(), sentence("with --listen")));
    }

    let directory = Directory::new("occupied");
    let path = directory.file("m.yaml", &format!("listeners:\n  - address: {address}\n"));
    let found = run(&["serve", "--config", &path, "--ephemeral"]);
    assert_eq!(found, (1, String::new(), sentence(&format!("in line 2 of {path}"))));
}

/// Shards share a port; two brokers must not.
#[test]
fn a_second_broker_on_the_same_port_exits_with_1() {
    let first =
        Serving::start(&["serve", "--listen", "127.0.0.1:0", "--shards", "2", "--ephemeral"]);
    let address = first.address().to_string();
    let (code, _, errors) = run(&["serve", "--listen", &address, "--shards", "2", "--ephemeral"]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("address already in use"), "{errors}");
}

#[test]
fn the_start_up_line_says_what_runs() {
    let directory = Directory::new("start-up");
    let path = directory.file(
        "m.yaml",
        "limits: {maximum_packet_size_bytes: 64KiB, connections_max: 1000}\n\
         performance: {connections_per_shard: 600}\n",
    );
    let serving = Serving::start(&[
        "--config",
        &path,
        "--listen",
        "127.0.0.1:0",
        "--shards",
        "3",
        "--ephemeral",
    ]);
    let address = serving.address();
    assert_ne!(address.port(), 0);
    TcpStream::connect(address).expect("somebody listens");
    let (_, line) = serving.line.trim_end().split_once(' ').expect("a time");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        line,
        format!(
            "INFO  midge {version} serves mqtt on {address}: 3 shards, in memory, packets up to \
             64 KiB, 1000 connections"
        )
    );
    // Not a terminal: no colour.
    assert!(!serving.line.contains('\u{1b}'));
}

#[test]
fn a_signal_drains_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let serving =
            Serving::start(&["serve", "--listen", "127.0.0.1:0", "--shards", "2", "--ephemeral"]);
        serving.signal(signal);
        let (code, rest) = serving.end();
        assert_eq!(code, Some(0), "{rest}");
        assert!(rest.contains("asked to stop: draining for 10s at most"), "{rest}");
    }
}

#[test]
fn machines_read_the_log_as_json() {
    let directory = Directory::new("json");
    let path = directory.file("m.yaml", "log: {format: json}\nshards: 1\n");
    let serving =
        Serving::start(&["serve", "--config", &path, "--listen", "127.0.0.1:0", "--ephemeral"]);
    let line: serde_json::Value = serde_json::from_str(&serving.line).expect("JSON");
    assert_eq!(line["level"], "info");
    let message = line["message"].as_str().expect("a text");
    assert!(message.contains(" serves mqtt on 127.0.0.1:"), "{message}");
}

/// Each broker has a directory of its own while it runs, and none where it cannot have one.
#[test]
fn a_running_broker_has_a_directory() {
    let directory = Directory::new("runtime");
    let base = directory.0.join("midge").display().to_string();
    let serve =
        ["serve", "--listen", "127.0.0.1:0", "--shards", "1", "--ephemeral", "--runtime-dir"];
    let serving = Serving::start(&[&serve[..], &[&base]].concat());
    let own = Path::new(&base).join(serving.child.id().to_string());
    assert!(own.is_dir(), "{}", own.display());
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().0, Some(0));
    assert!(!own.exists(), "{}", own.display());

    let file = directory.file("file", "");
    let serving = Serving::start(&[&serve[..], &[&file]].concat());
    TcpStream::connect(serving.address()).expect("it serves all the same");
    serving.signal(Signal::TERM);
    let (code, rest) = serving.end();
    let expected = format!("statistics and control are off: cannot make {file}: ");
    assert_eq!((code, rest.matches(&expected).count()), (Some(0), 1), "{rest}");
}

/// Status and body of an answer of the admin endpoint.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").to_owned(), body.to_owned())
}

#[test]
fn the_admin_endpoint_tells_what_runs() {
    let directory = Directory::new("admin");
    let path = directory.file("m.yaml", "listeners: [{address: '127.0.0.1:0', name: plain}]\n");
    let base = directory.0.join("run").display().to_string();
    let mut serving = Serving::start(&[
        "serve",
        "--ephemeral",
        "--config",
        &path,
        "--shards",
        "2",
        "--admin",
        "127.0.0.1:0",
        "--runtime-dir",
        &base,
    ]);
    let mut line = String::new();
    serving.stderr.read_line(&mut line).expect("a line");
    let (_, address) = line.trim_end().split_once("metrics and health on http://").expect(&line);

    assert_eq!(get(address, "/health/ready"), ("200".into(), "ready\n".into()));
    assert_eq!(get(address, "/health/live"), ("200".into(), "live\n".into()));
    let (code, metrics) = get(address, "/metrics");
    assert_eq!(code, "200");
    let listener = format!("listener=\"plain\",address=\"{}\"", serving.address());
    for text in ["\nmidge_connections{core=\"1\"} 0\n", "\nmidge_ready 1\n", &listener] {
        assert!(metrics.contains(text), "no {text} in\n{metrics}");
    }
    assert_eq!(get(address, "/nothing").0, "404");

    // Nobody else may have the port, and it is said before anything serves.
    let (code, _, errors) =
        run(&["serve", "--listen", "127.0.0.1:0", "--admin", address, "--ephemeral"]);
    let sentence =
        format!("error: cannot listen on {address}: address already in use; stop the other");
    assert!(code == 1 && errors.starts_with(&sentence), "{code} {errors}");
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().0, Some(0));
}

/// What `Type=notify` and `WatchdogSec=` want, from a service manager that is not there.
#[test]
fn the_service_manager_is_told() {
    let directory = Directory::new("notify");
    let path = directory.0.join("notify.sock");
    let manager = UnixDatagram::bind(&path).expect("a free name");
    let mut command = midge(&["serve", "--listen", "127.0.0.1:0", "--shards", "2", "--ephemeral"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    command.env("RUNTIME_DIRECTORY", directory.0.join("run"));
    let serving = Serving::spawn(command);
    let next = || {
        let mut message = [0; 512];
        let size = manager.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..size]).into_owned()
    };
    // As often as it takes, but nothing is read that would ask for more time.
    let mut ready = next();
    assert_eq!(ready, "STATUS=starting");
    while ready == "STATUS=starting" {
        ready = next();
    }
    assert!(ready.starts_with("READY=1\nSTATUS=midge "), "{ready}");
    assert!(ready.contains(&serving.address().to_string()), "{ready}");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    serving.signal(Signal::TERM);
    let stopping = loop {
        match next() {
            life if life == "WATCHDOG=1" => {}
            other => break other,
        }
    };
    assert_eq!(stopping, "STOPPING=1\nSTATUS=draining for 10s at most");
    assert_eq!(serving.end().0, Some(0));
}
