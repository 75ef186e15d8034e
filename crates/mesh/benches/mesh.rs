//! What a push, a flush, a drain and an interest look-up cost.
//!
//! ```text
//! cargo bench -p midge-mesh                # all
//! cargo bench -p midge-mesh -- interest    # those whose name contains "interest"
//! ```
//!
//! Each measurement is one thread's closed loop, repeated for [`ROUND`], best and median of
//! [`ROUNDS`]; the one over two threads says the time for each envelope from end to end of the
//! pipe, and wants two cores to itself.
//!
//! Instructions do not depend on who else uses the machine. Run one measurement under a counter,
//! twice with different numbers of operations, and divide the difference:
//!
//! ```text
//! cargo bench -p midge-mesh --no-run       # says where the program is
//! valgrind --tool=cachegrind --cache-sim=no PROGRAM "idle turn" --bench --operations 100000
//! ```

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use midge_mesh::{
    BUCKETS_DEFAULT, InterestMap, InterestWriter, Node, ShardId, ShardSet, build,
    build_with_reserve,
};

const ROUND: Duration = Duration::from_millis(100);
const ROUNDS: usize = 11;

/// As large as a cache line: what an envelope should be.
type Envelope = [u64; 8];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse().ok()
    };
    let bench = Bench {
        // Without it, it is a test run: one operation of each, to see that it works.
        measure: arguments.iter().any(|argument| argument == "--bench"),
        operations: after("--operations"),
        filter: arguments.into_iter().find(|argument| !argument.starts_with('-')),
    };
    push_and_drain(&bench);
    over_two_threads(&bench);
    interest(&bench);
}

struct Bench {
    measure: bool,
    operations: Option<u64>,
    filter: Option<String>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Measures `operation`, which does `count` of what is named.
    fn run(&self, name: &str, count: u64, mut operation: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        if let (true, Some(operations)) = (self.measure, self.operations) {
            (0..operations / count).for_each(|_| operation());
            return;
        }
        if !self.measure {
            operation();
            println!("{name}: ran");
            return;
        }
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| one_round(count, &mut operation)).collect();
        rounds.sort_by(f64::total_cmp);
        println!("{name}: best {:.1} ns, median {:.1} ns", rounds[0], rounds[ROUNDS / 2]);
    }
}

/// Nanoseconds for one of what `operation` does `count` of.
fn one_round(count: u64, operation: &mut impl FnMut()) -> f64 {
    let since = Instant::now();
    let mut done = 0;
    while since.elapsed() < ROUND {
        for _ in 0..256 {
            operation();
        }
        done += 256 * count;
    }
    since.elapsed().as_nanos() as f64 / done as f64
}

fn push_and_drain(bench: &Bench) {
    for (shards, batch) in [(2, 1), (2, 32), (8, 32), (64, 32)] {
        let mut nodes = build::<Envelope>(shards, 256);
        let (first, rest) = nodes.split_at_mut(1);
        let (source, target) = (&mut first[0], &mut rest[0]);
        let name = format!("push+flush+drain, {shards} shards, {batch} a flush");
        bench.run(&name, batch, || {
            for value in 0..batch {
                source.push(target.id(), black_box([value; 8])).unwrap();
            }
            source.flush(|_| unreachable!());
            target.drain(1024, |_, envelope| {
                black_box(envelope);
            });
            target.flush(|_| unreachable!());
        });
    }
    let mut nodes = build_with_reserve::<Envelope>(8, 256, 32);
    bench.run("push+flush+drain, fan-out of 1 to 7 shards", 7, || {
        for target in 1..8 {
            nodes[0].push(ShardId::new(target), black_box([7; 8])).unwrap();
        }
        nodes[0].flush(|_| unreachable!());
        for target in &mut nodes[1..] {
            target.drain(1024, |_, envelope| {
                black_box(envelope);
            });
        }
    });
    let mut idle = build::<Envelope>(64, 256).swap_remove(0);
    bench.run("an idle turn: drain+flush+empty?, 64 shards", 1, || {
        black_box(idle.drain(1024, |_, _| unreachable!()));
        idle.flush(|_| unreachable!());
        black_box(idle.inboxes_empty());
    });
    bench.run("announce park and unpark", 1, || {
        assert!(idle.announce_park());
        idle.unpark();
    });
}

/// One thread pushes, another drains; both yield the core when they have nothing to do.
fn over_two_threads(bench: &Bench) {
    const COUNT: u64 = 2_000_000;
    if !bench.measure {
        return;
    }
    for batch in [1, 8, 32] {
        let name = format!("two threads, {batch} a flush");
        if !bench.wants(&name) {
            continue;
        }
        let mut nodes = build::<Envelope>(2, 1024);
        let mut target = nodes.pop().unwrap();
        let mut source = nodes.pop().unwrap();
        let since = Instant::now();
        thread::scope(|scope| {
            scope.spawn(move || send(&mut source, COUNT, batch));
            let mut drained = 0;
            while drained < COUNT {
                let count = target.drain(1024, |_, envelope| {
                    black_box(envelope);
                });
                target.flush(|_| unreachable!());
                drained += count as u64;
                if count == 0 {
                    thread::yield_now();
                }
            }
        });
        let each = since.elapsed().as_nanos() as f64 / COUNT as f64;
        println!("{name}: {each:.1} ns");
    }
}

fn send(source: &mut Node<Envelope>, count: u64, batch: u64) {
    let target = ShardId::new(1);
    for value in 0..count {
        while source.push(target, [value; 8]).is_err() {
            source.flush(|_| unreachable!());
            thread::yield_now();
        }
        if value % batch == 0 {
            source.flush(|_| unreachable!());
        }
    }
    source.flush(|_| unreachable!());
}

fn interest(bench: &Bench) {
    let topics: Vec<String> =
        (0..1024).map(|number| format!("site{:02}/sensor{number:04}/value", number % 16)).collect();
    let literal = |number: usize| format!("site{:02}/sensor{number:04}/command", number % 16);
    let wildcard = |number: usize| format!("site{:02}/sensor{number:04}/+", number % 16);
    #[rustfmt::skip]
    let loads: [(&str, Vec<String>); 4] = [
        ("no filters", Vec::new()),
        ("literal filters only", (0..10_000).map(literal).collect()),
        ("literal and 16 wildcard prefixes", (0..10_000).map(literal).chain((0..16).map(|n| format!("site{n:02}/#"))).collect()),
        ("prefixes of all levels", (0..10_000).map(literal).chain((0..10_000).map(wildcard)).chain((0..16).map(|n| format!("site{n:02}/+/value"))).chain((0..1024).map(|n| format!("{}/#", topics[n]))).chain(["#".to_owned()]).collect()),
    ];
    for shards in [8, 64, 128] {
        for (load, filters) in &loads {
            let name = format!("interest of a 3-level topic, {shards} shards, {load}");
            if !bench.wants(&name) {
                continue;
            }
            let map = Arc::new(InterestMap::new(shards, BUCKETS_DEFAULT));
            for number in 0..shards {
                let mut writer = InterestWriter::new(Arc::clone(&map), ShardId::new(number));
                filters
                    .iter()
                    .skip(usize::from(number))
                    .step_by(usize::from(shards))
                    .for_each(|filter| writer.add(filter));
            }
            let mut out = ShardSet::new();
            bench.run(&name, topics.len() as u64, || {
                for topic in &topics {
                    map.interested(black_box(topic), &mut out);
                    black_box(&out);
                }
            });
        }
    }
}
