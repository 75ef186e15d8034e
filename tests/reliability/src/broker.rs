//! The broker under test: a real process on a free loopback port, and what the kernel says about it.
//!
//! `MIDGE_BIN` names the program; without it `cargo build` makes one beside this one, in the same profile.
//!
//! A broker ends with the process that started it, however that ends: it is started through a shell that waits for its
//! standard input to close, and then ends the broker by its process id.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a broker may take to accept its first connection.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Runs the broker (`$0` with the arguments) until standard input closes; says its process id first.
const GUARD: &str = r#"
exec 3<&0
"$0" "$@" </dev/null >/dev/null & broker=$!
echo $broker
exec >/dev/null
( read -r _ <&3; kill -KILL $broker ) 2>/dev/null & watch=$!
wait $broker
kill $watch 2>/dev/null
"#;

/// Stands for the broker's port in a configuration.
const PORT: &str = "@PORT@";

/// Ticks of processor time per second, as `/proc` counts them on every Linux that this runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Runs a command of midge in the broker's directory, before it starts.
pub type Midge<'a> = &'a dyn Fn(&[&str]);

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    shards: u16,
    process: u32,
    guard: Child,
    directory: PathBuf,
}

impl Broker {
    /// Starts a broker with `shards` shards and a configuration of its own (YAML, above the defaults; may be empty).
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(shards: u16, configuration: &str) -> Self {
        // Another process can take the free port before the broker does: then try another one.
        (0..3)
            .find_map(|_| Self::try_start(shards, configuration, &mut |_| {}))
            .expect("the broker starts; what it said is above")
    }

    /// The same in a directory where `prepare` has made files with commands of midge. A configuration that names its
    /// listeners says `@PORT@` where it is to be reached.
    ///
    /// # Panics
    /// When it does not start, or a command fails.
    #[must_use]
    pub fn start_with(
        shards: u16,
        configuration: &str,
        mut prepare: impl FnMut(Midge<'_>),
    ) -> Self {
        (0..3)
            .find_map(|_| Self::try_start(shards, configuration, &mut prepare))
            .expect("the broker starts; what it said is above")
    }

    fn try_start(
        shards: u16,
        configuration: &str,
        prepare: &mut dyn FnMut(Midge<'_>),
    ) -> Option<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("midge-reliability-{}-{number}", std::process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory for temporary files can be written");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let address = address.expect("loopback has a free port");
        let mut command = Command::new("sh");
        command.args(["-c", GUARD]).arg(program()).args(["serve", "--ephemeral"]);
        if !configuration.contains(PORT) {
            command.args(["--listen", &address.to_string()]);
        }
        command.args(["--shards", &shards.to_string(), "--runtime-dir"]);
        command.arg(directory.join("run")).current_dir(&directory);
        prepare(&|arguments| {
            let status = Command::new(program()).args(arguments).current_dir(&directory).status();
            assert!(status.expect("the program starts").success(), "{arguments:?}");
        });
        if !configuration.is_empty() {
            let file = directory.join("midge.yaml");
            let text = configuration.replace(PORT, &address.port().to_string());
            fs::write(&file, text).expect("the configuration can be written");
            command.arg("--config").arg(file);
        }
        let log = fs::File::create(directory.join("log")).expect("the log can be written");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut guard = command.spawn().expect("there is a shell");
        let mut line = String::new();
        let said = guard.stdout.take().expect("piped");
        BufReader::new(said).read_line(&mut line).expect("the guard says the process id");
        let process = line.trim().parse().expect("a process id");
        let mut broker = Self { address, shards, process, guard, directory };
        broker.wait_until_it_accepts().then_some(broker)
    }

    fn wait_until_it_accepts(&mut self) -> bool {
        let deadline = Instant::now() + START_PATIENCE;
        while TcpStream::connect_timeout(&self.address, START_PATIENCE).is_err() {
            let ended = self.guard.try_wait().expect("the guard is our child");
            if ended.is_some() || Instant::now() > deadline {
                eprintln!("the broker did not start ({ended:?}):\n{}", self.log());
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes another configuration, which it may be told to read.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure(&self, configuration: &str) {
        let text = configuration.replace(PORT, &self.address.port().to_string());
        fs::write(self.directory.join("midge.yaml"), text).expect("the file can be written");
    }

    /// Runs a command of midge that talks to it; whether that worked.
    ///
    /// # Panics
    /// When the program does not start.
    #[must_use]
    pub fn midge(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new(program());
        command.args(arguments).arg("--runtime-dir").arg(self.directory.join("run"));
        command.stdout(Stdio::null()).status().expect("the program starts").success()
    }

    /// Open descriptors.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process)).expect("the broker runs").count()
    }

    /// How many shards it has.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// What it has said on standard error.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Resident memory, in bytes.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn memory(&self) -> f64 {
        self.status("VmRSS:") * 1024.0
    }

    /// The most resident memory since the last [`Broker::forget_peak`], in bytes.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn memory_peak(&self) -> f64 {
        self.status("VmHWM:") * 1024.0
    }

    /// Starts the peak of the resident memory anew.
    ///
    /// # Panics
    /// When the process has ended.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.process), "5").expect("the broker runs");
    }

    fn status(&self, key: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process));
        let status = status.expect("the broker runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kibibytes.unwrap_or_else(|| panic!("the broker has ended:\n{}", self.log()))
    }

    /// Processor time so far, user and system, in seconds.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn processor_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process));
        let stat = stat.expect("the broker runs");
        // The name in parentheses may hold anything; fields count from behind it.
        let fields = stat.rsplit(')').next().expect("there is a name");
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The broker's program: `MIDGE_BIN`, or what `cargo build` makes beside this one.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match env::var_os("MIDGE_BIN") {
        Some(program) => program.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let own = env::current_exe().expect("a program knows its own path");
    // target/<profile>/midge-reliability, or target/<profile>/deps/suite-<hash>
    let mut profile = own.parent().expect("cargo puts programs into target/<profile>");
    if profile.ends_with("deps") {
        profile = profile.parent().expect("deps is inside a profile");
    }
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
