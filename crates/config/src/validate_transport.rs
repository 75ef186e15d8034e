//! What must hold of a listener's transports.

use std::net::IpAddr;

use crate::{
    model::Listener,
    transport::{Address, ClientCertificates, Tls, WebSocket},
    validate::Problems,
};

/// The address of a unix-domain socket holds 108 bytes, the last of which is zero.
const UNIX_PATH_SIZE_MAX: usize = 107;

const PATH_SIZE_MAX: usize = 256;

/// Extra certificates, origins, addresses: more are a mistake.
const LIST_MAX: usize = 256;

/// Checks one listener; `key` makes the whole key of one of its fields.
pub(crate) fn listener(
    listener: &Listener,
    key: &dyn Fn(&'static str) -> String,
    problems: &mut Problems,
) {
    // Taken apart by name, so that a new field without a check does not compile.
    let Listener {
        name: _,
        limits: _,
        address,
        protocol,
        tls,
        websocket,
        proxy_protocol,
        unix_mode: _,
        authenticators: _,
        backlog: _,
        tcp_defer_accept: _,
        tcp_keep_alive: _,
        tcp_send_buffer_bytes: _,
        tcp_receive_buffer_bytes: _,
        acknowledge_after: _,
    } = listener;
    if let Address::Unix(path) = address {
        let size = path.as_os_str().len();
        if !(1..=UNIX_PATH_SIZE_MAX).contains(&size) {
            let message =
                format!("a path of {size} bytes; choose one of 1 to {UNIX_PATH_SIZE_MAX}");
            problems.add(key("address"), message);
        }
    }
    match tls {
        None if protocol.has_tls() => {
            let message = format!(
                "missing; `{}` needs a certificate and a key, or choose another protocol",
                protocol.name()
            );
            problems.add(key("tls"), message);
        }
        Some(_) if !protocol.has_tls() => {
            let secure = if protocol.has_websocket() { "wss" } else { "tls" };
            let message = format!(
                "certificates for a listener that speaks `{}`; set protocol: {secure}, or remove them",
                protocol.name()
            );
            problems.add(key("tls"), message);
        }
        Some(tls) => check_tls(tls, &key("tls"), problems),
        None => {}
    }
    if protocol.has_websocket() {
        check_websocket(websocket, &key("websocket"), problems);
    } else if *websocket != WebSocket::default() {
        let message = format!(
            "settings for a listener that speaks `{}`; set protocol: ws or wss, or remove them",
            protocol.name()
        );
        problems.add(key("websocket"), message);
    }
    if let Some(proxy) = proxy_protocol {
        let key = format!("{}.trusted", key("proxy_protocol"));
        check_networks(&proxy.trusted, &key, problems);
        if proxy.trusted.is_empty() && address.ip().is_some() {
            let message = "empty, so nobody could connect; list the addresses of the proxies";
            problems.add(key, message);
        }
    }
}

fn check_tls(tls: &Tls, key: &str, problems: &mut Problems) {
    let Tls {
        certificate: _,
        key: _,
        certificates,
        client_certificates,
        client_ca,
        crl,
        minimum_version: _,
        cipher_suites: _,
    } = tls;
    if certificates.len() > LIST_MAX {
        let message = format!("{} are too many; at most {LIST_MAX}", certificates.len());
        problems.add(format!("{key}.certificates"), message);
    }
    for (index, named) in certificates.iter().enumerate() {
        let key = format!("{key}.certificates[{index}].server_names");
        if named.server_names.is_empty() {
            problems.add(key.clone(), "empty, so it would never be used; list a host name");
        }
        for name in &named.server_names {
            let bare = name.strip_prefix("*.").unwrap_or(name);
            let good = (1..=253).contains(&bare.len())
                && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
            if !good {
                let message = format!("`{name}` is no host name; write a.example or *.a.example");
                problems.add(key.clone(), message);
            }
        }
    }
    match client_certificates {
        ClientCertificates::None => {
            for (field, set) in [("client_ca", client_ca.is_some()), ("crl", !crl.is_empty())] {
                if set {
                    let message = "has no effect while client_certificates is none; \
                                   set optional or required, or remove it";
                    problems.add(format!("{key}.{field}"), message);
                }
            }
        }
        ClientCertificates::Optional | ClientCertificates::Required => {
            if client_ca.is_none() {
                let message = "missing; client certificates need the authorities they come from";
                problems.add(format!("{key}.client_ca"), message);
            }
        }
    }
}

fn check_websocket(websocket: &WebSocket, key: &str, problems: &mut Problems) {
    let WebSocket { path, origins, trusted_proxies } = websocket;
    let good = path.starts_with('/')
        && path.len() <= PATH_SIZE_MAX
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    if !good {
        let message = format!("`{path}` is no path; write one such as /mqtt, without ? and #");
        problems.add(format!("{key}.path"), message);
    }
    for origin in origins {
        let bare = origin.split_once("://").map(|(_, host)| host).unwrap_or_default();
        let good = !bare.is_empty()
            && origin.bytes().all(|byte| byte.is_ascii_graphic())
            && !bare.contains('/');
        if !good {
            let message = format!("`{origin}` is no origin; write one such as https://app.example");
            problems.add(format!("{key}.origins"), message);
        }
    }
    check_networks(trusted_proxies, &format!("{key}.trusted_proxies"), problems);
}

fn check_networks(networks: &[String], key: &str, problems: &mut Problems) {
    if networks.len() > LIST_MAX {
        problems.add(key, format!("{} are too many; at most {LIST_MAX}", networks.len()));
    }
    for network in networks {
        if !is_network(network) {
            let message =
                format!("`{network}` is no address; write 10.0.0.1, 10.0.0.0/8 or fd00::/8");
            problems.add(key, message);
        }
    }
}

fn is_network(text: &str) -> bool {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| {
        prefix.bytes().all(|byte| byte.is_ascii_digit())
            && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= longest)
    })
}

#[cfg(test)]
mod tests {
    use crate::parse;

    /// What is said about a second listener, without its place.
    fn problems(listener: &str) -> Vec<String> {
        let text = format!("listeners:\n  - {{{listener}}}\n");
        let loaded = parse(&text, "m.yaml").unwrap_or_else(|error| panic!("{listener}: {error}"));
        loaded
            .problems()
            .iter()
            .map(|problem| problem.splitn(5, ':').last().unwrap_or_default().trim().to_owned())
            .collect()
    }

    const TLS: &str = "certificate: a.crt, key: a.key";

    #[test]
    fn every_combination_can_be_said() {
        for listener in [
            "address: 127.0.0.1:1, protocol: tcp".to_owned(),
            format!("address: 127.0.0.1:1, protocol: tls, tls: {{{TLS}}}"),
            format!("address: 127.0.0.1:1, protocol: wss, tls: {{{TLS}, minimum_version: 1.3}}"),
            format!(
                "address: 127.0.0.1:1, protocol: tls, tls: {{{TLS}, client_certificates: required, \
                 client_ca: ca.crt, crl: [ca.crl], minimum_version: '1.2', \
                 cipher_suites: [TLS13_AES_128_GCM_SHA256], certificates: \
                 [{{server_names: [a.example, '*.b.example'], {TLS}}}]}}"
            ),
            "address: 127.0.0.1:1, protocol: ws, websocket: {path: /, origins: \
             ['https://a.example:8443'], trusted_proxies: [10.0.0.0/8, '::1']}"
                .to_owned(),
            "address: 127.0.0.1:1, proxy_protocol: {trusted: [127.0.0.1, fd00::/8]}".to_owned(),
            "address: 'unix:/run/m.sock', unix_mode: 600, proxy_protocol: {}".to_owned(),
        ] {
            assert_eq!(problems(&listener), Vec::<String>::new(), "{listener}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let long = "x".repeat(108);
        for (listener, expected) in [
            (
                "address: 127.0.0.1:1, protocol: wss".to_owned(),
                "missing; `wss` needs a certificate and a key, or choose another protocol",
            ),
            (
                format!("address: 127.0.0.1:1, tls: {{{TLS}}}"),
                "certificates for a listener that speaks `tcp`; set protocol: tls, or remove them",
            ),
            (
                "address: 127.0.0.1:1, websocket: {path: /x}".to_owned(),
                "settings for a listener that speaks `tcp`; set protocol: ws or wss, or remove them",
            ),
            (
                "address: 127.0.0.1:1, protocol: ws, websocket: {path: mqtt}".to_owned(),
                "`mqtt` is no path; write one such as /mqtt, without ? and #",
            ),
            (
                "address: 127.0.0.1:1, protocol: ws, websocket: {origins: [a.example]}".to_owned(),
                "`a.example` is no origin; write one such as https://app.example",
            ),
            (
                "address: 127.0.0.1:1, protocol: ws, websocket: {trusted_proxies: [10.0.0.0/33]}"
                    .to_owned(),
                "`10.0.0.0/33` is no address; write 10.0.0.1, 10.0.0.0/8 or fd00::/8",
            ),
            (
                "address: 127.0.0.1:1, proxy_protocol: {}".to_owned(),
                "empty, so nobody could connect; list the addresses of the proxies",
            ),
            (
                format!(
                    "address: 127.0.0.1:1, protocol: tls, tls: {{{TLS}, client_certificates: optional}}"
                ),
                "missing; client certificates need the authorities they come from",
            ),
            (
                format!("address: 127.0.0.1:1, protocol: tls, tls: {{{TLS}, crl: [a]}}"),
                "has no effect while client_certificates is none; set optional or required, or \
                 remove it",
            ),
            (
                format!(
                    "address: 127.0.0.1:1, protocol: tls, \
                     tls: {{{TLS}, certificates: [{{server_names: [], {TLS}}}]}}"
                ),
                "empty, so it would never be used; list a host name",
            ),
            (
                format!(
                    "address: 127.0.0.1:1, protocol: tls, \
                     tls: {{{TLS}, certificates: [{{server_names: ['a b'], {TLS}}}]}}"
                ),
                "`a b` is no host name; write a.example or *.a.example",
            ),
            (format!("address: 'unix:{long}'"), "a path of 108 bytes; choose one of 1 to 107"),
        ] {
            let found = problems(&listener);
            assert!(
                found.iter().any(|problem| problem.ends_with(expected)),
                "{listener}: {found:?}"
            );
        }
    }

    #[test]
    fn values_that_are_none() {
        for (listener, expected) in [
            (
                "address: 127.0.0.1:1, protocol: quic",
                "expected one of tcp, tls, ws, wss, found `quic`",
            ),
            (
                "address: 127.0.0.1:1, tls: {certificate: a, key: b, minimum_version: 1.1}",
                "expected 1.2 or 1.3, found `1.1`",
            ),
            ("address: 127.0.0.1:1, unix_mode: 888", "expected three octal digits such as \"660\""),
            (
                "address: 127.0.0.1:1, unix_mode: '1777'",
                "expected three octal digits such as \"660\"",
            ),
            ("address: 127.0.0.1:1, tls: {certificate: a}", "missing; this key has no default"),
        ] {
            let text = format!("listeners:\n  - {{{listener}}}\n");
            let error = parse(&text, "m.yaml").expect_err(listener).to_string();
            assert!(error.contains(expected), "{listener}: {error}");
        }
    }
}
