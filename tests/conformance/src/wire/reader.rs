//! Reads the fields of one packet; panics where they do not fit.

/// A position in the body of a packet.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether all of it was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        assert!(count <= self.rest.len(), "the packet ends inside a field: {self:02x?}");
        let (field, rest) = self.rest.split_at(count);
        self.rest = rest;
        field
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(self.rest.len())
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.bytes(1)[0]
    }

    /// Two bytes, most significant first.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().expect("two bytes"))
    }

    /// Four bytes, most significant first.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().expect("four bytes"))
    }

    /// A Variable Byte Integer, which must be as short as possible [MQTT-1.5.5-1].
    pub fn variable(&mut self) -> u32 {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8();
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                assert!(shift == 0 || byte != 0, "a length longer than it needs to be");
                return value;
            }
        }
        panic!("a Variable Byte Integer of more than four bytes");
    }

    /// Binary data behind its length.
    pub fn binary(&mut self) -> Vec<u8> {
        let size = usize::from(self.u16());
        self.bytes(size).to_vec()
    }

    /// A string, which must be UTF-8 [MQTT-1.5.4-1] without U+0000 [MQTT-1.5.4-2].
    pub fn string(&mut self) -> String {
        let string = String::from_utf8(self.binary()).expect("the broker sends UTF-8");
        assert!(!string.contains('\0'), "the broker sent U+0000 in {string:?}");
        string
    }

    /// A packet identifier, which must not be zero [MQTT-2.2.1-4].
    pub fn packet_id(&mut self) -> u16 {
        let id = self.u16();
        assert_ne!(id, 0, "the broker sent packet identifier zero");
        id
    }
}
