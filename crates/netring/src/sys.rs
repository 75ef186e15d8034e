//! The few system calls that std does not offer, each behind a safe function.
//!
//! Everything here is control plane: called at start, per listener or per outgoing connection, never per message.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
};

/// A socket address as the kernel lays it out: `sockaddr_in` or `sockaddr_in6`, whichever the family says.
///
/// Plain bytes instead of a union, so that reading and writing it needs no `unsafe`. 28 bytes is the larger of the two.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawAddress {
    bytes: [u8; RawAddress::SIZE_MAX],
    /// How many of the bytes count: set by us for `bind` and `connect`, by the kernel for `accept`.
    pub(crate) size: libc::socklen_t,
}

const _: () = assert!(RawAddress::SIZE_MAX == size_of::<libc::sockaddr_in6>());
const _: () = assert!(RawAddress::SIZE_V4 == size_of::<libc::sockaddr_in>());
const _: () = assert!(std::mem::offset_of!(RawAddress, size) == RawAddress::SIZE_MAX);
const _: () = assert!(align_of::<RawAddress>() >= align_of::<libc::sockaddr_in6>());

impl RawAddress {
    const SIZE_MAX: usize = 28;
    const SIZE_V4: usize = 16;

    /// Room for whatever address the kernel will write.
    pub(crate) fn room() -> Self {
        Self { bytes: [0; Self::SIZE_MAX], size: Self::SIZE_MAX as libc::socklen_t }
    }

    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut raw = Self::room();
        let bytes = &mut raw.bytes;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                bytes[0..2].copy_from_slice(&(libc::AF_INET as libc::sa_family_t).to_ne_bytes());
                bytes[4..8].copy_from_slice(&address.ip().octets());
                raw.size = Self::SIZE_V4 as libc::socklen_t;
            }
            SocketAddr::V6(address) => {
                bytes[0..2].copy_from_slice(&(libc::AF_INET6 as libc::sa_family_t).to_ne_bytes());
                bytes[4..8].copy_from_slice(&address.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&address.ip().octets());
                bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
            }
        }
        raw
    }

    /// The address in std's form. An IPv4 peer of a dual-stack listener reads as IPv4, so that logs and access rules
    /// see one spelling of it. `None` for a family that is neither.
    pub(crate) fn to_socket_addr(self) -> Option<SocketAddr> {
        let bytes = &self.bytes;
        let family = i32::from(libc::sa_family_t::from_ne_bytes([bytes[0], bytes[1]]));
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        match family {
            libc::AF_INET => {
                let octets: [u8; 4] = bytes[4..8].try_into().ok()?;
                Some(SocketAddrV4::new(Ipv4Addr::from(octets), port).into())
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = bytes[8..24].try_into().ok()?;
                let scope_id = u32::from_ne_bytes(bytes[24..28].try_into().ok()?);
                match Ipv6Addr::from(octets).to_canonical() {
                    IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, port).into()),
                    IpAddr::V6(ip) => Some(SocketAddrV6::new(ip, port, 0, scope_id).into()),
                }
            }
            _ => None,
        }
    }

    /// Pointers to the address and to its size, for the kernel to write to. Takes and gives raw pointers so that no
    /// reference is made to what the kernel will write.
    pub(crate) fn parts(this: *mut Self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        // The layout is `repr(C)`: the bytes first, the size right behind them.
        (this.cast(), this.wrapping_byte_add(Self::SIZE_MAX).cast())
    }

    /// Pointer to the address, for the kernel.
    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        self.bytes.as_ptr().cast()
    }
}

/// A blocking stream socket of the address's family, closed on exec.
pub(crate) fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; a descriptor is ours alone once it is returned.
    unsafe {
        let descriptor = checked(libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Sets one integer option of a socket.
pub(crate) fn set_option(
    socket: &impl AsRawFd,
    level: i32,
    name: i32,
    value: i32,
) -> io::Result<()> {
    // SAFETY: the pointer and size describe `value`, which lives through the call.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    })
    .map(drop)
}

pub(crate) fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let raw = RawAddress::new(address);
    // SAFETY: the pointer and size describe `raw`, which lives through the call.
    checked(unsafe { libc::bind(socket.as_raw_fd(), raw.as_ptr(), raw.size) }).map(drop)
}

pub(crate) fn listen(socket: &OwnedFd, backlog: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// Sends one byte without waiting, and without a signal if nobody is left to read it.
pub(crate) fn send_byte(socket: &impl AsRawFd) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let byte = [1_u8];
    // SAFETY: the pointer and size describe `byte`, which lives through the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), byte.as_ptr().cast(), byte.len(), flags) };
    checked(sent as i32).map(drop)
}

/// An event counter whose reads wait, or do not.
pub(crate) fn event_counter(waits: bool) -> io::Result<File> {
    let flags = libc::EFD_CLOEXEC | if waits { 0 } else { libc::EFD_NONBLOCK };
    // SAFETY: no pointers; a descriptor is ours alone once it is returned.
    unsafe { Ok(File::from_raw_fd(checked(libc::eventfd(0, flags))?)) }
}

/// The soft limit of open descriptors after raising it to the hard limit.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for both calls.
    unsafe {
        checked(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            checked(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        }
    }
    Ok(limit.rlim_cur)
}

/// The running kernel's version, major and minor. `None` when the release string does not begin with two numbers.
pub(crate) fn kernel_version() -> Option<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Asks the scheduler to give the calling thread shorter turns, in nanoseconds; see [`crate::set_time_slice`].
pub(crate) fn set_time_slice(nanoseconds: u64) -> io::Result<()> {
    const SIZE: u32 = size_of::<libc::sched_attr>() as u32;
    const ITSELF: libc::pid_t = 0;
    const FLAGS: u32 = 0;
    // SAFETY: an attribute is plain numbers, and all of them may be zero.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let pointer = &raw mut attributes;
    // SAFETY: the kernel writes at most `SIZE` bytes to where `attributes` lives.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, ITSELF, pointer, SIZE, FLAGS) };
    checked(read as i32)?;
    let ordinary = [libc::SCHED_OTHER as u32, libc::SCHED_BATCH as u32];
    // With any other policy the number means something else.
    if !ordinary.contains(&attributes.sched_policy) {
        return Ok(());
    }
    attributes.sched_runtime = nanoseconds;
    let pointer = &raw const attributes;
    // SAFETY: the kernel reads the attributes, which say how large they are.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, ITSELF, pointer, FLAGS) } as i32)
        .map(drop)
}

/// The slice that the scheduler uses for the calling thread, in nanoseconds; 0 where the kernel does not tell.
#[cfg(test)]
fn time_slice() -> u64 {
    // SAFETY: as in `set_time_slice`.
    unsafe {
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        let size = size_of::<libc::sched_attr>();
        libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0);
        attributes.sched_runtime
    }
}

/// Anonymous, zeroed, page-aligned memory. Pages cost nothing until they are touched.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

/// The smallest page of the machines that this runs on. Where pages are larger, the system refuses parts of one.
const PAGE_SIZE: usize = 4096;

impl Mapping {
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, size })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Gives the whole pages of a part back to the system; they read as zeroes until they are written again.
    pub(crate) fn discard(&self, at: usize, size: usize) {
        let first = at.next_multiple_of(PAGE_SIZE);
        let end = (at + size) / PAGE_SIZE * PAGE_SIZE;
        if first < end {
            assert!(end <= self.size);
            // SAFETY: the pages lie in this private anonymous mapping, which stays as it is; only their content goes.
            // A refusal costs memory, nothing else.
            unsafe {
                let start = self.start.add(first).as_ptr().cast();
                libc::madvise(start, end - first, libc::MADV_DONTNEED);
            }
        }
    }

    /// Keeps the memory mapped for the rest of the process.
    pub(crate) fn leak(&mut self) {
        self.size = 0;
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.size == 0 {
            return;
        }
        // SAFETY: the range is exactly the mapping made in `new`, and whoever drops it holds no pointer into it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_layout() {
        for (text, expected) in [
            ("127.0.0.1:1883", "127.0.0.1:1883"),
            ("255.254.253.252:65535", "255.254.253.252:65535"),
            ("[::1]:8883", "[::1]:8883"),
            ("[fe80::1%7]:1", "[fe80::1%7]:1"),
            // An IPv4 peer of a dual-stack listener.
            ("[::ffff:10.1.2.3]:1883", "10.1.2.3:1883"),
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let back = RawAddress::new(address).to_socket_addr();
            assert_eq!(back, Some(expected.parse().unwrap()), "{text}");
        }
        assert_eq!(RawAddress::room().to_socket_addr(), None);
    }

    #[test]
    fn a_mapping_is_zeroed_and_aligned() {
        let mapping = Mapping::new(10_000).unwrap();
        assert_eq!(mapping.start().as_ptr() as usize % 4096, 0);
        // SAFETY: the mapping is 10,000 bytes long and alive.
        assert_eq!(unsafe { mapping.start().add(9_999).read() }, 0);
    }

    #[test]
    fn a_thread_asks_for_shorter_turns() {
        let priority = || std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let nice = |stat: String| stat.split(' ').nth(18).unwrap().to_owned();
        let before = nice(priority());
        set_time_slice(200_000).unwrap();
        // Kernels before 6.12 take the wish and do nothing.
        if kernel_version().unwrap() >= (6, 12) {
            assert_eq!(time_slice(), 200_000);
        }
        assert_eq!(nice(priority()), before);
    }

    #[test]
    fn the_kernel_tells_its_version() {
        assert!(kernel_version().unwrap() >= (5, 0));
    }
}
