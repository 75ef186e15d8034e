//! The listening sockets: one on each listener's address for each shard.
//!
//! With several shards the kernel spreads new connections over sockets that share an address with
//! `SO_REUSEPORT`. That option would also let a second broker of the same user share it, silently
//! taking half of the clients; so a plain bind, which no other socket may share, tries each
//! address first.
//!
//! A process that is killed leaves its rings to the kernel, which ends them, and closes their sockets, a little after
//! the process is gone. So an address in use is tried again for a moment: whoever starts a broker in place of a killed
//! one should not have to.
//!
//! Options set here are inherited by every accepted connection: no Nagle delay, TCP keep-alive,
//! buffer sizes.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use midge_config::{Address, Listener, Loaded, Origin};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::{failure::Failure, settings::Settings};

mod unix;

pub(crate) use unix::{remove_all, set_mode};

/// The sockets of one listener.
#[derive(Debug)]
pub(crate) struct Listening {
    /// What logs and statistics call the listener.
    pub(crate) label: String,
    /// The real address: with the port that the kernel chose, if it was asked to.
    pub(crate) address: Address,
    /// One socket for each shard, by shard.
    pub(crate) sockets: Vec<TcpListener>,
}

/// Opens the sockets of all listeners, or none.
///
/// # Errors
/// One sentence that names the address, what is wrong with it and what to do.
pub(crate) fn open_all(settings: &Settings) -> Result<Vec<Listening>, Failure> {
    let listeners = settings.config().listeners.iter().enumerate();
    listeners
        .map(|(place, listener)| {
            open_one(listener, settings.shards, &settings.loaded, place).map_err(Failure::Other)
        })
        .collect()
}

/// Opens the sockets of one listener, which stands at this place of the configuration.
///
/// # Errors
/// As [`open_all`].
pub(crate) fn open_one(
    listener: &Listener,
    shards: u16,
    loaded: &Loaded,
    place: usize,
) -> Result<Listening, String> {
    open(listener, shards).map_err(|error| match &listener.address {
        Address::Ip(address) => sentence(*address, &error, &way_out(loaded, place)),
        Address::Unix(path) => unix::sentence(path, &error),
    })
}

/// Sets the options of a socket that listens already, for the connections to come.
pub(crate) fn configure_again(socket: &TcpListener, listener: &Listener) {
    let socket = SockRef::from(socket);
    // It had them before, with other values; the kernel refuses none of those that the configuration allows.
    if listener.address.ip().is_some() {
        let _ = configure(&socket, listener);
        let _ = socket.set_keepalive(!listener.tcp_keep_alive.duration().is_zero());
    }
    // A second call changes the backlog.
    let _ = socket.listen(i32::try_from(listener.backlog).unwrap_or(i32::MAX));
}

fn open(listener: &Listener, shards: u16) -> io::Result<Listening> {
    let mut address = match &listener.address {
        Address::Ip(address) => *address,
        Address::Unix(path) => {
            let sockets = unix::open(path, listener, shards)?;
            let address = listener.address.clone();
            return Ok(Listening { label: listener.label(), address, sockets });
        }
    };
    let shared = shards > 1;
    if address.port() != 0 {
        // Bound but not listening, so that no client can reach it, and closed at once.
        drop(bind_in_time(address)?);
    }
    let mut sockets = Vec::with_capacity(shards.into());
    for _ in 0..shards {
        let socket = bind(address, shared)?;
        configure(&socket, listener)?;
        socket.listen(i32::try_from(listener.backlog).unwrap_or(i32::MAX))?;
        let socket = TcpListener::from(socket);
        // The kernel chooses a free port for the first socket; the others share it.
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(Listening { label: listener.label(), address: address.into(), sockets })
}

/// Binds alone, as soon as whatever held the address has let go of it.
fn bind_in_time(address: SocketAddr) -> io::Result<Socket> {
    let deadline = Instant::now() + LETTING_GO_MAX;
    loop {
        match bind(address, false) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(LETTING_GO_STEP);
            }
            other => return other,
        }
    }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier broker that linger in TIME-WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // One listener, one family, whatever the system's default is.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn configure(socket: &Socket, listener: &Listener) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let defer = listener.tcp_defer_accept.duration();
    if !defer.is_zero() {
        midge_netring::defer_accept(socket, defer)?;
    }
    let idle = listener.tcp_keep_alive.duration();
    if !idle.is_zero() {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(idle)
                .with_interval(KEEP_ALIVE_INTERVAL)
                .with_retries(KEEP_ALIVE_PROBES),
        )?;
    }
    for (size, set) in [
        (
            listener.tcp_send_buffer_bytes,
            Socket::set_send_buffer_size as fn(&Socket, usize) -> io::Result<()>,
        ),
        (listener.tcp_receive_buffer_bytes, Socket::set_recv_buffer_size),
    ] {
        if size.bytes() != 0 {
            set(socket, usize::try_from(size.bytes()).unwrap_or(usize::MAX))?;
        }
    }
    Ok(())
}

/// Where to choose another address for this listener: where this one was set.
fn way_out(loaded: &Loaded, index: usize) -> String {
    let key = format!("listeners[{index}].address");
    match loaded.origin(&key) {
        Origin::File { line, .. } => match loaded.source_name() {
            Some(file) => format!("in line {line} of {file}"),
            None => format!("as {key}"),
        },
        Origin::Flag(_) | Origin::Default => "with --listen".into(),
    }
}

/// Why an address cannot be listened on, and what to do.
pub(crate) fn sentence(address: SocketAddr, error: &io::Error, way_out: &str) -> String {
    let why = match error.kind() {
        ErrorKind::AddrInUse => {
            format!(
                "address already in use; stop the other program or choose another port {way_out}"
            )
        }
        ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; choose one of its own {way_out}")
        }
        ErrorKind::PermissionDenied => format!(
            "permission denied; give the program CAP_NET_BIND_SERVICE for ports below 1024 or \
             choose another port {way_out}"
        ),
        _ => format!("{error}; choose another address {way_out}"),
    };
    format!("cannot listen on {address}: {why}")
}

/// How long an address in use is tried again, and how often.
const LETTING_GO_MAX: Duration = Duration::from_secs(3);
const LETTING_GO_STEP: Duration = Duration::from_millis(50);

/// Between probes of a silent peer, and how many it may leave unanswered: 90 s to be sure.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_PROBES: u32 = 3;

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpStream};

    use midge_config::{ByteSize, Period};

    use super::*;

    fn listener(address: &str) -> Listener {
        Listener::new(address.parse().expect("an address"))
    }

    #[test]
    fn all_shards_listen_on_the_one_port_found() {
        for shards in [1, 2, 8] {
            let listening = open(&listener("127.0.0.1:0"), shards).expect("a free port");
            let address = listening.address.ip().expect("an IP address");
            assert_ne!(address.port(), 0);
            assert_eq!(listening.sockets.len(), usize::from(shards));
            for socket in &listening.sockets {
                assert_eq!(socket.local_addr().expect("bound"), address);
            }
            TcpStream::connect(address).expect("somebody listens");
        }
    }

    #[test]
    fn a_taken_port_is_refused_whoever_shares_it() {
        for (first, second) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let taken = open(&listener("127.0.0.1:0"), first).expect("a free port");
            let error = open(&listener(&taken.address.to_string()), second);
            let kind = error.map(|_| ()).expect_err("the port is taken").kind();
            assert_eq!(kind, ErrorKind::AddrInUse, "{first} then {second}");
        }
    }

    #[test]
    fn ipv4_and_ipv6_share_a_port() {
        let both = || {
            let six = open(&listener("[::]:0"), 2)?;
            open(
                &listener(&format!("0.0.0.0:{}", six.address.ip().expect("an IP address").port())),
                2,
            )
        };
        // Somebody else may have the free port of one family in the other: then the next one.
        let outcome = (0..10).map(|_| both()).find(|outcome| {
            !outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
        });
        match outcome.expect("a port that is free in both families") {
            Ok(four) => assert_eq!(four.sockets.len(), 2),
            // This machine has no IPv6 at all.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
        }
    }

    #[test]
    fn accepted_connections_inherit_the_options() {
        let listener = Listener {
            tcp_keep_alive: Period::from_seconds(600),
            tcp_defer_accept: Period::default(),
            tcp_send_buffer_bytes: ByteSize::from_kibibytes(16),
            tcp_receive_buffer_bytes: ByteSize::from_kibibytes(8),
            ..listener("127.0.0.1:0")
        };
        let listening = open(&listener, 1).expect("a free port");
        let address = listening.address.ip().expect("an IP address");
        let _client = TcpStream::connect(address).expect("somebody listens");
        let (accepted, _) = listening.sockets[0].accept().expect("a connection");
        let accepted = Socket::from(accepted);
        assert!(accepted.tcp_nodelay().expect("an option"));
        assert!(accepted.keepalive().expect("an option"));
        assert_eq!(accepted.tcp_keepalive_time().expect("an option"), Duration::from_secs(600));
        // The kernel doubles what it is asked for, to have room for its own bookkeeping.
        assert_eq!(accepted.send_buffer_size().expect("an option"), 2 * 16 * 1024);
        assert_eq!(accepted.recv_buffer_size().expect("an option"), 2 * 8 * 1024);
    }

    #[test]
    fn a_client_is_accepted_when_it_speaks_or_has_been_silent_for_a_while() {
        let listening = open(&listener("127.0.0.1:0"), 1).expect("a free port");
        let socket = &listening.sockets[0];
        socket.set_nonblocking(true).expect("an option");
        let address = listening.address.ip().expect("an IP address");
        let mut speaking = TcpStream::connect(address).expect("somebody listens");
        let nobody = socket.accept().expect_err("nobody has spoken");
        assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
        speaking.write_all(b"hello").expect("it is connected");
        let accept = || {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                match socket.accept() {
                    Ok((_, peer)) => return peer,
                    Err(_) if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(5))
                    }
                    Err(error) => panic!("nobody is accepted: {error}"),
                }
            }
        };
        assert_eq!(accept(), speaking.local_addr().expect("an address"));
        let silent = TcpStream::connect(address).expect("somebody listens");
        assert_eq!(accept(), silent.local_addr().expect("an address"));
    }

    #[test]
    fn errors_say_what_to_do() {
        let address = "127.0.0.1:83".parse().expect("an address");
        for (kind, expected) in [
            (
                ErrorKind::AddrInUse,
                "cannot listen on 127.0.0.1:83: address already in use; stop the other program or \
                 choose another port with --listen",
            ),
            (
                ErrorKind::AddrNotAvailable,
                "cannot listen on 127.0.0.1:83: this machine has no such address; choose one of its \
                 own with --listen",
            ),
            (
                ErrorKind::PermissionDenied,
                "cannot listen on 127.0.0.1:83: permission denied; give the program \
                 CAP_NET_BIND_SERVICE for ports below 1024 or choose another port with --listen",
            ),
        ] {
            assert_eq!(sentence(address, &kind.into(), "with --listen"), expected);
        }
    }
}
