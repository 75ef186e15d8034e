//! The names in a client's certificate.
//!
//! rustls has verified the certificate by the time it comes here; its names are still whatever an authority was talked into
//! signing. So this is a reader of its own, total over bytes, of just the two places that hold names: the subject and the
//! extension `subjectAltName` (RFC 5280 §4.1.2.6, §4.2.1.6). A certificate that it cannot read has no names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The names that a verified client certificate gives its holder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateNames {
    /// The subject's last Common Name. `None`: it has none, or one that is no text.
    pub common_name: Option<Box<str>>,
    /// The whole subject as RFC 4514 writes it, most significant part last: `CN=sensor-7,O=Example`. Empty: none.
    pub subject: Box<str>,
    /// The alternative names, in their order; at most [`ALTERNATIVE_NAMES_MAX`].
    pub alternative_names: Vec<AlternativeName>,
}

/// One name of the extension `subjectAltName`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AlternativeName {
    /// A host name.
    Dns(Box<str>),
    /// An e-mail address.
    Email(Box<str>),
    /// A URI, such as a SPIFFE id.
    Uri(Box<str>),
    /// An address.
    Ip(IpAddr),
}

/// Alternative names that are looked at; the rest is ignored.
pub const ALTERNATIVE_NAMES_MAX: usize = 64;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const BMP_STRING: u8 = 0x1e;
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Attribute types that RFC 4514 §3 (and OpenSSL, for the last two) writes as words.
const ATTRIBUTES: &[(&[u8], &str)] = &[
    (COMMON_NAME, "CN"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x0a], "O"),
    (&[0x55, 0x04, 0x0b], "OU"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x09], "STREET"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01], "UID"),
    (&[0x55, 0x04, 0x05], "serialNumber"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01], "emailAddress"),
];

impl CertificateNames {
    /// Reads the names from a certificate in DER.
    #[must_use]
    pub fn from_der(certificate: &[u8]) -> Self {
        read(certificate).unwrap_or_default()
    }
}

fn read(certificate: &[u8]) -> Option<CertificateNames> {
    let mut outer = Reader(certificate).enter(SEQUENCE)?;
    let mut body = outer.enter(SEQUENCE)?;
    // [0] version, serial number, signature algorithm, issuer, validity.
    if body.peek() == Some(0xa0) {
        body.next()?;
    }
    for _ in 0..4 {
        body.next()?;
    }
    let subject = body.enter(SEQUENCE)?;
    let mut names = read_subject(subject)?;
    // The key, then optional fields; [3] holds the extensions.
    while let Some((tag, content)) = body.next() {
        if tag == 0xa3 {
            names.alternative_names = read_alternative_names(content).unwrap_or_default();
        }
    }
    Some(names)
}

fn read_subject(mut subject: Reader<'_>) -> Option<CertificateNames> {
    let mut common_name = None;
    let mut parts = Vec::new();
    while !subject.is_empty() {
        let mut set = subject.enter(SET)?;
        let mut part = String::new();
        while !set.is_empty() {
            let mut attribute = set.enter(SEQUENCE)?;
            let kind = attribute.expect(OBJECT_IDENTIFIER)?;
            let (tag, value) = attribute.next()?;
            let text = text(tag, value);
            if kind == COMMON_NAME {
                common_name.clone_from(&text);
            }
            if !part.is_empty() {
                part.push('+');
            }
            match ATTRIBUTES.iter().find(|(known, _)| *known == kind) {
                Some((_, name)) => part.push_str(name),
                None => part.push_str(&dotted(kind)),
            }
            part.push('=');
            match &text {
                Some(text) => escape(text, &mut part),
                None => {
                    part.push('#');
                    value.iter().for_each(|byte| part.push_str(&format!("{byte:02x}")));
                }
            }
        }
        parts.push(part);
    }
    parts.reverse();
    Some(CertificateNames {
        common_name: common_name.map(String::into_boxed_str),
        subject: parts.join(",").into(),
        alternative_names: Vec::new(),
    })
}

fn read_alternative_names(extensions: &[u8]) -> Option<Vec<AlternativeName>> {
    let mut extensions = Reader(extensions).enter(SEQUENCE)?;
    while !extensions.is_empty() {
        let mut extension = extensions.enter(SEQUENCE)?;
        let kind = extension.expect(OBJECT_IDENTIFIER)?;
        if extension.peek() == Some(BOOLEAN) {
            extension.next()?;
        }
        let value = extension.expect(OCTET_STRING)?;
        if kind != SUBJECT_ALT_NAME {
            continue;
        }
        let mut list = Reader(value).enter(SEQUENCE)?;
        let mut names = Vec::new();
        while let Some((tag, content)) = list.next() {
            if names.len() == ALTERNATIVE_NAMES_MAX {
                break;
            }
            let text = || text(IA5_STRING, content).map(String::into_boxed_str);
            let name = match tag {
                0x81 => text().map(AlternativeName::Email),
                0x82 => text().map(AlternativeName::Dns),
                0x86 => text().map(AlternativeName::Uri),
                0x87 => address(content).map(AlternativeName::Ip),
                _ => None,
            };
            names.extend(name);
        }
        return Some(names);
    }
    None
}

fn address(content: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(content) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(content).ok().map(|octets| Ipv6Addr::from(octets).into())
}

/// A string of one of ASN.1's kinds. `None` for what is none, or holds a character that a name must not hide behind.
fn text(tag: u8, value: &[u8]) -> Option<String> {
    let text = match tag {
        UTF8_STRING => std::str::from_utf8(value).ok()?.to_owned(),
        PRINTABLE_STRING | IA5_STRING if value.is_ascii() => {
            value.iter().map(|byte| char::from(*byte)).collect()
        }
        TELETEX_STRING => value.iter().map(|byte| char::from(*byte)).collect(),
        BMP_STRING if value.len().is_multiple_of(2) => {
            let units = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<String, _>>().ok()?
        }
        _ => return None,
    };
    // A NUL has made "a.example\0.evil.example" pass for "a.example" elsewhere.
    (!text.contains(char::is_control)).then_some(text)
}

/// RFC 4514 §2.4.
fn escape(text: &str, out: &mut String) {
    let last = text.chars().count().saturating_sub(1);
    for (place, character) in text.chars().enumerate() {
        let at_edge =
            (character == ' ' && (place == 0 || place == last)) || (character == '#' && place == 0);
        if at_edge || matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=') {
            out.push('\\');
        }
        out.push(character);
    }
}

/// An object identifier in numbers and dots.
fn dotted(identifier: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number = 0u64;
    for byte in identifier {
        number = (number << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.push(first);
                numbers.push(number - first * 40);
            } else {
                numbers.push(number);
            }
            number = 0;
        }
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// DER values, one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next value: its tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags of more than one byte do not occur in a certificate.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (size, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |size, byte| (size << 8) | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(size)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    fn enter(&mut self, tag: u8) -> Option<Reader<'a>> {
        self.expect(tag).map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate() -> Vec<u8> {
        let mut parameters = CertificateParams::new(vec!["sensor-7.example".to_owned()]).unwrap();
        parameters.subject_alt_names.push(SanType::IpAddress("192.0.2.7".parse().unwrap()));
        parameters.subject_alt_names.push(SanType::IpAddress("2001:db8::7".parse().unwrap()));
        parameters
            .subject_alt_names
            .push(SanType::URI("spiffe://example/sensor/7".try_into().unwrap()));
        parameters
            .subject_alt_names
            .push(SanType::Rfc822Name("seven@sensor.example".try_into().unwrap()));
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        parameters.distinguished_name.push(DnType::CommonName, "sensor-7 ü");
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_read() {
        let names = CertificateNames::from_der(&certificate());
        assert_eq!(names.common_name.as_deref(), Some("sensor-7 ü"));
        assert_eq!(&*names.subject, "CN=sensor-7 ü,O=Example\\, Inc.");
        assert_eq!(
            names.alternative_names,
            [
                AlternativeName::Dns("sensor-7.example".into()),
                AlternativeName::Ip("192.0.2.7".parse().unwrap()),
                AlternativeName::Ip("2001:db8::7".parse().unwrap()),
                AlternativeName::Uri("spiffe://example/sensor/7".into()),
                AlternativeName::Email("seven@sensor.example".into()),
            ]
        );
    }

    #[test]
    fn a_damaged_certificate_has_fewer_names_and_hurts_nobody() {
        let whole = certificate();
        for size in 0..whole.len() {
            assert_eq!(CertificateNames::from_der(&whole[..size]), CertificateNames::default());
        }
        for at in 0..whole.len() {
            for value in [0, 0x1f, 0x7f, 0x80, 0x84, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = CertificateNames::from_der(&damaged);
            }
        }
    }

    #[test]
    fn texts_that_hide_something_are_none() {
        assert_eq!(text(UTF8_STRING, b"a\0b"), None);
        assert_eq!(text(UTF8_STRING, b"a\xff"), None);
        assert_eq!(text(PRINTABLE_STRING, b"a\xe4"), None);
        assert_eq!(text(TELETEX_STRING, b"a\xe4").as_deref(), Some("aä"));
        assert_eq!(text(BMP_STRING, b"\0a\0b").as_deref(), Some("ab"));
        assert_eq!(text(BMP_STRING, b"\0a\0"), None);
        assert_eq!(text(BMP_STRING, b"\xd8\x00"), None);
        assert_eq!(dotted(&[0x2a, 0x86, 0x48]), "1.2.840");
        let mut out = String::new();
        escape(" #a,b ", &mut out);
        assert_eq!(out, "\\ #a\\,b\\ ");
    }
}
