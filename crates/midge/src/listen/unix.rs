//! Unix-domain sockets: one, which all shards accept from.
//!
//! The file is ours from the bind to the end. One that a broker has left behind, with nobody listening, is replaced; one
//! with somebody behind it, or that is no socket, is not touched.

use std::{
    fs,
    io::{self, ErrorKind},
    net::TcpListener,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
};

use midge_config::{Address, Listener};
use socket2::{Domain, SockAddr, Socket, Type};

use super::Listening;

/// One descriptor for each shard, all of the same socket.
pub(super) fn open(path: &Path, listener: &Listener, shards: u16) -> io::Result<Vec<TcpListener>> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before anybody can connect.
    fs::set_permissions(path, fs::Permissions::from_mode(listener.unix_mode.0))?;
    socket.listen(i32::try_from(listener.backlog).unwrap_or(i32::MAX))?;
    // The net ring takes any listening socket; std has one type for those of the Internet, and it is but a descriptor.
    (0..shards).map(|_| socket.try_clone().map(TcpListener::from)).collect()
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ErrorKind::AlreadyExists.into());
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => Err(ErrorKind::AddrInUse.into()),
        Err(error) => Err(error),
    }
}

/// Gives the file of a socket that listens already other rights.
pub(crate) fn set_mode(path: &Path, listener: &Listener) {
    // Whoever has moved the file away wanted nobody there.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(listener.unix_mode.0));
}

/// Removes the files when the broker ends.
pub(crate) fn remove_all(addresses: &[Address]) {
    for path in addresses.iter().filter_map(Address::path) {
        // Somebody may have removed it already.
        let _ = fs::remove_file(path);
    }
}

pub(super) fn sentence(path: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        ErrorKind::AddrInUse => {
            "another program listens there; stop it or choose another path".into()
        }
        ErrorKind::AlreadyExists => "a file that is no socket is there; choose another path".into(),
        ErrorKind::NotFound => "its directory does not exist; create it".into(),
        ErrorKind::PermissionDenied => {
            "permission denied; choose a directory of the broker's own".into()
        }
        _ => error.to_string(),
    };
    format!("cannot listen on unix:{}: {why}", path.display())
}

impl Listening {
    /// For the start-up line: the address, and what is spoken unless it is plain.
    pub(crate) fn described(&self, listener: &Listener) -> String {
        match listener.protocol {
            midge_config::Protocol::Tcp => self.address.to_string(),
            other => format!("{} ({})", self.address, other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_over_file_is_replaced_and_nothing_else_is() {
        let directory = std::env::temp_dir().join(format!("midge-unix-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("mqtt.sock");
        let mut listener = Listener::default();
        listener.unix_mode.0 = 0o600;
        let sockets = open(&path, &listener, 3).expect("a socket");
        assert_eq!(sockets.len(), 3);
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).expect("somebody listens");
        let error = open(&path, &listener, 1).expect_err("somebody listens");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(sentence(&path, &error).ends_with("stop it or choose another path"));
        drop(sockets);
        let again = open(&path, &listener, 1).expect("the file is left over");
        drop(again);
        remove_all(&[Address::Unix(path.clone())]);
        fs::write(&path, "precious").expect("a file");
        let error = open(&path, &listener, 1).expect_err("a file is there");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("untouched"), "precious");
        let missing = directory.join("none").join("mqtt.sock");
        let error = open(&missing, &listener, 1).expect_err("no directory");
        assert!(sentence(&missing, &error).ends_with("its directory does not exist; create it"));
        fs::remove_dir_all(&directory).expect("the directory of this test");
    }
}
