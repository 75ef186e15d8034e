//! Bytes as a row of choices.

/// Takes one choice after the other; at its end there are no more.
#[derive(Debug)]
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `count`.
    pub(crate) fn below(&mut self, count: usize) -> Option<usize> {
        Some(usize::from(self.byte()?) % count)
    }

    /// One of these.
    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        Some(all[self.below(all.len())?])
    }

    /// The next bytes as they are: their number first.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let size = usize::from(self.byte()?).min(self.0.len());
        let (bytes, rest) = self.0.split_at(size);
        self.0 = rest;
        Some(bytes)
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}
