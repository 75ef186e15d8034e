//! The text of a filter, beside its subscriber if it is short.

/// Longest text that is kept in place, in bytes: what makes a record one cache line of 64 bytes
/// with a four-byte value. Most filters of a fleet are shorter, and then finding one costs a single
/// line of memory and no allocation.
const INLINE_SIZE_MAX: usize = 46;

/// An immutable text of valid UTF-8.
#[derive(Debug)]
pub(super) enum Text {
    Inline { size: u8, bytes: [u8; INLINE_SIZE_MAX] },
    Boxed(Box<[u8]>),
}

const _: () = assert!(size_of::<Text>() == 48);
const _: () = assert!(size_of::<Option<Text>>() == 48);

impl Text {
    pub(super) fn new(text: &str) -> Self {
        let text = text.as_bytes();
        if text.len() > INLINE_SIZE_MAX {
            return Self::Boxed(text.into());
        }
        let mut bytes = [0; INLINE_SIZE_MAX];
        bytes[..text.len()].copy_from_slice(text);
        Self::Inline { size: text.len() as u8, bytes }
    }

    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { size, bytes } => &bytes[..usize::from(*size)],
            Self::Boxed(bytes) => bytes,
        }
    }

    /// Checks the UTF-8 once more, which costs some nanoseconds: not for the path of a publication.
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("it was made from a str")
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Boxed(bytes) => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long() {
        for size in [0, 1, INLINE_SIZE_MAX - 1, INLINE_SIZE_MAX, INLINE_SIZE_MAX + 1, 65_535] {
            let text = "x".repeat(size);
            let kept = Text::new(&text);
            assert_eq!(kept.as_str(), text);
            assert_eq!(kept.as_bytes(), text.as_bytes());
            assert_eq!(kept.heap_bytes() > 0, size > INLINE_SIZE_MAX);
        }
        assert_eq!(Text::new("ü/ñ").as_str(), "ü/ñ");
    }
}
