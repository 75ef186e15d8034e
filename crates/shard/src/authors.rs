//! Who wrote what is retained, and whether they still might.
//!
//! Only where a setting asks for it: a retained message then carries its writer's names. What they may do now is asked of the
//! rules that all have. What came with a login is known while the client is there, so a writer to whom rights came like that
//! is not written down, and their messages stay.

use std::collections::HashMap;

use ahash::RandomState;
use midge_auth::{AccessRules, Rights};
use midge_session::Writer;

/// Writers whose rights are remembered, at most: beyond it all are forgotten.
const REMEMBERED_MAX: usize = 1024;

/// What writers may do, by the rules of one generation.
#[derive(Debug)]
pub(crate) struct Authors {
    generation: u32,
    rights: HashMap<Writer, Rights, RandomState>,
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
        writer: &Writer,
        topic: &str,
    ) -> bool {
        if self.generation != generation || self.rights.len() >= REMEMBERED_MAX {
            self.rights.clear();
            self.generation = generation;
        }
        if let Some(rights) = self.rights.get(writer) {
            return rights.may_write(topic).allowed;
        }
        let rights = rules.rights(writer.user.as_deref(), &writer.client_id, None);
        self.rights.entry(writer.clone()).or_insert(rights).may_write(topic).allowed
    }
}
