//! What ails the durable logs, read from the statistics pages.

use midge_metrics::{LogCondition, Reading};

/// What ails the durable logs now, each in one sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ailments {
    /// What must be kept is not acknowledged: no place for new publishers. Passes by itself when the disk is well.
    pub acute: Vec<String>,
    /// Something is lost, and the broker serves what is left: until a start finds nothing damaged.
    pub lasting: Vec<String>,
}

impl Ailments {
    /// Of all logs.
    #[must_use]
    pub fn of(reading: &Reading) -> Self {
        let mut ailments = Self::default();
        for (shard, core) in reading.shards.iter().enumerate() {
            let is = |condition| core.counters.logs_by_condition_now[condition as usize] > 0;
            if is(LogCondition::Full) {
                ailments.acute.push(format!(
                    "shard {shard}: the disk has no room, so what must be kept is not acknowledged"
                ));
            }
            if is(LogCondition::Failed) {
                ailments.acute.push(format!(
                    "shard {shard}: the disk has failed, so what must be kept is not acknowledged"
                ));
            }
            let (places, records) =
                (core.counters.log_damage_now, core.counters.log_records_lost_now);
            if places > 0 {
                ailments.lasting.push(format!(
                    "shard {shard}: {} of its log {} found damaged at the start, {} known to be lost; \
                     the log names them",
                    if places == 1 { "1 place".to_owned() } else { format!("{places} places") },
                    if places == 1 { "was" } else { "were" },
                    match records {
                        0 => "no record is".to_owned(),
                        1 => "1 record is".to_owned(),
                        records => format!("{records} records are"),
                    },
                ));
            }
        }
        ailments
    }

    /// Nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.acute.is_empty() && self.lasting.is_empty()
    }

    /// All sentences, what is acute first.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.acute.iter().chain(&self.lasting)
    }
}

#[cfg(test)]
mod tests {
    use midge_metrics::ShardReading;

    use super::*;

    #[test]
    fn every_condition_has_its_words() {
        let mut well = ShardReading::default();
        well.counters.logs_by_condition_now[LogCondition::Healthy as usize] = 1;
        let mut full = ShardReading::default();
        full.counters.logs_by_condition_now[LogCondition::Full as usize] = 1;
        full.counters.log_damage_now = 2;
        let mut failed = ShardReading::default();
        failed.counters.logs_by_condition_now[LogCondition::Failed as usize] = 1;
        failed.counters.log_damage_now = 1;
        failed.counters.log_records_lost_now = 1;
        assert!(Ailments::of(&Reading { shards: vec![well.clone()] }).is_empty());
        let ailments = Ailments::of(&Reading { shards: vec![well, full, failed] });
        let sentences: Vec<&str> = ailments.iter().map(String::as_str).collect();
        assert_eq!(
            sentences,
            [
                "shard 1: the disk has no room, so what must be kept is not acknowledged",
                "shard 2: the disk has failed, so what must be kept is not acknowledged",
                "shard 1: 2 places of its log were found damaged at the start, no record is known to \
                 be lost; the log names them",
                "shard 2: 1 place of its log was found damaged at the start, 1 record is known to be \
                 lost; the log names them",
            ]
        );
        assert_eq!(ailments.acute.len(), 2);
    }
}
