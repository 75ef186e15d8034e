//! The broker under test: a real process on a free loopback port.
//!
//! One process is shared by all tests of the binary ([`shared`]); a test that needs settings of its
//! own starts another ([`Broker::start`]). Environment variables:
//!
//! - `MIDGE_CONFORMANCE_ADDRESS`: use the broker that listens there and start none; tests that need
//!   one of their own say so and pass;
//! - `MIDGE_CONFORMANCE_TERSE`: a broker of 5.0 may also close without saying why, which the
//!   specification allows and Midge does not do: to try the suite on other brokers;
//! - `MIDGE_BIN`: the program to start; without it `cargo build` makes one, in the profile of the tests;
//! - `MIDGE_CONFORMANCE_SHARDS`: how many shards, 3 by default so that packets cross between shards.
//!
//! A broker ends with the process that started it, however that ends: it is started through a
//! shell that waits for its standard input to close, and then ends the broker by its process id.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a broker may take to accept its first connection.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Runs the broker (`$0` with the arguments) until standard input closes.
const GUARD: &str = r#"
exec 3<&0
"$0" "$@" </dev/null & broker=$!
( read -r _ <&3; kill -TERM $broker ) 2>/dev/null & watch=$!
wait $broker; code=$?
kill $watch 2>/dev/null
exit $code
"#;

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    guard: Child,
    directory: PathBuf,
}

/// Whether the suite was pointed at a broker that it did not start.
#[must_use]
pub fn is_external() -> bool {
    external().is_some()
}

/// Whether the broker may close without giving a reason.
#[must_use]
pub fn is_terse() -> bool {
    env::var_os("MIDGE_CONFORMANCE_TERSE").is_some()
}

fn external() -> Option<SocketAddr> {
    let address = env::var("MIDGE_CONFORMANCE_ADDRESS").ok()?;
    Some(address.parse().expect("MIDGE_CONFORMANCE_ADDRESS is an address and a port"))
}

/// The broker that all tests share.
pub fn shared() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(|| match external() {
        Some(address) => Broker { address, process: None },
        None => Broker::start_process(None),
    })
}

impl Broker {
    /// Starts a broker with a configuration file of its own (YAML, above the defaults).
    ///
    /// `None` if the suite runs against a broker it did not start: the test cannot say anything
    /// about that one.
    #[must_use]
    pub fn start(configuration: &str) -> Option<Self> {
        if is_external() {
            eprintln!("not run: this test needs a broker with its own configuration");
            return None;
        }
        Some(Self::start_process(Some(configuration)))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn start_process(configuration: Option<&str>) -> Self {
        // Another process can take the free port before the broker does: then try another one.
        for _ in 0..3 {
            if let Some(broker) = Self::try_start(configuration) {
                return broker;
            }
        }
        panic!("the broker did not start three times in a row; what it said is above");
    }

    fn try_start(configuration: Option<&str>) -> Option<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("midge-conformance-{}-{number}", std::process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory for temporary files can be written");

        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let address = address.expect("loopback has a free port");
        let mut command = Command::new("sh");
        command.args(["-c", GUARD]).arg(program()).args(["serve", "--ephemeral"]);
        command.args(["--listen", &address.to_string(), "--shards", &shards()]);
        if let Some(configuration) = configuration {
            let file = directory.join("midge.yaml");
            fs::write(&file, configuration).expect("the configuration can be written");
            command.arg("--config").arg(file);
        }
        let log = fs::File::create(directory.join("log")).expect("the log can be written");
        command.stderr(log.try_clone().expect("a file has a second handle")).stdout(log);
        let guard = command.stdin(Stdio::piped()).spawn().expect("there is a shell");
        let mut broker = Self { address, process: Some(Process { guard, directory }) };
        broker.wait_until_it_accepts().then_some(broker)
    }

    fn wait_until_it_accepts(&mut self) -> bool {
        let process = self.process.as_mut().expect("just started");
        let deadline = Instant::now() + START_PATIENCE;
        while TcpStream::connect_timeout(&self.address, START_PATIENCE).is_err() {
            let ended = process.guard.try_wait().expect("the guard is our child");
            if ended.is_some() || Instant::now() > deadline {
                eprintln!("the broker did not start ({ended:?}):\n{}", process.log());
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

impl Process {
    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn shards() -> String {
    env::var("MIDGE_CONFORMANCE_SHARDS").unwrap_or_else(|_| "3".into())
}

/// The broker's program: `MIDGE_BIN`, or what `cargo build` makes beside the tests.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match env::var_os("MIDGE_BIN") {
        Some(program) => program.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let test = env::current_exe().expect("the test knows its own path");
    // target/<profile>/deps/suite-<hash>
    let profile = test.ancestors().nth(2).expect("cargo puts tests into target/<profile>/deps");
    let target = profile.parent().expect("a profile is inside the target directory");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "midge", "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"));
    cargo.arg("--target-dir").arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo runs").success(), "the broker does not build");
    profile.join("midge")
}
