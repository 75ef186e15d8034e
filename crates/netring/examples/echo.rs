//! An echo server on one ring, and what it costs: processor time per receive and send, memory per idle connection.
//!
//! ```text
//! cargo run --release -p midge-netring --example echo -- [CONNECTIONS] [BUSY] [SECONDS]
//! ```
//!
//! A child process opens the connections over the loopback (15,000 unless told otherwise) and plays ping-pong with 64
//! bytes on some of them (200). Closed loop: each busy connection has one message under way. The figures are those of
//! the server's thread; the child competes for the machine, so pin them apart (`taskset`) or know that they share.

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use midge_netring::{
    Event, ListenOptions, ListenerId, NetRing, Receive, RingConfig, Slot, Wait, listen_tcp,
};
use midge_output::Output;

const MESSAGE_SIZE: usize = 64;

/// Connections from one source address, below the usual number of ephemeral ports.
const CONNECTIONS_PER_SOURCE: usize = 20_000;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |index: usize, default: usize| {
        arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (connections, busy, seconds) = (number(0, 15_000), number(1, 200), number(2, 5));
    match arguments.get(3) {
        Some(address) => play(address.parse().expect("an address"), connections, busy),
        None => serve(connections, busy, Duration::from_secs(seconds as u64)),
    }
}

fn config(connections: usize) -> RingConfig {
    RingConfig {
        slots: RingConfig::slots_within_limit(connections as u32 + 100),
        receive_buffer_size: 1024,
        ..RingConfig::default()
    }
}

/// Nanoseconds that this thread has run, and kibibytes of this process's own memory.
fn usage() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    (nanoseconds, resident.unwrap_or(0))
}

fn serve(connections: usize, busy: usize, time: Duration) -> io::Result<()> {
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions::default())?;
    let address = listener.local_addr()?;
    let mut ring = NetRing::new(&config(connections))?;
    ring.listen(listener, ListenerId(0), 64)?;
    ring.turn(Wait::No)?;
    let (_, memory_empty) = usage();

    let mut child = Command::new(env::current_exe()?)
        .args([connections, busy, 0].map(|number| number.to_string()))
        .arg(address.to_string())
        .stdin(Stdio::piped())
        .spawn()?;

    let mut server = Server { ring, free: Vec::new(), accepted: 0 };
    while server.accepted < connections {
        server.turn()?;
    }
    server.turn()?;
    let (_, memory_idle) = usage();
    println!(
        "idle: {connections} connections, {} bytes of memory each ({} of them slots)",
        (memory_idle - memory_empty) * 1024 / connections as u64,
        server.ring.memory_bytes() / connections,
    );

    // The child begins when its input ends; the first moments are not counted.
    drop(child.stdin.take());
    let warm = Instant::now() + Duration::from_millis(500);
    while Instant::now() < warm {
        server.turn()?;
    }
    let (begin, (ran, _), before) = (Instant::now(), usage(), server.ring.counters());
    while begin.elapsed() < time {
        server.turn()?;
    }
    let (elapsed, (ran_after, memory_busy), after) =
        (begin.elapsed(), usage(), server.ring.counters());

    let messages = after.receives - before.receives;
    let enters = after.enters - before.enters;
    println!(
        "busy: {busy} of them, {messages} messages in {:.1} s ({:.0} per second)",
        elapsed.as_secs_f64(),
        messages as f64 / elapsed.as_secs_f64()
    );
    println!(
        "      {:.2} us of processor time per receive and send, {:.1} messages per turn, {:.2} system calls per message",
        (ran_after - ran) as f64 / 1000.0 / messages as f64,
        messages as f64 / enters as f64,
        enters as f64 / messages as f64,
    );
    println!("      {} KiB more memory than idle", memory_busy.saturating_sub(memory_idle));

    let (ran, _) = usage();
    for index in 0..connections {
        server.ring.close(Slot::new(index as u32));
        if index % 256 == 0 {
            server.turn()?;
        }
    }
    while server.ring.slots_in_use() > 0 {
        server.turn()?;
    }
    let (ran_after, _) = usage();
    println!(
        "end:  {:.2} us of processor time per connection to close it from our side",
        (ran_after - ran) as f64 / 1000.0 / connections as f64
    );
    child.kill()?;
    child.wait()?;
    Ok(())
}

struct Server {
    ring: NetRing,
    /// Outputs between uses.
    #[expect(clippy::vec_box, reason = "the boxes are what the ring takes and gives back")]
    free: Vec<Box<Output>>,
    accepted: usize,
}

impl Server {
    fn turn(&mut self) -> io::Result<()> {
        let ring = &mut self.ring;
        ring.turn(Wait::For(Duration::from_millis(100)))?;
        while let Some(event) = ring.next_event() {
            match event {
                Event::Accepted { slot, .. } => {
                    self.accepted += 1;
                    ring.receive(slot, Receive::Continuous);
                }
                Event::Received { slot, data } => {
                    let mut output = self.free.pop().unwrap_or_default();
                    output.extend(ring.bytes(&data));
                    ring.recycle(data);
                    ring.send(slot, output);
                }
                Event::Sent { mut output, .. } => {
                    output.recycle();
                    self.free.push(output);
                }
                Event::PeerClosed { slot } | Event::Failed { slot, .. } => ring.close(slot),
                Event::Closed { .. } => self.accepted -= 1,
                other => panic!("unexpected: {other:?}"),
            }
        }
        Ok(())
    }
}

/// The child: opens the connections, waits for the end of its input, plays until it is killed.
fn play(address: SocketAddr, connections: usize, busy: usize) -> io::Result<()> {
    let mut ring = NetRing::new(&config(connections))?;
    let mut slots: Vec<Slot> = Vec::new();
    let mut connected = 0;
    while connected < connections {
        // A few at a time, so that the backlog holds them.
        while slots.len() < connections && slots.len() < connected + 256 {
            let source = 2 + (slots.len() / CONNECTIONS_PER_SOURCE) as u8;
            let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, source));
            slots.push(ring.connect(address, Some(source))?);
        }
        ring.turn(Wait::Forever)?;
        while let Some(event) = ring.next_event() {
            match event {
                Event::Connected { .. } => connected += 1,
                other => panic!("while connecting: {other:?}"),
            }
        }
    }
    BufReader::new(io::stdin()).read_line(&mut String::new())?;
    for slot in slots.iter().step_by((connections / busy.max(1)).max(1)).take(busy) {
        let mut output = Box::new(Output::new());
        output.extend(&[7; MESSAGE_SIZE]);
        ring.receive(*slot, Receive::Continuous);
        ring.send(*slot, output);
    }
    let mut outputs = Vec::new();
    loop {
        ring.turn(Wait::Forever)?;
        while let Some(event) = ring.next_event() {
            match event {
                Event::Sent { output, .. } => outputs.push(output),
                Event::Received { slot, data } => {
                    ring.recycle(data);
                    ring.send(slot, outputs.pop().expect("its own has come back"));
                }
                // The server has finished.
                Event::PeerClosed { .. } | Event::Failed { .. } => {}
                other => panic!("while playing: {other:?}"),
            }
        }
    }
}
