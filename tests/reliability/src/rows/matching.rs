//! Row 14: filters and topics built to make matching expensive.

use std::time::Instant;

use midge_codec::QoS;

use crate::{Broker, Client, Figure, Hello, Incoming, Kind, Size};

/// Every way to put a name or `+` into twelve or sixteen levels, and topics of as many levels as a packet holds.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let broker = Broker::start(shards, "");
    let mut figures = Vec::new();
    for (levels, what_all, what_none, bound) in [
        (12, "message that 4,096 filters match", "message that 4,096 filters nearly match", 2.0),
        (16, "message that 65,536 filters match", "message that 65,536 filters nearly match", 50.0),
    ] {
        let levels = size.pick(levels / 2, levels);
        let mut reader = Client::connect(broker.address(), &Hello::new(format!("r-{levels}")));
        let filters: Vec<String> = (0..1_u32 << levels)
            .map(|bits| {
                let names: Vec<_> =
                    (0..levels).map(|bit| if bits >> bit & 1 == 1 { "+" } else { "a" }).collect();
                format!("base-{levels}/{}/end", names.join("/"))
            })
            .collect();
        for part in filters.chunks(1000) {
            reader.send(&reader.subscribe_packet(1, part, QoS::AtMostOnce));
            assert_eq!(reader.expect_answer(), Incoming::Subscribed(part.len(), 0));
        }
        let mut publisher = Client::connect(broker.address(), &Hello::new(format!("p-{levels}")));
        let path = vec!["a"; levels].join("/");
        for (what, topic) in [
            (what_all, format!("base-{levels}/{path}/end")),
            (what_none, format!("base-{levels}/{path}/other")),
        ] {
            let rounds = size.pick(3, 100);
            let since = Instant::now();
            for _ in 0..rounds {
                publisher.deliver(&topic, b"x", false);
            }
            let milliseconds = since.elapsed().as_secs_f64() * 1000.0 / f64::from(rounds);
            figures.push(Figure::at_most(14, Kind::Speed, what, milliseconds, bound, "ms"));
        }
    }
    let mut witness = Client::connect(broker.address(), &Hello::new("witness"));
    let mut worst: f64 = 0.0;
    for (number, deep) in
        ["/".repeat(65_534), "a/".repeat(32_767), "+/".repeat(32_767)].iter().enumerate()
    {
        let mut client = Client::connect(broker.address(), &Hello::new(format!("deep-{number}")));
        let mut bytes = client.subscribe_packet(1, &[deep], QoS::AtMostOnce);
        let topic = deep.replace('+', "b");
        client.write_publish(&mut bytes, &topic, b"x", QoS::AtLeastOnce, 1, true);
        let since = Instant::now();
        client.send(&bytes);
        // Refused or matched: whatever is said, it is said soon, and others are served.
        while client
            .next(std::time::Duration::from_millis(20))
            .is_some_and(|it| it != Incoming::End)
        {}
        let waited = since.elapsed();
        witness.ping();
        worst = worst.max((since.elapsed() - waited).as_secs_f64() * 1000.0);
    }
    figures.push(Figure::at_most(14, Kind::Speed, "others after 65,535 levels", worst, 50.0, "ms"));
    figures
}
