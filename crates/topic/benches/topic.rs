//! What the topic room costs: nanoseconds a publication, bytes a subscription, worst cases.
//!
//! ```text
//! cargo bench -p midge-topic                      # all scenarios
//! cargo bench -p midge-topic -- literal wildcard  # some
//! ```
//!
//! Each scenario runs in a process of its own, so that memory is measured in a fresh one. Times are
//! the best of seven rounds, because other work on the machine only adds; memory is the growth of
//! the resident set beside what the structure says of itself. One thread, closed loop. For
//! instructions, run `literal-small` or `wildcard-small` with `MIDGE_BENCH_ROUNDS=1` and `=2` under
//! `valgrind --tool=callgrind --trace-children=yes` and divide the difference by the 200,000
//! operations of a round.

use std::{
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use midge_topic::{
    RetainedIndex, Scan, SubscriberId, SubscriptionTable, Topic, TopicFilter, TopicLimits,
    TopicName, matches,
};

const DEEP: TopicLimits = TopicLimits { levels_max: u16::MAX, size_max: u16::MAX };

const SCENARIOS: [(&str, fn()); 15] = [
    ("parse", parse),
    ("literal-small", literal_small),
    ("wildcard-small", wildcard_small),
    ("literal", literal),
    ("wildcard", wildcard),
    ("fanout", fanout),
    ("pathological", pathological),
    ("memory-literal", || memory(1_000_000, device)),
    ("memory-wildcard", || memory(100_000, |number| format!("client/{number}/+/state/#"))),
    ("memory-long", || memory(100_000, |number| format!("{}/{}", device(number), device(number)))),
    ("memory-shared", || memory(1_000_000, |_| "all".to_owned())),
    ("churn", churn),
    ("stall", stall),
    ("retained-ascending", || retained(false)),
    ("retained-random", || retained(true)),
];

/// Set for the process that runs the one scenario it names.
const SCENARIO: &str = "MIDGE_BENCH_SCENARIO";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` starts this, too, without the flag that `cargo bench` gives.
    if !arguments.iter().any(|it| it == "--bench") {
        return;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|it| !it.starts_with("--")).collect();
    let only = std::env::var(SCENARIO).ok();
    for (name, run) in SCENARIOS {
        if only.as_deref() == Some(name) {
            println!("{name}");
            run();
        } else if only.is_none() && (wanted.is_empty() || wanted.iter().any(|it| *it == name)) {
            let program = std::env::current_exe().expect("Linux");
            let status = Command::new(program).arg("--bench").env(SCENARIO, name).status();
            assert!(status.expect("it was started before").success(), "{name}");
        }
    }
}

fn parse() {
    for text in ["a", "site/0042/device/00001234/state", "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t"]
    {
        measure(&format!("TopicName::parse, {} bytes", text.len()), 1_000_000, || {
            for _ in 0..1_000_000 {
                let name = TopicName::parse(black_box(text), &TopicLimits::DEFAULT);
                black_box(name.is_ok());
            }
        });
    }
}

/// One match a time, everything in the nearest caches: for counting instructions.
fn literal_small() {
    let mut table = SubscriptionTable::new();
    let topics: Vec<String> = (0..100).map(device).collect();
    for (number, topic) in (0..).zip(&topics) {
        table.subscribe(filter(topic), SubscriberId(number), number);
    }
    match_all("1 of 100 literal filters", &table, &shuffled(&topics, 200_000), 1);
}

/// As [`literal_small`], with the one match by a wildcard.
fn wildcard_small() {
    let mut table = SubscriptionTable::new();
    let topics: Vec<String> = (0..100).map(device).collect();
    for (number, topic) in (0..).zip(&topics) {
        let (client, _) = topic.rsplit_once('/').expect("has levels");
        table.subscribe(filter(&format!("{client}/+")), SubscriberId(number), number);
    }
    match_all("1 of 100 filters `site/S/device/D/+`", &table, &shuffled(&topics, 200_000), 1);
}

fn match_all(name: &str, table: &SubscriptionTable<u32>, topics: &[String], expected: usize) {
    let names: Vec<TopicName<'_>> = topics.iter().map(|text| topic(text)).collect();
    let mut out = Vec::with_capacity(16);
    measure(&format!("match, {name}"), topics.len(), || {
        for &name in &names {
            assert_eq!(table.matches(name, &mut out), expected);
            black_box(&out);
        }
    });
}

fn literal() {
    for count in [1, 1_000, 100_000, 1_000_000] {
        let mut table = SubscriptionTable::new();
        let topics: Vec<String> = (0..count).map(device).collect();
        for (number, topic) in (0..).zip(&topics) {
            table.subscribe(filter(topic), SubscriberId(number), number);
        }
        let order = shuffled(&topics, 200_000);
        match_all(&format!("1 of {count} literal filters"), &table, &order, 1);
        let missing: Vec<String> = order.iter().map(|it| format!("{it}x")).collect();
        match_all(&format!("none of {count} literal filters"), &table, &missing, 0);
    }
}

fn wildcard() {
    for count in [1_000, 100_000] {
        let mut table = SubscriptionTable::new();
        let topics: Vec<String> = (0..count).map(device).collect();
        for (number, text) in (0..).zip(&topics) {
            let (client, _) = text.rsplit_once('/').expect("has levels");
            table.subscribe(filter(&format!("{client}/+")), SubscriberId(number), number);
        }
        let order = shuffled(&topics, 200_000);
        match_all(&format!("1 of {count} filters `site/S/device/D/+`"), &table, &order, 1);
        for (number, text) in (0..).zip(["site/#", "site/+/device/+/state", "+/+/+/+/alarm"]) {
            table.subscribe(filter(text), SubscriberId(number), number);
        }
        match_all(&format!("3 of {} filters with wildcards", count + 3), &table, &order, 3);
        let missing: Vec<String> = order.iter().map(|it| format!("x/{it}")).collect();
        match_all(&format!("none of {} with wildcards", count + 3), &table, &missing, 0);
    }
}

fn fanout() {
    let mut table = SubscriptionTable::new();
    for number in 0..100_000 {
        table.subscribe(filter("all"), SubscriberId(number), number);
    }
    let mut out = Vec::new();
    measure("match, 100,000 subscribers of one filter, for each", 100_000, || {
        table.matches(topic("all"), &mut out);
        assert_eq!(black_box(&out).len(), 100_000);
    });
}

/// Filters built to explode. The budget is 2 ms a message.
fn pathological() {
    let worst = |name: &str, filters: &[String], text: &str| {
        let mut table = SubscriptionTable::new();
        let mut expected = 0;
        for (number, it) in (0..).zip(filters) {
            table.subscribe(filter(it), SubscriberId(number), number);
            expected += usize::from(matches(filter(it), topic(text)));
        }
        let mut out = Vec::new();
        let name = format!("{name}: {} filters, {expected} match", filters.len());
        measure(&name, 1, || {
            assert_eq!(table.matches(topic(text), &mut out), expected);
        });
    };
    let choices = |bits: u32, tail: &str| -> Vec<String> {
        (0..1_u32 << bits)
            .map(|choice| {
                let levels: Vec<&str> =
                    (0..bits).map(|bit| if choice >> bit & 1 == 0 { "a" } else { "+" }).collect();
                format!("{}{tail}", levels.join("/"))
            })
            .collect()
    };
    worst("{a,+}^12", &choices(12, ""), &["a"; 12].join("/"));
    worst("{a,+}^12/#", &choices(12, "/#"), &["a"; 12].join("/"));
    worst("{a,+}^12/x", &choices(12, "/x"), &["a"; 13].join("/"));
    worst("{a,+}^16", &choices(16, ""), &["a"; 16].join("/"));
    let tail = format!("/{}/x", ["+"; 115].join("/"));
    worst("{a,+}^12, then `+` to level 127, then x", &choices(12, &tail), &["a"; 128].join("/"));
    let prefixes: Vec<String> =
        (0..128).map(|depth| ["a", "/"].concat().repeat(depth) + "#").collect();
    worst("a/a/…/# at each depth", &prefixes, &["a"; 128].join("/"));
    let pluses: Vec<String> = (0..127)
        .flat_map(|depth| {
            let head = "+/".repeat(depth);
            [format!("{head}#"), format!("{head}+"), format!("{head}a/#"), format!("{head}a")]
        })
        .collect();
    worst("+/+/…/{#,+,a/#,a} at each depth", &pluses, &["a"; 127].join("/"));
    // A filter for each pair of levels that are not `+`.
    let two_literals = |levels: usize, filters: usize| -> Vec<String> {
        let pairs = (0..levels).flat_map(|low| (0..low).map(move |high| (low, high)));
        pairs
            .take(filters)
            .map(|(low, high)| {
                let mut all = vec!["+"; levels];
                (all[low], all[high]) = ("a", "a");
                all.join("/")
            })
            .collect()
    };
    worst("128 levels of + but two", &two_literals(128, 5_000), &["a"; 128].join("/"));
    worst("32,768 levels of + but two", &two_literals(32_768, 100), &["a"; 32_768].join("/"));
    let deep = vec!["+/".repeat(32_000) + "#", "#".to_owned(), "/".repeat(65_534)];
    worst("65,535 levels", &deep, &"/".repeat(65_534));
    let long = "x".repeat(60_000);
    worst(
        "{a,+}^12/x, last level of the topic 60,000 bytes",
        &choices(12, "/x"),
        &format!("{}/{long}", ["a"; 12].join("/")),
    );
}

/// One subscriber each, another one each time.
fn memory(count: u32, text: fn(u32) -> String) {
    let texts: Vec<String> = (0..count).map(text).collect();
    let mut table = SubscriptionTable::new();
    let resident_before = resident_bytes();
    let started = Instant::now();
    for (number, text) in (0..).zip(&texts) {
        table.subscribe(filter(text), SubscriberId(number), number);
    }
    let elapsed = started.elapsed();
    let resident = resident_bytes() - resident_before;
    let each = |bytes: usize| bytes as f64 / f64::from(count);
    println!(
        "  {count} subscriptions as {:?}: {:.0} B of text, with it {:.1} B counted, {:.1} B resident; \
         {:.0} ns each, {:.0} ms in all",
        texts[0],
        each(texts.iter().map(String::len).sum()),
        each(table.memory_bytes()),
        each(resident),
        elapsed.as_secs_f64() * 1e9 / f64::from(count),
        elapsed.as_secs_f64() * 1e3,
    );
}

fn churn() {
    let topics: Vec<String> = (0..100_000).map(device).collect();
    let filters: Vec<String> = topics.iter().map(|it| format!("{it}/+")).collect();
    for (name, texts) in [("literal", &topics), ("wildcard", &filters)] {
        let mut table = SubscriptionTable::new();
        measure(&format!("subscribe and unsubscribe, {name}"), texts.len(), || {
            for text in texts {
                table.subscribe(filter(text), SubscriberId(1), 0);
            }
            for text in texts {
                let filter_id = table.find(text).expect("is in");
                assert!(table.unsubscribe(filter_id, SubscriberId(1)).is_some());
            }
        });
    }
    let mut table = SubscriptionTable::new();
    measure("a million join and leave one filter, for each", 1_000_000, || {
        let mut filter_id = None;
        for number in 0..1_000_000 {
            let id = table.subscribe(filter("all"), SubscriberId(number), number).filter_id;
            filter_id = Some(id);
        }
        for number in 0..1_000_000 {
            assert!(table.unsubscribe(filter_id.expect("is in"), SubscriberId(number)).is_some());
        }
    });
}

/// The longest single subscription while two million arrive: growth must not stall the loop.
fn stall() {
    for (name, tail) in [("literal", ""), ("wildcard", "/+")] {
        let mut table = SubscriptionTable::new();
        let mut longest = Duration::ZERO;
        let (mut over_100_us, mut over_1_ms) = (0, 0);
        for number in 0..2_000_000 {
            let text = device(number) + tail;
            let started = Instant::now();
            table.subscribe(filter(&text), SubscriberId(number), number);
            let elapsed = started.elapsed();
            longest = longest.max(elapsed);
            over_100_us += u32::from(elapsed > Duration::from_micros(100));
            over_1_ms += u32::from(elapsed > Duration::from_millis(1));
        }
        println!(
            "  2,000,000 {name}: longest {longest:?}, {over_100_us} above 100 µs, {over_1_ms} above 1 ms"
        );
    }
}

struct Message {
    topic: Box<str>,
    _payload: Box<[u8]>,
}

impl Topic for Message {
    fn topic(&self) -> &str {
        &self.topic
    }
}

fn retained(random: bool) {
    for count in [100_000, 1_000_000_u32] {
        let topics: Vec<String> = (0..count).map(device).collect();
        let texts = if random { shuffled(&topics, topics.len()) } else { topics };
        // The messages are there before: what grows is the index alone.
        let message = |text: &String| {
            Box::new(Message { topic: text.as_str().into(), _payload: [1; 100].into() })
        };
        let messages: Vec<Box<Message>> = texts.iter().map(message).collect();
        let replacements: Vec<Box<Message>> = texts[..50_000].iter().map(message).collect();
        let resident_before = resident_bytes();
        let mut index = RetainedIndex::new();
        let started = Instant::now();
        for message in messages {
            index.insert(message);
        }
        println!(
            "  {count} inserted: {:.0} ns each, {:.1} B each counted, {:.1} B resident, the messages not included",
            started.elapsed().as_secs_f64() * 1e9 / f64::from(count),
            index.memory_bytes() as f64 / f64::from(count),
            (resident_bytes() - resident_before) as f64 / f64::from(count),
        );
        let started = Instant::now();
        for message in replacements {
            assert!(index.insert(message).is_some());
        }
        let elapsed = started.elapsed();
        println!("  replace among {count}: {:.0} ns each", elapsed.as_secs_f64() * 1e9 / 50_000.0);
        measure(&format!("find among {count}"), 100_000, || {
            for text in &texts[..100_000] {
                assert!(index.find(black_box(text)).is_some());
            }
        });
        for text in ["#", "site/0007/#", "site/+/device/00000007/state", "+/+/+/+/none"] {
            scan(&index, text);
        }
    }
}

fn scan(index: &RetainedIndex<Box<Message>>, text: &str) {
    let (mut found, mut parts, mut after) = (0, 0, None::<String>);
    let mut longest = Duration::ZERO;
    let started = Instant::now();
    loop {
        parts += 1;
        let part = Instant::now();
        let scan = index.scan(filter(text), after.as_deref(), 1_000, &mut |_| found += 1);
        longest = longest.max(part.elapsed());
        match scan {
            Scan::Done => break,
            Scan::More { after: last } => after = Some(last.to_owned()),
        }
    }
    println!(
        "  scan {text:?}: {found} found in {parts} parts of 1,000, {:?} in all, longest part {longest:?}",
        started.elapsed()
    );
}

/// A topic of 31 bytes, as fleets have them.
fn device(number: u32) -> String {
    format!("site/{:04}/device/{number:08}/state", number % 1000)
}

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text, &DEEP).expect("is a filter")
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::parse(text, &DEEP).expect("is a name")
}

/// `count` of `texts`, in an order without pattern but the same each time.
fn shuffled(texts: &[String], count: usize) -> Vec<String> {
    let mut order = texts.to_vec();
    let mut state = 1_u64;
    for at in (1..order.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(at, (state >> 33) as usize % (at + 1));
    }
    order.into_iter().cycle().take(count).collect()
}

/// Prints the best of some rounds for one of `operations`.
fn measure(name: &str, operations: usize, mut round: impl FnMut()) {
    let rounds = std::env::var("MIDGE_BENCH_ROUNDS").ok().and_then(|it| it.parse().ok());
    let mut best = Duration::MAX;
    for _ in 0..rounds.unwrap_or(7) {
        let started = Instant::now();
        round();
        best = best.min(started.elapsed());
    }
    let each = best.as_secs_f64() * 1e9 / operations as f64;
    if each > 10_000.0 {
        println!("  {name}: {:.3} ms", each / 1e6);
    } else {
        println!("  {name}: {each:.1} ns ({operations} a round)");
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a number");
    pages * 4096
}
