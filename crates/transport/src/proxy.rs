//! PROXY protocol, versions 1 and 2: what a trusted proxy says about the client behind it, before anything else.
//!
//! After <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. The parser is total and takes a header only as a whole;
//! what comes behind it belongs to the next layer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is accepted, in bytes. Version 1 allows 107; version 2 allows 64 KiB of additions, of which real
/// proxies use a few hundred bytes.
pub(crate) const HEADER_SIZE_MAX: usize = 4096;

const LINE_SIZE_MAX: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_SIZE: usize = 16;

const TLV_AUTHORITY: u8 = 0x02;
const TLV_CRC32C: u8 = 0x03;
const TLV_SSL: u8 = 0x20;
const TLV_SSL_COMMON_NAME: u8 = 0x22;
/// The client came over TLS.
const CLIENT_SSL: u8 = 0x01;
/// It presented a certificate, in this connection or in the session that it resumed.
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Header {
    /// The client's address. `None`: the proxy speaks for itself (a health check), or does not know.
    pub(crate) source: Option<SocketAddr>,
    /// The host name that the client asked for (SNI), as the proxy saw it.
    pub(crate) authority: Option<Box<str>>,
    /// The client came to the proxy over TLS.
    pub(crate) tls: bool,
    /// The Common Name of the certificate that the client showed and the proxy verified.
    pub(crate) certificate_common_name: Option<Box<str>>,
}

/// What a piece of a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Everything so far could be the beginning of a header.
    Incomplete,
    /// A header, of this many bytes.
    Complete(Box<Header>, usize),
}

/// Bytes that no header begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invalid;

/// Reads a header from the beginning of a stream.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, Invalid> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        return parse_binary(bytes);
    }
    let common = bytes.len().min(6);
    if bytes[..common] == b"PROXY "[..common] {
        return parse_line(bytes);
    }
    Err(Invalid)
}

fn parse_line(bytes: &[u8]) -> Result<Parsed, Invalid> {
    let seen = &bytes[..bytes.len().min(LINE_SIZE_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LINE_SIZE_MAX { Ok(Parsed::Incomplete) } else { Err(Invalid) };
    };
    let line = std::str::from_utf8(&seen[..end]).map_err(|_| Invalid)?;
    let mut words = line.split(' ').skip(1);
    let mut header = Header::default();
    let family = words.next().ok_or(Invalid)?;
    if family != "UNKNOWN" {
        let source: IpAddr = words.next().and_then(|word| word.parse().ok()).ok_or(Invalid)?;
        let target: IpAddr = words.next().and_then(|word| word.parse().ok()).ok_or(Invalid)?;
        let source_port = words.next().and_then(port).ok_or(Invalid)?;
        words.next().and_then(port).ok_or(Invalid)?;
        let expected_v4 = match family {
            "TCP4" => true,
            "TCP6" => false,
            _ => return Err(Invalid),
        };
        if source.is_ipv4() != expected_v4
            || target.is_ipv4() != expected_v4
            || words.next().is_some()
        {
            return Err(Invalid);
        }
        header.source = Some(SocketAddr::new(source, source_port));
    }
    Ok(Parsed::Complete(Box::new(header), end + 2))
}

/// Digits only, without leading zeroes, 0 to 65,535.
fn port(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let plain = word == "0" || !word.starts_with('0');
    (digits && plain).then(|| word.parse().ok()).flatten()
}

fn parse_binary(bytes: &[u8]) -> Result<Parsed, Invalid> {
    let Some(fixed) = bytes.get(..FIXED_SIZE) else {
        // What can be judged already is.
        return match bytes.get(12) {
            Some(0x20 | 0x21) | None => Ok(Parsed::Incomplete),
            Some(_) => Err(Invalid),
        };
    };
    let size = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let own_connection = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Invalid),
    };
    if FIXED_SIZE + size > HEADER_SIZE_MAX {
        return Err(Invalid);
    }
    let Some(whole) = bytes.get(..FIXED_SIZE + size) else { return Ok(Parsed::Incomplete) };
    if own_connection {
        return Ok(Parsed::Complete(Box::default(), whole.len()));
    }
    let body = &whole[FIXED_SIZE..];
    let address_size = match fixed[13] {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        // Datagrams do not come over a stream.
        _ => return Err(Invalid),
    };
    let (addresses, additions) = body.split_at_checked(address_size).ok_or(Invalid)?;
    let mut header = Header { source: source(addresses), ..Header::default() };
    // With an unknown family, what follows are no additions that anybody could rely on.
    if fixed[13] != 0x00 {
        read_additions(whole, FIXED_SIZE + address_size, additions, &mut header)?;
    }
    Ok(Parsed::Complete(Box::new(header), whole.len()))
}

fn source(addresses: &[u8]) -> Option<SocketAddr> {
    match addresses.len() {
        12 => {
            let octets: [u8; 4] = addresses[..4].try_into().ok()?;
            let port = u16::from_be_bytes([addresses[8], addresses[9]]);
            Some(SocketAddr::new(Ipv4Addr::from(octets).into(), port))
        }
        36 => {
            let octets: [u8; 16] = addresses[..16].try_into().ok()?;
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Some(SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), port))
        }
        _ => None,
    }
}

/// Type, length, value: the next one and the rest.
fn addition(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), Invalid> {
    let [kind, high, low, rest @ ..] = bytes else { return Err(Invalid) };
    let size = usize::from(u16::from_be_bytes([*high, *low]));
    let (value, rest) = rest.split_at_checked(size).ok_or(Invalid)?;
    Ok((*kind, value, rest))
}

fn read_additions(
    whole: &[u8],
    start: usize,
    additions: &[u8],
    header: &mut Header,
) -> Result<(), Invalid> {
    let mut rest = additions;
    while !rest.is_empty() {
        let at = start + additions.len() - rest.len();
        let (kind, value, after) = addition(rest)?;
        rest = after;
        match kind {
            TLV_AUTHORITY => header.authority = Some(text(value)?),
            TLV_CRC32C => {
                let expected = <[u8; 4]>::try_from(value).map_err(|_| Invalid)?;
                // Counted with its own four bytes as zero.
                let value_at = at + 3;
                let sum = crc32c(
                    whole[..value_at].iter().chain(&[0; 4]).chain(&whole[value_at + 4..]).copied(),
                );
                if sum != u32::from_be_bytes(expected) {
                    return Err(Invalid);
                }
            }
            TLV_SSL => {
                let [client, verify @ ..] = value else { return Err(Invalid) };
                let (verify, mut inner) = verify.split_at_checked(4).ok_or(Invalid)?;
                header.tls = client & CLIENT_SSL != 0;
                // Zero says that the certificate was verified; without one it says nothing.
                let verified = client & CLIENT_CERTIFICATE != 0 && verify == [0; 4];
                while !inner.is_empty() {
                    let (kind, value, after) = addition(inner)?;
                    inner = after;
                    if kind == TLV_SSL_COMMON_NAME && verified && header.tls {
                        header.certificate_common_name = Some(text(value)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// UTF-8 without control characters.
fn text(value: &[u8]) -> Result<Box<str>, Invalid> {
    let text = std::str::from_utf8(value).map_err(|_| Invalid)?;
    if text.contains(char::is_control) { Err(Invalid) } else { Ok(text.into()) }
}

/// CRC-32C, bit by bit: once for a connection, over a few hundred bytes.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            let low = sum & 1;
            sum = (sum >> 1) ^ (0x82f6_3b78 & low.wrapping_neg());
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version 2 header.
    fn binary(command: u8, family: u8, addresses: &[u8], additions: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        let size = u16::try_from(addresses.len() + additions.len()).unwrap();
        bytes.extend(size.to_be_bytes());
        bytes.extend(addresses);
        bytes.extend(additions);
        bytes
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x07, 0x5b];

    fn complete(bytes: &[u8]) -> Header {
        // Whatever is cut off makes it incomplete; whatever follows is not touched.
        for size in 0..bytes.len() {
            assert_eq!(parse(&bytes[..size]), Ok(Parsed::Incomplete), "{size}");
        }
        let mut longer = bytes.to_vec();
        longer.extend(b"\x10\x0c\0\x04MQTT");
        match parse(&longer) {
            Ok(Parsed::Complete(header, size)) => {
                assert_eq!(size, bytes.len());
                *header
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines() {
        for (line, source) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.2 12345 1883\r\n", Some("192.0.2.1:12345")),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Some("[2001:db8::1]:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        ] {
            let header = complete(line.as_bytes());
            assert_eq!(header.source, source.map(|source| source.parse().unwrap()), "{line}");
        }
    }

    #[test]
    fn lines_that_are_none() {
        let long = format!("PROXY UNKNOWN {}", "x".repeat(100));
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 12345\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 12345 1883 \r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 012 1883\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 -1 1883\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 1883\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 1 1883\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 1883\r\n",
            "PROXY\r\n",
            "PROXY \r\n",
            "proxy TCP4 192.0.2.1 198.51.100.2 1 1883\r\n",
            "\x10\x0c",
            "GET / HTTP/1.1\r\n",
            &long,
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Invalid), "{line}");
        }
    }

    #[test]
    fn binary_headers() {
        let header = complete(&binary(0x21, 0x11, &V4, &[]));
        assert_eq!(header.source, Some("192.0.2.1:12345".parse().unwrap()));
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&77u16.to_be_bytes());
        let header = complete(&binary(0x21, 0x21, &v6, &[]));
        assert_eq!(header.source, Some("[2001:db8::9]:77".parse().unwrap()));
        assert_eq!(complete(&binary(0x21, 0x31, &[0; 216], &[])).source, None);
        // The proxy's own connection, whatever else it says.
        assert_eq!(complete(&binary(0x20, 0x11, &V4, b"\xff\xff")), Header::default());
        assert_eq!(complete(&binary(0x21, 0x00, &[], b"anything")), Header::default());
    }

    #[test]
    fn additions() {
        let mut ssl = vec![CLIENT_SSL | 0x02, 0, 0, 0, 0];
        ssl.extend(tlv(0x21, b"TLSv1.3"));
        ssl.extend(tlv(TLV_SSL_COMMON_NAME, "sensor-7 ü".as_bytes()));
        let mut additions = tlv(TLV_AUTHORITY, b"mqtt.example");
        additions.extend(tlv(0x04, &[0; 9]));
        additions.extend(tlv(TLV_SSL, &ssl));
        let header = complete(&binary(0x21, 0x11, &V4, &additions));
        assert_eq!(header.authority.as_deref(), Some("mqtt.example"));
        assert_eq!(header.certificate_common_name.as_deref(), Some("sensor-7 ü"));
        assert!(header.tls);
        // Not verified, or without a certificate, or without TLS: no name.
        for (client, verify) in [(0x03, 1), (0x01, 0), (0x02, 0)] {
            (ssl[0], ssl[4]) = (client, verify);
            let header = complete(&binary(0x21, 0x11, &V4, &tlv(TLV_SSL, &ssl)));
            assert_eq!(header.certificate_common_name, None, "{client} {verify}");
        }
    }

    #[test]
    fn a_checksum_is_checked() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        let mut additions = tlv(TLV_AUTHORITY, b"a.example");
        let at = FIXED_SIZE + V4.len() + additions.len() + 3;
        additions.extend(tlv(TLV_CRC32C, &[0; 4]));
        additions.extend(tlv(0x05, b"id"));
        let mut bytes = binary(0x21, 0x11, &V4, &additions);
        let sum = crc32c(bytes.iter().copied());
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        complete(&bytes);
        bytes[20] ^= 1;
        assert_eq!(parse(&bytes), Err(Invalid));
    }

    #[test]
    fn binary_headers_that_are_none() {
        let cases = [
            binary(0x11, 0x11, &V4, &[]),
            binary(0x22, 0x11, &V4, &[]),
            binary(0x21, 0x12, &V4, &[]),
            binary(0x21, 0x11, &V4[..11], &[]),
            binary(0x21, 0x11, &V4, &[1]),
            binary(0x21, 0x11, &V4, &[1, 0, 2, 0]),
            binary(0x21, 0x11, &V4, &tlv(TLV_AUTHORITY, b"a\0b")),
            binary(0x21, 0x11, &V4, &tlv(TLV_AUTHORITY, b"\xff")),
            binary(0x21, 0x11, &V4, &tlv(TLV_SSL, &[1, 0, 0, 0])),
            binary(0x21, 0x11, &V4, &tlv(TLV_SSL, &[3, 0, 0, 0, 0, TLV_SSL_COMMON_NAME, 0, 9])),
            binary(0x21, 0x11, &V4, &tlv(TLV_CRC32C, &[0; 3])),
            binary(0x21, 0x11, &V4, &vec![0; HEADER_SIZE_MAX]),
        ];
        for bytes in cases {
            assert_eq!(parse(&bytes), Err(Invalid), "{bytes:?}");
        }
    }
}
