//! SUBSCRIBE and UNSUBSCRIBE.

use super::{Encode, Property, Version, encode_properties, frame, prefixed};

/// Subscription option: not what this client publishes itself.
pub const NO_LOCAL: u8 = 0x04;
/// Subscription option: keep the RETAIN flag as it was published.
pub const RETAIN_AS_PUBLISHED: u8 = 0x08;
/// Subscription option: retained messages only if the subscription is new.
pub const RETAIN_IF_NEW: u8 = 0x10;
/// Subscription option: no retained messages.
pub const RETAIN_NEVER: u8 = 0x20;

/// SUBSCRIBE.
#[derive(Clone, Debug)]
pub struct Subscribe {
    id: u16,
    properties: Vec<Property>,
    filters: Vec<(Vec<u8>, u8)>,
}

/// A SUBSCRIBE without a filter.
#[must_use]
pub fn subscribe(id: u16) -> Subscribe {
    Subscribe { id, properties: Vec::new(), filters: Vec::new() }
}

impl Subscribe {
    /// One more filter with its option byte (the QoS, in its simplest form).
    #[must_use]
    pub fn filter(mut self, filter: impl AsRef<[u8]>, options: u8) -> Self {
        self.filters.push((filter.as_ref().to_vec(), options));
        self
    }

    /// The same with one more property.
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

impl Encode for Subscribe {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version.is_v5() {
            body.extend(encode_properties(&self.properties));
        }
        for (filter, options) in &self.filters {
            body.extend(prefixed(filter));
            body.push(*options);
        }
        frame(0x82, &body)
    }
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug)]
pub struct Unsubscribe {
    id: u16,
    properties: Vec<Property>,
    filters: Vec<Vec<u8>>,
}

/// An UNSUBSCRIBE without a filter.
#[must_use]
pub fn unsubscribe(id: u16) -> Unsubscribe {
    Unsubscribe { id, properties: Vec::new(), filters: Vec::new() }
}

impl Unsubscribe {
    /// One more filter.
    #[must_use]
    pub fn filter(mut self, filter: impl AsRef<[u8]>) -> Self {
        self.filters.push(filter.as_ref().to_vec());
        self
    }

    /// The same with one more property.
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

impl Encode for Unsubscribe {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version.is_v5() {
            body.extend(encode_properties(&self.properties));
        }
        body.extend(self.filters.iter().flat_map(prefixed));
        frame(0xa2, &body)
    }
}
