//! One shard's mind: event in, actions out.
