//! Sockets over one io_uring per shard.
