//! Listening sockets, with the options that accepted connections inherit.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    time::Duration,
};

use crate::sys;

/// How [`listen_tcp`] sets up a listening socket. Accepted connections inherit everything but the backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that wait to be accepted; the kernel bounds it by `net.core.somaxconn`. Default 4,096.
    pub backlog: u32,
    /// `SO_REUSEPORT`: several listeners share the port, and the kernel spreads connections over them. One per shard.
    /// Default true.
    pub reuse_port: bool,
    /// `IPV6_V6ONLY`: an IPv6 listener takes IPv6 peers only. Ignored for IPv4. Default false.
    pub ipv6_only: bool,
    /// `TCP_NODELAY`: small packets leave at once. Default true.
    pub no_delay: bool,
    /// `SO_RCVBUF` in bytes; `None` leaves it to the kernel's automatic sizing.
    pub receive_buffer_size: Option<u32>,
    /// `SO_SNDBUF` in bytes; `None` leaves it to the kernel's automatic sizing.
    pub send_buffer_size: Option<u32>,
    /// TCP keep-alive: how long a connection may be silent before the kernel asks whether the peer is alive, in whole
    /// seconds. `None` switches it off; MQTT has its own. Default `None`.
    pub keep_alive: Option<Duration>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            reuse_port: true,
            ipv6_only: false,
            no_delay: true,
            receive_buffer_size: None,
            send_buffer_size: None,
            keep_alive: None,
        }
    }
}

/// A listening TCP socket at `address`; port 0 lets the kernel choose.
///
/// # Errors
///
/// What the system says: the address is in use, not ours, or needs a privilege.
pub fn listen_tcp(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = sys::stream_socket(address)?;
    let set = |level, name, value: u32| {
        sys::set_option(&socket, level, name, i32::try_from(value).unwrap_or(i32::MAX))
    };
    set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if options.reuse_port {
        set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if address.is_ipv6() {
        set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, options.ipv6_only.into())?;
    }
    set(libc::IPPROTO_TCP, libc::TCP_NODELAY, options.no_delay.into())?;
    if let Some(size) = options.receive_buffer_size {
        set(libc::SOL_SOCKET, libc::SO_RCVBUF, size)?;
    }
    if let Some(size) = options.send_buffer_size {
        set(libc::SOL_SOCKET, libc::SO_SNDBUF, size)?;
    }
    if let Some(idle) = options.keep_alive {
        let seconds = u32::try_from(idle.as_secs().max(1)).unwrap_or(u32::MAX);
        set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
        set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds)?;
    }
    sys::bind(&socket, address)?;
    sys::listen(&socket, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(TcpListener::from(socket))
}

/// `TCP_DEFER_ACCEPT`: connections of this listening socket are accepted when the peer has sent its first bytes, and
/// those that stay silent after `wait` (whole seconds, at least one). In a protocol in which clients speak first that
/// spares a turn of the loop for each connection, and silent peers cost the broker nothing so long.
///
/// # Errors
///
/// What the system says: not a TCP socket, most likely.
pub fn defer_accept(socket: &impl AsRawFd, wait: Duration) -> io::Result<()> {
    let seconds = i32::try_from(wait.as_secs().max(1)).unwrap_or(i32::MAX);
    sys::set_option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Raises the soft limit of open descriptors to the hard limit and returns it.
///
/// # Errors
///
/// What the system says.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    sys::raise_descriptor_limit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_share_a_port_when_they_may() {
        let options = ListenOptions::default();
        let first = listen_tcp("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let address = first.local_addr().unwrap();
        assert_ne!(address.port(), 0);
        listen_tcp(address, &options).unwrap();
        let alone = ListenOptions { reuse_port: false, ..options };
        let error = listen_tcp(address, &alone).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn every_option_is_accepted() {
        let options = ListenOptions {
            receive_buffer_size: Some(16_384),
            send_buffer_size: Some(16_384),
            keep_alive: Some(Duration::from_secs(60)),
            ipv6_only: true,
            ..ListenOptions::default()
        };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            listen_tcp(address.parse().unwrap(), &options).unwrap();
        }
    }
}
