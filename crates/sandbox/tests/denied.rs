//! What the kernel really refuses, tried by a child process: nothing of it can be undone.

use std::{
    env, fs,
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{Command, id},
    thread,
};

use midge_sandbox::{Extent, Places, landlock_works, refuse_calls, restrict_files};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, socket},
    process::{Pid, Signal, kill_process},
};

/// Says to a child where its files are.
const DIRECTORY: &str = "MIDGE_SANDBOX_TEST";

/// Runs the ignored test of that name in a process of its own.
fn in_a_child(test: &str) {
    let directory = env::temp_dir().join(format!("midge-sandbox-{test}-{}", id()));
    for below in ["readable", "writable", "sockets", "other"] {
        fs::create_dir_all(directory.join(below)).expect("a directory");
        fs::write(directory.join(below).join("file"), below).expect("a file");
    }
    let output = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(DIRECTORY, &directory)
        .output()
        .expect("it starts");
    _ = fs::remove_dir_all(&directory);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
}

/// Only of a child: elsewhere it would restrict the tests.
fn directory() -> Option<PathBuf> {
    env::var_os(DIRECTORY).map(PathBuf::from)
}

#[test]
fn calls() {
    in_a_child("child_calls");
}

#[test]
#[ignore = "run by the test `calls`"]
fn child_calls() {
    let Some(directory) = directory() else { return };
    // A thread that is there already is held to it, too.
    let (go, begin) = std::sync::mpsc::channel::<()>();
    let earlier = thread::spawn(move || {
        begin.recv().expect("a word");
        Command::new("/bin/true").spawn().map(drop).map_err(|error| error.kind())
    });
    refuse_calls().expect("this kernel has filters");
    go.send(()).expect("it waits");
    assert_eq!(earlier.join().expect("no panic"), Err(ErrorKind::PermissionDenied));

    let refused = Command::new("/bin/true").spawn().map(drop);
    assert_eq!(refused.expect_err("it may not").kind(), ErrorKind::PermissionDenied);
    let hosts = [AddressFamily::NETLINK, AddressFamily::PACKET];
    for family in hosts {
        assert_eq!(socket(family, SocketType::DGRAM, None).err(), Some(Errno::PERM));
    }
    let nothing = rustix::mount::UnmountFlags::empty();
    assert_eq!(rustix::mount::unmount("/nowhere", nothing).err(), Some(Errno::PERM));
    assert_eq!(rustix::system::sethostname(b"x").err(), Some(Errno::PERM));

    // Threads, sockets and files are as ever.
    assert_eq!(thread::spawn(|| 7).join().expect("no panic"), 7);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    fs::write(directory.join("other/file"), "x").expect("files are another part");
}

#[test]
fn files() {
    if landlock_works() {
        in_a_child("child_files");
    } else {
        eprintln!("skipped: no landlock here");
    }
}

#[test]
#[ignore = "run by the test `files`"]
fn child_files() {
    let Some(directory) = directory() else { return };
    let place = |name: &str| directory.join(name);
    let extent = restrict_files(&Places {
        readable: vec![place("readable"), place("missing"), place("other/file")],
        writable: vec![place("writable")],
        sockets: vec![place("sockets")],
    })
    .expect("landlock works");
    let denied = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied);

    let text = fs::read_to_string(place("readable/file"));
    assert_eq!(text.expect("it may be read"), "readable");
    denied(fs::write(place("readable/file"), "x").expect_err("only read"));
    denied(fs::write(place("readable/new"), "x").expect_err("only read"));
    denied(fs::remove_file(place("readable/file")).expect_err("only read"));

    fs::write(place("writable/new"), "x").expect("it may be written");
    fs::create_dir(place("writable/below")).expect("it may be written");
    fs::rename(place("writable/new"), place("writable/below/new")).expect("it may be written");
    fs::remove_dir_all(place("writable/below")).expect("it may be written");
    denied(fs::rename(place("writable/file"), place("other/taken")).expect_err("not there"));

    UnixListener::bind(place("sockets/one")).expect("sockets may be made");
    fs::remove_file(place("sockets/one")).expect("and removed");
    denied(fs::write(place("sockets/new"), "x").expect_err("only sockets"));
    denied(fs::read(place("sockets/file")).expect_err("only sockets"));

    // One file of a directory.
    assert_eq!(fs::read(place("other/file")).expect("it is named"), b"other");
    denied(fs::read_dir(place("other")).expect_err("it is not"));
    denied(fs::read("/etc/passwd").expect_err("it is not"));

    // Threads inherit it; programs do not start, wherever they lie.
    let other = place("other");
    let inherited = thread::spawn(move || fs::read_dir(other).map(drop)).join();
    denied(inherited.expect("no panic").expect_err("it is not"));
    denied(Command::new("/bin/true").spawn().expect_err("no right to start it"));

    // What runs under other rules is out of reach: this test's parent. Kernels before 6.12 do not know it.
    let parent = rustix::process::getppid().expect("a parent");
    let signal = kill_process(parent, Signal::CONT).err();
    assert_eq!(signal, (extent == Extent::Full).then_some(Errno::PERM));
    assert_eq!(kill_process(Pid::from_raw(id() as i32).expect("ours"), Signal::CONT).err(), None);
}
