//! The hands: an executor per core driving the net ring, the mesh and the shard.
//!
//! Everything that touches the machine while packets flow is here or below: threads, clock, sockets. What should
//! happen is never decided here; the loop ([`hands`]) tells the shard what happened and does what it asks for.
//!
//! | file | what it does |
//! |---|---|
//! | [`start`](mod@start) | threads, the exchange of ring handles, stop and join |
//! | [`asker`] | questions from aliens to shards |
//! | `crew` | the loop of one thread: of one shard, or of several |
//! | `hands` | one turn of a shard |
//! | `accepting` | when to accept again after a listener was paused |
//! | `durable` | what is kept, at the start |
//! | `progress` | how far the logs have been read at the start |
//! | `damage` | what of it is not as it was written |
//! | [`disk`] | the data directory and what is done in it |
//! | `layers` | TLS, WebSocket and PROXY headers of the connections that have them |
//! | `layered` | the loop's way for those connections |
//! | `logins` | threads that are asked about clients, so that no shard spends the time |
//! | `journal` | rate-limited log lines about connections |
//! | `statistics` | the page that readers see, and what the loop counts about itself |
//! | `clock` | monotonic time as the pure rooms want it |
//!
//! # Invariants worth naming
//! - A shard thread makes one system call a turn, whatever number of messages that turn moved.
//! - It sleeps in that same system call, and only after it has announced so to the mesh.
//! - Threads that are not shards never touch a shard's state: they send a [`start::Command`] through a bounded channel.
//! - A shard that fails takes the process down: half a broker is worse than none.
#![forbid(unsafe_code)]

mod accepting;
pub mod asker;
mod clock;
mod crew;
mod damage;
pub mod disk;
mod durable;
mod hands;
mod journal;
mod layered;
mod layers;
mod logins;
mod progress;
pub mod start;
mod statistics;

pub use asker::{AskError, Asker};
pub use damage::DamageReport;
pub use durable::{Durability, DurabilityError};
pub use logins::{Doorman, Reply};
pub use progress::Progress;
pub use start::{Auditor, Broker, ListenerChange, Reloader, Settings, StartError, Stopper, start};
