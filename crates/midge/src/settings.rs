//! From arguments and configuration file to what the program uses.
//!
//! The command line goes over the file, the file over the defaults. Then everything is checked, and
//! every `auto` is resolved against the machine. What an operator wrote down and the machine
//! cannot give is an error; what was left to us adapts.

use std::path::PathBuf;

use midge_config::{Auto, ByteSize, Choice, Config, Listener, Loaded, Place};

use crate::{arguments::ServeArguments, capacity, failure::Failure, host::Host};

/// Settings without an open question.
#[derive(Debug)]
pub(crate) struct Settings {
    /// As loaded; its `auto` values are answered by the fields below.
    pub(crate) loaded: Loaded,
    /// 1 to 1,024.
    pub(crate) shards: u16,
    /// The core of each shard, by shard; empty: none is pinned.
    pub(crate) cores: Vec<usize>,
    /// Connection slots of each shard's ring: 1 to 1,048,576.
    pub(crate) connections_per_shard: u32,
    /// Connections of the whole process, at most the slots of all shards.
    pub(crate) connections_max: u32,
    /// Envelopes in each ring from one shard to another.
    pub(crate) mesh_ring_capacity: u32,
    /// Where what outlives the process is kept; `None`: nothing does.
    pub(crate) data_directory: Option<PathBuf>,
    /// Each shard's part of `limits.queued_bytes_total_max`, and room for one packet.
    pub(crate) queued_bytes_per_shard_max: ByteSize,
    /// How much of that may be in memory: less only with a data directory.
    pub(crate) queued_in_memory_per_shard_max: ByteSize,
}

/// What [`Settings::take_over`] makes of new settings.
#[derive(Debug)]
pub(crate) struct TakenOver {
    /// In force from now on.
    pub(crate) settings: Settings,
    /// As they were written, with what would need a restart.
    pub(crate) wanted: Config,
}

/// The part of the machine's memory that sessions' queues may take, if it is left to us: the kernel's
/// memory for connections, retained messages and everybody else on the machine need the rest.
const QUEUES_SHARE_OF_MEMORY: u64 = 4;

/// How much more may wait in a data directory, if it is left to us: of the smallest messages (some 110 bytes, as they are
/// counted) the index in memory, 20 bytes each, then takes no more than those in memory may.
const QUEUES_ON_DISK: u64 = 4;

/// Memory that a connection costs at the very least (4.5 KB in the kernel): more slots than that
/// could never be used.
const CONNECTION_BYTES_MIN: u64 = 4096;

/// Envelopes in all rings into one shard, if they are left to us.
const INBOX_ENVELOPES: u32 = 16_384;

impl Settings {
    /// # Errors
    /// A file that is none, settings that cannot be, or wishes that this machine cannot meet.
    pub(crate) fn resolve(arguments: &ServeArguments, host: &Host) -> Result<Self, Failure> {
        let loaded = match &arguments.config {
            Some(path) => midge_config::load(path).map_err(Failure::configuration)?,
            None => Loaded::defaults(),
        };
        Self::resolve_loaded(loaded, arguments, host)
    }

    /// The same of a file that has been read.
    ///
    /// # Errors
    /// As of [`Settings::resolve`].
    pub(crate) fn resolve_loaded(
        mut loaded: Loaded,
        arguments: &ServeArguments,
        host: &Host,
    ) -> Result<Self, Failure> {
        if !arguments.listen.is_empty() {
            loaded.config.listeners = arguments.listen.iter().copied().map(Listener::new).collect();
            loaded.set_by_flag("listeners", "--listen");
        }
        if let Some(shards) = arguments.shards {
            loaded.config.shards = shards.0;
            loaded.set_by_flag("shards", "--shards");
        }
        if arguments.allow_anonymous {
            loaded.config.security.allow_anonymous = Choice::Yes;
            loaded.set_by_flag("security.allow_anonymous", "--allow-anonymous");
        }
        if let Some(directory) = &arguments.runtime_dir {
            loaded.config.runtime.directory = Some(directory.clone());
            loaded.set_by_flag("runtime.directory", "--runtime-dir");
        }
        if let Some(address) = arguments.admin {
            loaded.config.admin.listen = Some(address);
            loaded.set_by_flag("admin.listen", "--admin");
        }
        if let Some(directory) = &arguments.data_dir {
            loaded.config.durability.directory = Place::At(directory.clone());
            loaded.set_by_flag("durability.directory", "--data-dir");
        }
        if arguments.ephemeral {
            loaded.config.durability.directory = Place::Memory;
            loaded.set_by_flag("durability.directory", "--ephemeral");
        }
        let problems = loaded.problems();
        if !problems.is_empty() {
            return Err(Failure::Configuration(problems));
        }

        let data_directory = data_directory(&loaded, host)?;
        let durable = data_directory.is_some();
        let config = &loaded.config;
        let shards = config.shards.unwrap_or_else(|| {
            u16::try_from(host.parallelism).unwrap_or(u16::MAX).clamp(1, midge_config::SHARDS_MAX)
        });
        let slots = connections_per_shard(config, shards, host)?;
        let possible = slots.saturating_mul(u32::from(shards));
        let connections_max = match config.limits.connections_max {
            0 => possible,
            wanted if wanted <= possible => wanted,
            wanted => {
                return Err(Failure::configuration(format_args!(
                    "limits.connections_max: {wanted} is more than {shards} shards of {slots} \
                     connections hold; raise the descriptor limit (ulimit -n), \
                     performance.connections_per_shard or the number of shards"
                )));
            }
        };
        Ok(Self {
            shards,
            cores: cores(config.pin_cores, shards, host),
            connections_per_shard: slots,
            connections_max,
            mesh_ring_capacity: mesh_ring_capacity(config, shards),
            queued_bytes_per_shard_max: queued_bytes_per_shard_max(config, shards, host, durable),
            queued_in_memory_per_shard_max: queued_in_memory_per_shard_max(
                config, shards, host, durable,
            ),
            data_directory,
            loaded,
        })
    }

    /// Other settings for a broker that runs with these: what `in_force` leaves of the wanted ones, with the shards, rings
    /// and slots that there are. It is given those in force, the wanted ones and how many connections there is room for.
    pub(crate) fn take_over(
        &self,
        mut loaded: Loaded,
        host: &Host,
        in_force: impl FnOnce(&Config, &Config, u32) -> Config,
    ) -> TakenOver {
        let possible = self.connections_per_shard.saturating_mul(u32::from(self.shards));
        let durable = self.data_directory.is_some();
        let wanted = loaded.config.clone();
        loaded.config = in_force(self.config(), &wanted, possible);
        let settings = Self {
            shards: self.shards,
            cores: self.cores.clone(),
            connections_per_shard: self.connections_per_shard,
            connections_max: match loaded.config.limits.connections_max {
                0 => possible,
                wanted => wanted,
            },
            mesh_ring_capacity: self.mesh_ring_capacity,
            data_directory: self.data_directory.clone(),
            queued_bytes_per_shard_max: queued_bytes_per_shard_max(
                &loaded.config,
                self.shards,
                host,
                durable,
            ),
            queued_in_memory_per_shard_max: queued_in_memory_per_shard_max(
                &loaded.config,
                self.shards,
                host,
                durable,
            ),
            loaded,
        };
        TakenOver { settings, wanted }
    }

    /// The tree of settings that needed no resolution.
    pub(crate) fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// Each shard's part of `limits.retained_messages_max`, rounded up.
    pub(crate) fn retained_messages_per_shard_max(&self) -> u32 {
        self.config().limits.retained_messages_max.div_ceil(u32::from(self.shards))
    }

    /// Each shard's part of `limits.retained_bytes_max`, rounded up, and room for one packet.
    pub(crate) fn retained_bytes_per_shard_max(&self) -> ByteSize {
        let limits = &self.config().limits;
        let part = limits.retained_bytes_max.bytes().div_ceil(u64::from(self.shards));
        ByteSize::new(part).max(limits.maximum_packet_size_bytes)
    }
}

/// Slots of one ring. The kernel allows each ring as many as the process may have descriptors.
fn connections_per_shard(config: &Config, shards: u16, host: &Host) -> Result<u32, Failure> {
    let allowed = host.descriptors_max.min(capacity::SLOTS_MAX);
    match config.performance.connections_per_shard {
        Auto::Value(wanted) if u64::from(wanted) <= allowed => Ok(wanted),
        Auto::Value(wanted) => Err(Failure::configuration(format_args!(
            "performance.connections_per_shard: {wanted} is more than the descriptor limit \
             (ulimit -n) of {allowed} allows; raise that limit or set at most {allowed}"
        ))),
        Auto::Auto => {
            let most = match u64::from(config.limits.connections_max) {
                0 => host.memory_bytes / CONNECTION_BYTES_MIN,
                wanted => wanted,
            };
            let slots = capacity::slots_per_ring(most, shards).min(allowed).max(1);
            Ok(u32::try_from(slots).expect("at most the kernel's bound"))
        }
    }
}

/// Where what outlives the process is kept.
fn data_directory(loaded: &Loaded, host: &Host) -> Result<Option<PathBuf>, Failure> {
    match &loaded.config.durability.directory {
        Place::At(directory) => Ok(Some(directory.clone())),
        Place::Memory => Ok(None),
        // Serving from memory instead would lose what somebody relies on, at the next restart.
        Place::Auto => host.state_directory.clone().map(Some).ok_or_else(|| {
            Failure::configuration(loaded.problem(
                "durability.directory",
                "there is no place for what must outlive the broker: none of $STATE_DIRECTORY, \
                 $XDG_STATE_HOME and $HOME is set; name a directory with --data-dir, or keep \
                 everything in memory with --ephemeral",
            ))
        }),
    }
}

fn queued_bytes_per_shard_max(
    config: &Config,
    shards: u16,
    host: &Host,
    durable: bool,
) -> ByteSize {
    let limits = &config.limits;
    let on_disk = if durable { QUEUES_ON_DISK } else { 1 };
    let total = match limits.queued_bytes_total_max.bytes() {
        0 => host.memory_bytes / QUEUES_SHARE_OF_MEMORY * on_disk,
        total => total,
    };
    ByteSize::new(total.div_ceil(u64::from(shards))).max(limits.maximum_packet_size_bytes)
}

fn queued_in_memory_per_shard_max(
    config: &Config,
    shards: u16,
    host: &Host,
    durable: bool,
) -> ByteSize {
    let all = queued_bytes_per_shard_max(config, shards, host, durable);
    if !durable {
        return all;
    }
    let total = host.memory_bytes / QUEUES_SHARE_OF_MEMORY;
    let part = ByteSize::new(total.div_ceil(u64::from(shards)));
    part.max(config.limits.maximum_packet_size_bytes).min(all)
}

/// Pinned shards share out the cores in turn.
fn cores(pin: Choice, shards: u16, host: &Host) -> Vec<usize> {
    let wanted = match pin {
        Choice::Yes => true,
        Choice::No => false,
        // A quota below the number of cores means that others run on these cores, and every
        // container would choose the same first few.
        Choice::Auto => {
            usize::from(shards) <= host.cores.len() && host.parallelism >= host.cores.len()
        }
    };
    if !wanted {
        return Vec::new();
    }
    host.cores.iter().copied().cycle().take(usize::from(shards)).collect()
}

fn mesh_ring_capacity(config: &Config, shards: u16) -> u32 {
    config.performance.mesh_ring_capacity.unwrap_or_else(|| {
        let rings = u32::from(shards).saturating_sub(1).max(1);
        // Rounded down to a power of two: the same on machines that differ a little.
        1 << (INBOX_ENVELOPES / rings).clamp(64, 4096).ilog2()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::arguments::ShardCount;

    fn host() -> Host {
        Host {
            parallelism: 4,
            cores: vec![2, 3, 6, 7],
            descriptors_max: 20_000,
            memory_bytes: 8 << 30,
            state_directory: Some("/state/midge".into()),
        }
    }

    fn arguments(shards: u16) -> ServeArguments {
        ServeArguments {
            shards: Some(ShardCount(Auto::Value(shards))),
            ..ServeArguments::default()
        }
    }

    #[test]
    fn auto_follows_the_machine() {
        let settings = Settings::resolve(&ServeArguments::default(), &host()).expect("defaults");
        assert_eq!(settings.shards, 4);
        assert_eq!(settings.cores, [2, 3, 6, 7]);
        assert_eq!(settings.connections_per_shard, 20_000);
        assert_eq!(settings.connections_max, 80_000);
        assert_eq!(settings.retained_messages_per_shard_max(), 250_000);
        assert_eq!(settings.retained_bytes_per_shard_max(), ByteSize::from_mebibytes(256));
        assert_eq!(settings.queued_bytes_per_shard_max, ByteSize::from_mebibytes(2048));
        assert_eq!(settings.queued_in_memory_per_shard_max, ByteSize::from_mebibytes(512));
        assert_eq!(settings.data_directory.as_deref(), Some(Path::new("/state/midge")));
    }

    #[test]
    fn shards_are_pinned_when_each_has_a_core() {
        for (pin, shards, parallelism, expected) in [
            (Choice::Auto, 1, 4, &[2][..]),
            (Choice::Auto, 4, 4, &[2, 3, 6, 7]),
            (Choice::Auto, 5, 4, &[]),
            // A quota of two cores' time on four cores that others use as well.
            (Choice::Auto, 2, 2, &[]),
            (Choice::Yes, 2, 2, &[2, 3]),
            (Choice::Yes, 6, 4, &[2, 3, 6, 7, 2, 3]),
            (Choice::No, 1, 4, &[]),
        ] {
            let host = Host { parallelism, ..host() };
            assert_eq!(cores(pin, shards, &host), expected, "{pin:?} {shards} {parallelism}");
        }
        let unknown = Host { cores: Vec::new(), ..host() };
        assert!(cores(Choice::Yes, 2, &unknown).is_empty());
    }

    #[test]
    fn slots_follow_what_can_be_used() {
        for (wanted, connections_max, shards, descriptors_max, memory_gib, slots) in [
            // The descriptor limit, the kernel's own bound, memory, and the operator's bound.
            (Auto::Auto, 0, 2, 20_000, 64, Some(20_000)),
            (Auto::Auto, 0, 2, u64::MAX, 64, Some(1 << 20)),
            (Auto::Auto, 0, 1, u64::MAX, 1, Some(262_144)),
            (Auto::Auto, 1000, 2, 20_000, 64, Some(881)),
            (Auto::Auto, 1000, 1, 20_000, 64, Some(1000)),
            (Auto::Auto, 1, 64, 20_000, 64, Some(1)),
            (Auto::Value(5000), 0, 2, 20_000, 64, Some(5000)),
            (Auto::Value(20_001), 0, 2, 20_000, 64, None),
        ] {
            let mut config = Config::default();
            config.performance.connections_per_shard = wanted;
            config.limits.connections_max = connections_max;
            let host = Host { descriptors_max, memory_bytes: memory_gib << 30, ..host() };
            let found = connections_per_shard(&config, shards, &host);
            assert_eq!(found.ok(), slots, "{wanted:?} {connections_max} {shards}");
        }
    }

    #[test]
    fn queues_have_a_bound_together() {
        for (total, shards, memory, expected) in [
            (0, 4, 8 << 30, 512 << 20),
            (12 << 20, 3, 8 << 30, 4 << 20),
            // Never less than one packet.
            (0, 64, 64 << 20, 1 << 20),
        ] {
            let mut config = Config::default();
            config.limits.queued_bytes_total_max = ByteSize::new(total);
            let host = Host { memory_bytes: memory, ..host() };
            let found = queued_bytes_per_shard_max(&config, shards, &host, false);
            assert_eq!(found.bytes(), expected, "{total} {shards}");
            let in_memory = queued_in_memory_per_shard_max(&config, shards, &host, false);
            assert_eq!(in_memory, found, "{total} {shards}");
        }
    }

    #[test]
    fn a_data_directory_takes_more_than_memory() {
        for (total, all, in_memory) in [
            (0, 2 << 30, 512 << 20),
            (4 << 40, 1 << 40, 512 << 20),
            (1 << 30, 256 << 20, 256 << 20),
        ] {
            let mut config = Config::default();
            config.limits.queued_bytes_total_max = ByteSize::new(total);
            let host = Host { memory_bytes: 8 << 30, ..host() };
            assert_eq!(queued_bytes_per_shard_max(&config, 4, &host, true).bytes(), all);
            assert_eq!(queued_in_memory_per_shard_max(&config, 4, &host, true).bytes(), in_memory);
        }
    }

    #[test]
    fn nothing_is_kept_in_memory_by_accident() {
        let at = |data_dir: Option<&str>, ephemeral, host: &Host| {
            let data_dir = data_dir.map(PathBuf::from);
            let arguments = ServeArguments { data_dir, ephemeral, ..ServeArguments::default() };
            Settings::resolve(&arguments, host).map(|settings| settings.data_directory)
        };
        let homeless = Host { state_directory: None, ..host() };
        for host in [&host(), &homeless] {
            assert_eq!(at(Some("d"), false, host).expect("sound"), Some("d".into()));
            assert_eq!(at(None, true, host).expect("sound"), None);
        }
        match at(None, false, &homeless) {
            Err(Failure::Configuration(problems)) => {
                assert!(problems[0].starts_with("durability.directory: "), "{problems:?}");
                assert!(problems[0].contains("--data-dir"), "{problems:?}");
                assert!(problems[0].ends_with("--ephemeral"), "{problems:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ring_capacities_shrink_as_shards_grow() {
        for (shards, capacity) in
            [(1, 4096), (2, 4096), (4, 4096), (8, 2048), (16, 1024), (64, 256), (1024, 64)]
        {
            assert_eq!(mesh_ring_capacity(&Config::default(), shards), capacity, "{shards}");
        }
    }

    #[test]
    fn options_go_over_the_file() {
        let mut arguments = arguments(3);
        arguments.listen = vec!["127.0.0.1:5".parse().expect("an address")];
        let settings = Settings::resolve(&arguments, &host()).expect("sound");
        assert_eq!(settings.shards, 3);
        assert_eq!(settings.config().listeners, [Listener::new(arguments.listen[0])]);
    }

    #[test]
    fn options_that_cannot_be_name_themselves() {
        let address = "127.0.0.1:5".parse().expect("an address");
        let twice = ServeArguments { listen: vec![address; 2], ..ServeArguments::default() };
        for (arguments, problem) in [
            (arguments(0), "--shards: 0 is out of range; set 1 to 1024"),
            (arguments(1025), "--shards: 1025 is out of range; set 1 to 1024"),
            (
                twice,
                "--listen: 127.0.0.1:5 is already taken by listeners[0] (127.0.0.1:5); choose \
                 another port",
            ),
        ] {
            match Settings::resolve(&arguments, &host()) {
                Err(Failure::Configuration(problems)) => assert_eq!(problems, [problem]),
                other => panic!("{arguments:?}: {other:?}"),
            }
        }
    }
}
