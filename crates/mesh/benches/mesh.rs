//! What a push, a drain and an interest look-up cost.

fn main() {}
