//! Load averages as mosquitto has them: events per minute, averaged exponentially over 1, 5 and 15 minutes.

use std::time::Duration;

/// The names of the averages, and their times in seconds.
const TIMES: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// The averages of one counter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    count: u64,
    averages: [f64; 3],
}

impl Load {
    /// Takes note that the counter stands at `count`, so long after the last time.
    pub(super) fn update(&mut self, count: u64, since: Duration) {
        let seconds = since.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "an average needs no more than 52 bits")]
        let per_minute = count.saturating_sub(self.count) as f64 * 60.0 / seconds;
        for (average, (_, time)) in self.averages.iter_mut().zip(TIMES) {
            *average = per_minute + (*average - per_minute) * (-seconds / time).exp();
        }
        self.count = count;
    }

    /// Each average with its name, two digits behind the point.
    pub(super) fn values(&self) -> impl Iterator<Item = (&'static str, String)> {
        let averages = self.averages;
        TIMES.iter().zip(averages).map(|((name, _), average)| (*name, format!("{average:.2}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(load: &Load) -> Vec<String> {
        load.values().map(|(_, value)| value).collect()
    }

    #[test]
    fn a_steady_rate_is_reached() {
        let mut load = Load::default();
        assert_eq!(values(&load), ["0.00", "0.00", "0.00"]);
        // Two a second for an hour, every ten seconds.
        for step in 1..=360 {
            load.update(step * 20, Duration::from_secs(10));
        }
        assert_eq!(values(&load), ["120.00", "120.00", "117.80"]);
        let names: Vec<&str> = load.values().map(|(name, _)| name).collect();
        assert_eq!(names, ["1min", "5min", "15min"]);
    }

    /// The first value after a burst, by the formula of mosquitto's `sys_tree`.
    #[test]
    fn a_burst_fades() {
        let mut load = Load::default();
        load.update(100, Duration::from_secs(10));
        assert_eq!(values(&load), ["92.11", "19.67", "6.63"]);
        load.update(100, Duration::from_secs(10));
        assert_eq!(values(&load), ["77.97", "19.03", "6.56"]);
        load.update(100, Duration::ZERO);
        assert_eq!(values(&load), ["77.97", "19.03", "6.56"]);
    }
}
