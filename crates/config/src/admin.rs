//! Settings of the admin endpoint.

use std::net::SocketAddr;

use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected},
};

/// Metrics and health over HTTP, for whoever watches, starts and balances brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// IP address and port of `/metrics`, `/health`, `/health/live` and `/health/ready`. Default `null`: there
    /// is no such endpoint. It asks nobody who he is, so it belongs on an address that only
    /// operators reach, such as `127.0.0.1:18083`. Port 0 takes a free port, which the log tells.
    #[serde(deserialize_with = "optional_address")]
    pub listen: Option<SocketAddr>,
}

/// An IP address and port, or nothing.
fn optional_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    const EXPECTED: &str = "an IP address and a port, such as 127.0.0.1:18083 or [::1]:18083";
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let address = text.parse();
    address.map(Some).map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED))
}
