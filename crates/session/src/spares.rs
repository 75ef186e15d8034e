//! Memory of messages that are done with, for those that come.
//!
//! A message that is in memory only until the log has it takes two blocks from the allocator and gives them back a moment later,
//! with thousands like it: a seventh of all that is done for it. So whoever takes such messages out of memory leaves
//! them here, a bounded number of small ones, and the next ones are built in their place.

use std::sync::Arc;

use bytes::BytesMut;

use crate::publication::Publication;

/// At most so many: what one commit takes out of memory under load.
const COUNT_MAX: usize = 8192;

/// Larger ones, as [`Publication::memory_size`] counts, are not kept: all together are 2 MiB.
const SIZE_MAX: usize = 256;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Spares {
    /// Nobody else has any of them.
    line: Vec<Arc<Publication>>,
}

impl Spares {
    /// Takes a message that one owner is done with, if that was the last one.
    #[inline]
    pub fn give(&mut self, publication: Arc<Publication>) {
        if self.line.len() < COUNT_MAX
            && publication.memory_size() <= SIZE_MAX
            && Arc::strong_count(&publication) == 1
        {
            self.line.push(publication);
        }
    }

    /// The message that `make` makes, in memory of an earlier one if there is some. `make` is given a block for
    /// [`Publication::new_in`].
    #[inline]
    pub fn renew(&mut self, make: impl FnOnce(BytesMut) -> Publication) -> Arc<Publication> {
        if let Some(mut spare) = self.line.pop()
            && let Some(earlier) = Arc::get_mut(&mut spare)
        {
            *earlier = make(earlier.take_block());
            return spare;
        }
        Arc::new(make(BytesMut::new()))
    }
}

#[cfg(test)]
mod tests {
    use midge_codec::QoS;

    use super::*;

    fn renew(spares: &mut Spares, topic: &str, payload: &[u8]) -> Arc<Publication> {
        let publication = spares.renew(|block| {
            Publication::new_in(block, topic, b"p", payload, QoS::AtLeastOnce, false, None)
        });
        assert_eq!((publication.topic(), publication.payload()), (topic, payload));
        assert_eq!(publication.properties(), b"p");
        assert_eq!(
            publication.memory_size(),
            Publication::memory_size_of(topic.len() + 1 + payload.len())
        );
        publication
    }

    /// Larger or smaller than what was there before: nothing of that is left.
    #[test]
    fn what_comes_is_as_if_it_were_new() {
        let mut spares = Spares::default();
        for size in [10, 10, 9, 50, 3, 0, 90, 10, 30] {
            let publication = renew(&mut spares, "a/b", &vec![size as u8; size]);
            spares.give(publication);
            assert_eq!(spares.line.len(), 1);
        }
    }

    #[test]
    fn the_memory_is_that_of_the_earlier_one() {
        let mut spares = Spares::default();
        let publication = renew(&mut spares, "a", b"one");
        let (record, block) = (Arc::as_ptr(&publication), publication.payload().as_ptr());
        spares.give(publication);
        let publication = renew(&mut spares, "b", b"two");
        assert_eq!((Arc::as_ptr(&publication), publication.payload().as_ptr()), (record, block));
    }

    /// What somebody else has, is large, or is too much, is none to build in.
    #[test]
    fn only_what_is_small_and_alone_is_kept() {
        let mut spares = Spares::default();
        let shared = renew(&mut spares, "a", b"shared");
        spares.give(Arc::clone(&shared));
        let large = renew(&mut spares, "a", &[0; SIZE_MAX]);
        spares.give(large);
        assert!(spares.line.is_empty());
        let bytes = shared.payload_bytes();
        spares.give(shared);
        renew(&mut spares, "a", b"others");
        assert_eq!(&bytes[..], b"shared", "a slice of it is somebody's");
        let many: Vec<_> = (0..COUNT_MAX + 1).map(|_| renew(&mut spares, "a", b"")).collect();
        many.into_iter().for_each(|one| spares.give(one));
        assert_eq!(spares.line.len(), COUNT_MAX);
    }
}
