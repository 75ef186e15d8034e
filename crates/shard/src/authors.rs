//! Who wrote what is retained, and whether they still might.
//!
//! Only where a setting asks for it: a retained message then carries its writer's names. What they may do now is asked of the
//! rules that all have. What came with a login is known while the client is there, so a writer to whom rights came like that
//! is not written down, and their messages stay.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use midge_auth::{AccessRules, Rights};
use midge_session::Author;

/// Writers whose rights are remembered, at most: beyond it all are forgotten.
const REMEMBERED_MAX: usize = 1024;

/// What writers may do, by the rules of one generation.
#[derive(Debug)]
pub(crate) struct Authors {
    generation: u32,
    rights: HashMap<Arc<Author>, Rights, RandomState>,
}

impl Authors {
    pub(crate) fn new(hasher: RandomState) -> Self {
        Self { generation: 0, rights: HashMap::with_hasher(hasher) }
    }

    /// Whether who wrote something to a topic might do so now. `generation` is that of the rules.
    pub(crate) fn may_still_write(
        &mut self,
        rules: &AccessRules,
        generation: u32,
        author: &Arc<Author>,
        topic: &str,
    ) -> bool {
        if self.generation != generation || self.rights.len() >= REMEMBERED_MAX {
            self.rights.clear();
            self.generation = generation;
        }
        let rights = self
            .rights
            .entry(Arc::clone(author))
            .or_insert_with(|| rules.rights(author.user.as_deref(), &author.client_id, None));
        rights.may_write(topic).allowed
    }
}
