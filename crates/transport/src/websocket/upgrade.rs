//! The HTTP request that opens a WebSocket, and our answer to it.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::digest;

use crate::{close::CloseReason, listener::WebSocketSettings, network::any_contains};

/// Bytes of a request; browsers with many cookies send three or four thousand.
const REQUEST_SIZE_MAX: usize = 8 * 1024;

/// Header fields of a request.
const FIELDS_MAX: usize = 64;

/// RFC 6455 §1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request that is still coming.
#[derive(Debug, Default)]
pub(crate) struct Upgrade {
    kept: Vec<u8>,
}

/// The WebSocket is open; our answer is written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// What came behind the request.
    pub(crate) rest: Vec<u8>,
    /// Where the client is, as a trusted proxy says.
    pub(crate) client: Option<IpAddr>,
}

impl Upgrade {
    /// `None`: more is needed. A refusal writes its own HTTP answer.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        settings: &WebSocketSettings,
        peer: SocketAddr,
        wire: &mut Vec<u8>,
    ) -> Result<Option<Accepted>, CloseReason> {
        let looked_at = self.kept.len();
        self.kept.extend_from_slice(bytes);
        // What is no HTTP at all is not waited for.
        let common = self.kept.len().min(4);
        if self.kept[..common] != b"GET "[..common] {
            return Err(refuse(BAD_REQUEST, CloseReason::HttpRequest, wire));
        }
        let from = looked_at.saturating_sub(3);
        let end = self.kept[from..].windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let size = end.map_or(self.kept.len(), |end| from + end + 4);
        if size > REQUEST_SIZE_MAX || (end.is_none() && size == REQUEST_SIZE_MAX) {
            return Err(refuse(TOO_LARGE, CloseReason::HttpRequestTooLarge, wire));
        }
        if end.is_none() {
            return Ok(None);
        }
        let kept = std::mem::take(&mut self.kept);
        let client = judge(&kept[..size], settings, peer, wire)?;
        Ok(Some(Accepted { rest: kept[size..].to_vec(), client }))
    }

    /// Memory held, in bytes.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.capacity()
    }
}

const BAD_REQUEST: &str = "400 Bad Request";
const TOO_LARGE: &str = "431 Request Header Fields Too Large";

fn refuse(status: &str, reason: CloseReason, wire: &mut Vec<u8>) -> CloseReason {
    refuse_with(status, "", reason, wire)
}

fn refuse_with(status: &str, field: &str, reason: CloseReason, wire: &mut Vec<u8>) -> CloseReason {
    let answer =
        format!("HTTP/1.1 {status}\r\n{field}Connection: close\r\nContent-Length: 0\r\n\r\n");
    wire.extend_from_slice(answer.as_bytes());
    reason
}

/// Answers a whole request; gives the client's address if a trusted proxy tells one.
fn judge(
    request: &[u8],
    settings: &WebSocketSettings,
    peer: SocketAddr,
    wire: &mut Vec<u8>,
) -> Result<Option<IpAddr>, CloseReason> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(request) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(refuse(TOO_LARGE, CloseReason::HttpRequestTooLarge, wire));
        }
        Ok(httparse::Status::Partial) | Err(_) => {
            return Err(refuse(BAD_REQUEST, CloseReason::HttpRequest, wire));
        }
    }
    // RFC 6455 §4.2.1: GET, HTTP/1.1 or higher.
    if parsed.method != Some("GET") || parsed.version != Some(1) {
        return Err(refuse(BAD_REQUEST, CloseReason::HttpRequest, wire));
    }
    let target = parsed.path.unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    if path != settings.path {
        return Err(refuse("404 Not Found", CloseReason::WebSocketPath, wire));
    }
    let fields = Fields(parsed.headers);
    let asks = fields.has_word("upgrade", "websocket") && fields.has_word("connection", "upgrade");
    if !asks || fields.only("host").is_none() {
        let field = "Upgrade: websocket\r\n";
        let status = "426 Upgrade Required";
        return Err(refuse_with(status, field, CloseReason::HttpRequest, wire));
    }
    if fields.only("sec-websocket-version") != Some("13") {
        let field = "Sec-WebSocket-Version: 13\r\n";
        let status = "426 Upgrade Required";
        return Err(refuse_with(status, field, CloseReason::HttpRequest, wire));
    }
    let Some(key) = fields.only("sec-websocket-key").filter(|key| is_key(key)) else {
        return Err(refuse(BAD_REQUEST, CloseReason::HttpRequest, wire));
    };
    if !origin_allowed(&fields, &settings.origins) {
        return Err(refuse("403 Forbidden", CloseReason::WebSocketOrigin, wire));
    }
    // [MQTT-6.0.0-3]; 3.1 clients say mqttv3.1. The client's first choice of the two.
    let protocol = fields
        .words("sec-websocket-protocol")
        .find_map(|word| ["mqtt", "mqttv3.1"].into_iter().find(|known| *known == word));
    let Some(protocol) = protocol else {
        return Err(refuse(BAD_REQUEST, CloseReason::WebSocketSubprotocol, wire));
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n",
        accept(key)
    );
    wire.extend_from_slice(answer.as_bytes());
    Ok(forwarded_for(&fields, settings, peer.ip()))
}

/// A browser says where its page is from; nobody else has to.
fn origin_allowed(fields: &Fields<'_>, allowed: &[String]) -> bool {
    let mut origins = fields.values("origin");
    match (origins.next(), origins.next()) {
        _ if allowed.is_empty() => true,
        (None, _) => true,
        (Some(origin), None) => allowed.iter().any(|own| own.eq_ignore_ascii_case(origin)),
        (Some(_), Some(_)) => false,
    }
}

/// The nearest address that is no trusted proxy, from the right: everything further left may be made up by the client.
fn forwarded_for(
    fields: &Fields<'_>,
    settings: &WebSocketSettings,
    peer: IpAddr,
) -> Option<IpAddr> {
    let trusted = &settings.trusted_proxies;
    if !any_contains(trusted, peer) {
        return None;
    }
    let hops: Vec<&str> = fields.words("x-forwarded-for").collect();
    let mut client = None;
    for hop in hops.into_iter().rev() {
        let address = hop
            .parse()
            .ok()
            .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
        client = Some(address);
        if !any_contains(trusted, address) {
            break;
        }
    }
    client
}

/// Sixteen bytes in base64 (RFC 6455 §4.2.1).
fn is_key(key: &str) -> bool {
    let digits = key.strip_suffix("==").unwrap_or_default();
    digits.len() == 22
        && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

fn accept(key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(ACCEPT_SUFFIX);
    base64(context.finish().as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            if place <= chunk.len() {
                out.push(char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// Header fields by name.
struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let fields = self.0;
        fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .filter_map(|field| std::str::from_utf8(field.value).ok())
            .map(str::trim)
    }

    /// The value of a field that must be there once.
    fn only(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// The words of all fields of that name, in order, which commas separate.
    fn words(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.values(name).flat_map(|value| value.split(',')).map(str::trim)
    }

    fn has_word(&self, name: &str, wanted: &str) -> bool {
        self.words(name).any(|word| word.eq_ignore_ascii_case(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: broker.example\r\nUpgrade: websocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, mqtt\r\n\
        Origin: https://page.example\r\nX-Forwarded-For: 203.0.113.5\r\n\
        X-Forwarded-For: 198.51.100.9, 10.0.0.2\r\n\r\n";

    fn settings() -> WebSocketSettings {
        WebSocketSettings { path: "/mqtt".into(), origins: Vec::new(), trusted_proxies: Vec::new() }
    }

    fn ask(
        pieces: &[&[u8]],
        settings: &WebSocketSettings,
    ) -> (Result<Option<Accepted>, CloseReason>, String) {
        let mut upgrade = Upgrade::default();
        let peer = "10.0.0.1:5".parse().unwrap();
        let mut wire = Vec::new();
        let mut outcome = Ok(None);
        for piece in pieces {
            outcome = upgrade.receive(piece, settings, peer, &mut wire);
            if !matches!(outcome, Ok(None)) {
                break;
            }
        }
        (outcome, String::from_utf8(wire).unwrap())
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v")] {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn a_request_opens_a_websocket_however_it_is_cut() {
        let mut request = REQUEST.as_bytes().to_vec();
        let size = request.len();
        request.extend(b"rest");
        for at in 0..size {
            let (outcome, answer) = ask(&[&request[..at], &request[at..]], &settings());
            let accepted = Accepted { rest: b"rest".to_vec(), client: None };
            assert_eq!(outcome, Ok(Some(accepted)), "cut at {at}");
            assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
            assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
            assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
        }
        let single: Vec<_> = request[..size].chunks(1).collect();
        let (outcome, _) = ask(&single, &settings());
        assert!(matches!(outcome, Ok(Some(_))));
    }

    #[test]
    fn requests_that_are_refused() {
        let with = |from: &str, to: &str| REQUEST.replace(from, to);
        let many: String = (0..70).map(|number| format!("X-{number}: 1\r\n")).collect();
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        for (request, status, reason) in [
            (with("/mqtt", "/"), "404", CloseReason::WebSocketPath),
            (with("/mqtt", "/mqttx"), "404", CloseReason::WebSocketPath),
            (with("GET", "POST"), "400", CloseReason::HttpRequest),
            (with("HTTP/1.1", "HTTP/1.0"), "400", CloseReason::HttpRequest),
            (with("Upgrade: websocket", "Upgrade: h2c"), "426", CloseReason::HttpRequest),
            (with("keep-alive, Upgrade", "close"), "426", CloseReason::HttpRequest),
            (with("Host: broker.example\r\n", ""), "426", CloseReason::HttpRequest),
            (with("Version: 13", "Version: 8"), "426", CloseReason::HttpRequest),
            (with(key, "short=="), "400", CloseReason::HttpRequest),
            (with(key, "dGhlIHNhbXBsZSBub25jZ!=="), "400", CloseReason::HttpRequest),
            (with("chat, mqtt", "chat"), "400", CloseReason::WebSocketSubprotocol),
            (
                with("Sec-WebSocket-Protocol: chat, mqtt\r\n", ""),
                "400",
                CloseReason::WebSocketSubprotocol,
            ),
            (with("Host: ", "Host : "), "400", CloseReason::HttpRequest),
            (with("Host", "H\0st"), "400", CloseReason::HttpRequest),
            (with("Origin:", &format!("{many}Origin:")), "431", CloseReason::HttpRequestTooLarge),
            (with("page.example", &"x".repeat(9000)), "431", CloseReason::HttpRequestTooLarge),
            ("\x10\x0c\0\x04MQTT".into(), "400", CloseReason::HttpRequest),
            ("\x16\x03\x01\x02\0".into(), "400", CloseReason::HttpRequest),
        ] {
            let (outcome, answer) = ask(&[request.as_bytes()], &settings());
            assert_eq!(outcome, Err(reason), "{request}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }

    #[test]
    fn a_header_without_end_is_not_kept() {
        let mut upgrade = Upgrade::default();
        let peer = "10.0.0.1:5".parse().unwrap();
        let mut wire = Vec::new();
        let mut kept = 0;
        let outcome = loop {
            let piece = if kept == 0 { &b"GET "[..] } else { &b"xxxxxxxx"[..] };
            match upgrade.receive(piece, &settings(), peer, &mut wire) {
                Ok(None) => kept += piece.len(),
                other => break other,
            }
        };
        assert_eq!(outcome, Err(CloseReason::HttpRequestTooLarge));
        assert!(kept < REQUEST_SIZE_MAX);
    }

    #[test]
    fn pages_come_from_where_they_may() {
        let origins = |list: &[&str]| WebSocketSettings {
            origins: list.iter().map(|origin| (*origin).to_owned()).collect(),
            ..settings()
        };
        let twice = REQUEST.replace("Origin:", "Origin: https://page.example\r\nOrigin:");
        let none = REQUEST.replace("Origin: https://page.example\r\n", "");
        for (request, allowed, good) in [
            (REQUEST, &["https://page.example"][..], true),
            (REQUEST, &["https://other.example", "HTTPS://PAGE.example"], true),
            (REQUEST, &["https://other.example"], false),
            (REQUEST, &["http://page.example"], false),
            (&twice, &["https://page.example"], false),
            (&none, &["https://page.example"], true),
        ] {
            let (outcome, _) = ask(&[request.as_bytes()], &origins(allowed));
            assert_eq!(outcome.is_ok(), good, "{allowed:?}");
            if !good {
                assert_eq!(outcome, Err(CloseReason::WebSocketOrigin));
            }
        }
    }

    #[test]
    fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
        let trusted = |list: &[&str]| WebSocketSettings {
            trusted_proxies: list.iter().map(|network| network.parse().unwrap()).collect(),
            ..settings()
        };
        for (list, client) in [
            (&[][..], None),
            (&["10.0.0.2"], None),
            (&["10.0.0.1"], Some("10.0.0.2")),
            (&["10.0.0.0/8"], Some("198.51.100.9")),
            (&["10.0.0.0/8", "198.51.100.0/24"], Some("203.0.113.5")),
            (&["0.0.0.0/0"], Some("203.0.113.5")),
        ] {
            let (outcome, _) = ask(&[REQUEST.as_bytes()], &trusted(list));
            let client = client.map(|client| client.parse().unwrap());
            assert_eq!(outcome.unwrap().unwrap().client, client, "{list:?}");
        }
        let odd = REQUEST.replace("10.0.0.2", "unknown");
        let (outcome, _) = ask(&[odd.as_bytes()], &trusted(&["10.0.0.0/8"]));
        assert_eq!(outcome.unwrap().unwrap().client, None);
        let port = REQUEST.replace("10.0.0.2", "[2001:db8::1]:99");
        let (outcome, _) = ask(&[port.as_bytes()], &trusted(&["10.0.0.0/8"]));
        assert_eq!(outcome.unwrap().unwrap().client, Some("2001:db8::1".parse().unwrap()));
    }
}
