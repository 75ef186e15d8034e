//! All rings between all shards.
