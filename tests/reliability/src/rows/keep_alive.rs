//! Row 10: silence is noticed in time, and not before.

use std::time::{Duration, Instant};

use midge_codec::ReasonCode;

use crate::client::PATIENCE;
use crate::{Broker, Client, Figure, Hello, Incoming, Kind, Size};

/// Clients that fall silent at different moments, some after packets of theirs.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let broker = Broker::start(shards, "");
    let mut figures = Vec::new();
    let both = [
        (1, "first closed, keep alive 1 s", "last closed, keep alive 1 s"),
        (4, "first closed, keep alive 4 s", "last closed, keep alive 4 s"),
    ];
    for (seconds, first, last) in size.pick(&both[..1], &both[..]).iter().copied() {
        let mut clients: Vec<_> = (0..size.pick(40, 200))
            .map(|number| {
                let mut hello = Hello::new(format!("silent-{seconds}-{number}"));
                hello.keep_alive_seconds = seconds;
                let mut client = Client::connect(broker.address(), &hello);
                std::thread::sleep(Duration::from_millis(3));
                let sent = Instant::now();
                client.ping();
                (client, sent, Instant::now())
            })
            .collect();
        let (mut shortest, mut longest) = (f64::INFINITY, 0.0_f64);
        for (client, sent, answered) in &mut clients {
            let told = client.next(PATIENCE);
            assert_eq!(told, Some(Incoming::Disconnect(ReasonCode::KeepAliveTimeout)));
            assert_eq!(client.next(PATIENCE), Some(Incoming::End));
            // The broker heard the ping between these two moments.
            shortest = shortest.min(sent.elapsed().as_secs_f64());
            longest = longest.max(answered.elapsed().as_secs_f64());
        }
        let limit = f64::from(seconds) * 1.5;
        figures.push(Figure::at_least(10, Kind::Exact, first, shortest, limit, "s"));
        figures.push(Figure::at_most(10, Kind::Speed, last, longest, limit + 0.5, "s"));
    }
    figures
}
