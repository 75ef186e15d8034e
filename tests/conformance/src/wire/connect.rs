//! CONNECT, every field of which can be bent.

use super::{Encode, Property, Version, encode_properties, frame, prefixed};

/// A Will Message.
#[derive(Clone, Debug)]
pub struct Will {
    topic: Vec<u8>,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    properties: Vec<Property>,
}

/// A will at QoS 0, not retained.
#[must_use]
pub fn will(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Will {
    Will {
        topic: topic.as_ref().to_vec(),
        payload: payload.as_ref().to_vec(),
        qos: 0,
        retain: false,
        properties: Vec::new(),
    }
}

impl Will {
    /// The same at another QoS (3 can be written too).
    #[must_use]
    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    /// The same, retained.
    #[must_use]
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// The same with one more property.
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

/// CONNECT.
#[derive(Clone, Debug)]
pub struct Connect {
    version: Version,
    protocol_name: Vec<u8>,
    protocol_level: u8,
    flags: Option<u8>,
    client_id: Vec<u8>,
    clean: bool,
    keep_alive_seconds: u16,
    will: Option<Will>,
    username: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
    properties: Vec<Property>,
    first_byte: u8,
    trailing: Vec<u8>,
}

impl Connect {
    /// A clean start, no keep-alive, no will.
    #[must_use]
    pub fn new(version: Version, client_id: impl AsRef<[u8]>) -> Self {
        Self {
            version,
            protocol_name: if version == Version::V31 { "MQIsdp" } else { "MQTT" }.into(),
            protocol_level: version as u8,
            flags: None,
            client_id: client_id.as_ref().to_vec(),
            clean: true,
            keep_alive_seconds: 0,
            will: None,
            username: None,
            password: None,
            properties: Vec::new(),
            first_byte: 0x10,
            trailing: Vec::new(),
        }
    }

    /// The version it speaks, whatever its protocol name and level say.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The largest packet it takes, in bytes, if it says so.
    #[must_use]
    pub fn maximum_packet_size(&self) -> Option<u32> {
        crate::property!(self.properties, MaximumPacketSize)
    }

    /// Another client identifier.
    #[must_use]
    pub fn client_id(mut self, client_id: impl AsRef<[u8]>) -> Self {
        self.client_id = client_id.as_ref().to_vec();
        self
    }

    /// Clean Start (clean session before 5.0).
    #[must_use]
    pub fn clean(mut self, clean: bool) -> Self {
        self.clean = clean;
        self
    }

    /// A session that outlives the connection: no clean start and, in 5.0, an hour of expiry.
    #[must_use]
    pub fn persistent(self) -> Self {
        let v5 = self.version.is_v5();
        let connect = self.clean(false);
        if v5 { connect.with(Property::SessionExpiry(3600)) } else { connect }
    }

    /// Keep-alive in seconds.
    #[must_use]
    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive_seconds = seconds;
        self
    }

    /// A Will Message.
    #[must_use]
    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    /// A user name.
    #[must_use]
    pub fn username(mut self, username: impl AsRef<[u8]>) -> Self {
        self.username = Some(username.as_ref().to_vec());
        self
    }

    /// A password.
    #[must_use]
    pub fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.password = Some(password.as_ref().to_vec());
        self
    }

    /// One more property (5.0).
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// Another protocol name.
    #[must_use]
    pub fn protocol_name(mut self, name: impl AsRef<[u8]>) -> Self {
        self.protocol_name = name.as_ref().to_vec();
        self
    }

    /// Another protocol level.
    #[must_use]
    pub fn protocol_level(mut self, level: u8) -> Self {
        self.protocol_level = level;
        self
    }

    /// Connect flags as given, whatever fields the payload has.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = Some(flags);
        self
    }

    /// Another first byte of the fixed header.
    #[must_use]
    pub fn first_byte(mut self, byte: u8) -> Self {
        self.first_byte = byte;
        self
    }

    /// Bytes after the last field.
    #[must_use]
    pub fn trailing(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.trailing = bytes.as_ref().to_vec();
        self
    }

    fn honest_flags(&self) -> u8 {
        let will =
            self.will.as_ref().map_or(0, |will| 0b100 | will.qos << 3 | u8::from(will.retain) << 5);
        u8::from(self.clean) << 1
            | will
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.username.is_some()) << 7
    }
}

impl Encode for Connect {
    fn encode(&self, _: Version) -> Vec<u8> {
        let v5 = self.version.is_v5();
        let mut body = prefixed(&self.protocol_name);
        body.push(self.protocol_level);
        body.push(self.flags.unwrap_or_else(|| self.honest_flags()));
        body.extend(self.keep_alive_seconds.to_be_bytes());
        if v5 {
            body.extend(encode_properties(&self.properties));
        }
        body.extend(prefixed(&self.client_id));
        if let Some(will) = &self.will {
            if v5 {
                body.extend(encode_properties(&will.properties));
            }
            body.extend(prefixed(&will.topic));
            body.extend(prefixed(&will.payload));
        }
        for field in [&self.username, &self.password].into_iter().flatten() {
            body.extend(prefixed(field));
        }
        body.extend(&self.trailing);
        frame(self.first_byte, &body)
    }
}
