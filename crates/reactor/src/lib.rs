//! The hands: an executor per core driving the net ring and the shard.
