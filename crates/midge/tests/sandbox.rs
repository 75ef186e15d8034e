//! The program in its sandbox: it serves, keeps, reloads and is backed up, and is held to what its configuration names.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that goes with the test. The configuration has one of its own in it, and so has everything that is not named.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("midge-box-{test}-{}", std::process::id()));
        _ = fs::remove_dir_all(&path);
        for below in ["conf", "elsewhere", "later", "log", "sockets"] {
            fs::create_dir_all(path.join(below)).expect("a directory");
        }
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        // As editors do it: another file takes the place of the old one.
        let new = self.0.join("conf/.new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.0.join(name)).expect("a file");
    }

    fn midge(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
        command.args(words).arg("--runtime-dir").arg(self.0.join("run"));
        command.current_dir(&self.0).stdin(Stdio::null()).output().expect("the program starts")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// A broker; ends with the test.
struct Broker {
    child: Child,
    said: String,
    address: SocketAddr,
    _stderr: BufReader<ChildStderr>,
}

impl Broker {
    fn start(directory: &Directory) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_midge"));
        command.args(["serve", "--config", "conf/midge.yaml", "--shards", "2", "--runtime-dir"]);
        let mut child = command
            .arg(directory.0.join("run"))
            .env("STATE_DIRECTORY", directory.0.join("state"))
            .current_dir(&directory.0)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut said = String::new();
        let mut line = String::new();
        while !line.contains("serves mqtt on ") {
            line.clear();
            assert!(stderr.read_line(&mut line).expect("a line") > 0, "it ended:\n{said}");
            said += &line;
        }
        // What it has given up stands in the next one.
        stderr.read_line(&mut said).expect("a line");
        let word = line.split_whitespace().skip_while(|word| *word != "on").nth(1).expect("one");
        let address = word.trim_end_matches([':', ',']).parse().expect(word);
        Self { child, said, address, _stderr: stderr }
    }

    /// A field of the status of each of its threads.
    fn of_threads(&self, field: &str) -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let status = |path: PathBuf| fs::read_to_string(path.join("status")).ok();
        threads
            .filter_map(|thread| status(thread.ok()?.path()))
            .filter_map(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix(field))?;
                Some(line.trim().to_owned())
            })
            .collect()
    }

    fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("it runs");
        kill_process(pid, Signal::TERM).expect("it runs");
        assert_eq!(self.child.wait().expect("ours").code(), Some(0));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// Sends a packet that has an answer, and gives its body.
fn ask(stream: &mut (impl Read + Write), first: u8, body: &[u8]) -> Vec<u8> {
    stream.write_all(&[&[first, body.len() as u8], body].concat()).expect("it takes it");
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("it answers");
    let mut answer = vec![0; usize::from(head[1])];
    stream.read_exact(&mut answer).expect("it answers");
    answer
}

/// The return code of an MQTT 3.1.1 CONNECT.
fn connect(stream: &mut (impl Read + Write), client_id: &str, user: &str) -> u8 {
    let body =
        [b"\0\x04MQTT\x04\xc2\0\0".to_vec(), text(client_id), text(user), text("x")].concat();
    ask(stream, 0x10, &body)[1]
}

fn client(broker: &Broker, user: &str) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(broker.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("is above zero");
    let code = connect(&mut stream, user, user);
    (stream, code)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Without landlock files are another matter, and nothing here can tell.
fn both_parts(broker: &Broker) -> bool {
    broker.said.contains("(landlock") && broker.said.contains("(seccomp)")
}

#[test]
fn it_serves_keeps_reloads_and_is_backed_up() {
    let directory = Directory::new("serves");
    let path = |name: &str| directory.0.join(name).display().to_string();
    let configuration = |acl: &str, more: &str| {
        format!(
            "listeners: [{{address: \"127.0.0.1:0\"}}, {{address: \"unix:{}\"}}{more}]\n\
             durability: {{directory: {}}}\n\
             audit: {{file: {}}}\n\
             security: {{password_file: conf/users, acl_file: {acl}}}\n\
             sandbox: {{readable: [later]}}\n",
            path("sockets/mqtt"),
            path("data"),
            path("log/audit")
        )
    };
    let user = |name: &str| {
        let words = ["passwd", "-H", "sha512-pbkdf2", "-I", "101", &path("conf/users"), name, "x"];
        let done = Command::new(env!("CARGO_BIN_EXE_midge")).args(words).output();
        let done = done.expect("the program starts");
        assert!(done.status.success(), "{}", said(&done));
    };
    user("anna");
    directory.write("conf/acl", "user anna\ntopic readwrite #\n");
    directory.write("conf/midge.yaml", &configuration("conf/acl", ""));
    let broker = Broker::start(&directory);
    if !both_parts(&broker) {
        eprintln!("skipped: not both parts here: {}", broker.said);
        return;
    }
    // Every thread, whenever it began.
    for (field, expected) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
        let found = broker.of_threads(field);
        assert!(found.len() > 4 && found.iter().all(|value| value == expected), "{found:?}");
    }

    // A publication is acknowledged: it is on the disk.
    let (mut anna, code) = client(&broker, "anna");
    assert_eq!(code, 0);
    let publish = [text("t"), vec![0, 7], b"kept".to_vec()].concat();
    assert_eq!(ask(&mut anna, 0x33, &publish), [0, 7]);
    let mut local = UnixStream::connect(directory.0.join("sockets/mqtt")).expect("it listens");
    assert_eq!(connect(&mut local, "local", "anna"), 0);

    // Files with the same names, and one that is named later.
    user("ben");
    assert_eq!(client(&broker, "ben").1, 4);
    directory.write("later/acl", "user ben\ntopic readwrite #\n");
    directory.write("conf/midge.yaml", &configuration("later/acl", ""));
    fs::rename(directory.0.join("log/audit"), directory.0.join("log/audit.1")).expect("ours");
    let reloaded = directory.midge(&["reload"]);
    assert!(reloaded.status.success(), "{}", said(&reloaded));
    assert_eq!(client(&broker, "ben").1, 0);
    assert!(directory.0.join("log/audit").exists(), "it is opened anew");

    // What nobody named before the start.
    fs::write(directory.0.join("elsewhere/acl"), "topic read #\n").expect("a file");
    let socket = format!(", {{address: \"unix:{}\"}}", path("elsewhere/mqtt"));
    for (acl, more, expected) in [
        ("elsewhere/acl", "", "security.acl_file: elsewhere/acl lies where"),
        ("later/acl", socket.as_str(), "listeners[2].address: "),
    ] {
        directory.write("conf/midge.yaml", &configuration(acl, more));
        let refused = directory.midge(&["reload"]);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains(expected), "{}", said(&refused));
        assert!(said(&refused).contains("restart it"), "{}", said(&refused));
    }
    let other = "listeners: [{address: \"127.0.0.1:0\"}]\n";
    fs::write(directory.0.join("elsewhere/midge.yaml"), other).expect("a file");
    // Whoever asks about another configuration has read it.
    let asked = directory.midge(&["check", "--config", "elsewhere/midge.yaml", "--diff"]);
    assert!(asked.status.success(), "{}", said(&asked));
    let told = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(told.contains("security.acl_file: later/acl → none"), "{told}");
    let other = format!("{other}security: {{acl_file: elsewhere/acl, allow_anonymous: true}}\n");
    fs::write(directory.0.join("elsewhere/midge.yaml"), other).expect("a file");
    let asked = directory.midge(&["check", "--config", "elsewhere/midge.yaml", "--diff"]);
    assert_eq!(asked.status.code(), Some(2));
    assert!(
        said(&asked).contains("security.acl_file: elsewhere/acl lies where"),
        "{}",
        said(&asked)
    );

    // Whoever makes a backup copies the files, not the broker.
    let backup = directory.0.join("elsewhere/backup").display().to_string();
    let copied = directory.midge(&["store", "backup", &backup]);
    assert!(copied.status.success(), "{}", said(&copied));

    broker.stop();
    assert!(!directory.0.join("sockets/mqtt").exists(), "it cleans up");
    assert_eq!(fs::read_dir(directory.0.join("run")).expect("it is there").count(), 0);
    directory.write("conf/midge.yaml", &configuration("conf/acl", ""));
    let broker = Broker::start(&directory);
    let (mut anna, _) = client(&broker, "anna");
    assert_eq!(ask(&mut anna, 0x82, &[vec![0, 1], text("t"), vec![0]].concat())[2], 0);
    let mut message = [0; 9];
    anna.read_exact(&mut message).expect("the retained message");
    assert!(message.ends_with(b"kept"), "{message:?}");
    broker.stop();
}

#[test]
fn it_can_be_off_and_it_can_be_required() {
    let directory = Directory::new("modes");
    let start = |mode: &str| {
        let text =
            format!("listeners: [{{address: \"127.0.0.1:0\"}}]\nsandbox: {{mode: {mode}}}\n");
        directory.write("conf/midge.yaml", &text);
        Broker::start(&directory)
    };
    let broker = start("off");
    assert!(broker.said.contains("sandbox: off"), "{}", broker.said);
    assert!(broker.of_threads("Seccomp:").iter().all(|value| value == "0"));
    broker.stop();
    let broker = start("auto");
    if both_parts(&broker) {
        broker.stop();
        let broker = start("required");
        assert!(both_parts(&broker));
    }

    directory.write("conf/midge.yaml", "sandbox: {mode: required, writable: [nowhere]}\n");
    let refused = directory.midge(&["serve", "--config", "conf/midge.yaml"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        said(&refused).contains("sandbox.writable[0]: cannot open nowhere"),
        "{}",
        said(&refused)
    );
}
