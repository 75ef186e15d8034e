//! From the configuration to what each shard's mind is told, at the start and at a reload.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use midge_codec::QoS;
use midge_config::{BanRule, Durability, DurabilityLevel, Listener};
use midge_services::{ListenerCounter, ListenerNumbers};
use midge_session::{Keeping, Limits, QueueLimits};
use midge_shard::{
    Crowd, Levels, ListenerCounts, ListenerId, ListenerMeters, ListenerProtection, NamePatterns,
    OutboxLimits, Penalty, Protection, Quota, Rates, RetainedQuota, Security,
};

use crate::{broker::Broker, settings::Settings};

/// What stays the same for the life of the process.
#[derive(Debug)]
pub(crate) struct Minds {
    /// Unpredictable from outside, which is all that assigned client ids and hash tables need.
    seeds: RandomState,
    /// Made when a limit first needs it, and kept from then on, because connections count there.
    crowd: OnceLock<Arc<Crowd>>,
    /// Likewise, because shards have booked there.
    meters: Arc<OnceLock<Arc<ListenerMeters>>>,
    /// By listener: whether retained messages, and their bytes, have a limit now.
    retained: Arc<RwLock<Vec<[bool; 2]>>>,
    /// Where the admin endpoint shows them.
    listener_counts: Option<Arc<ListenerCounts>>,
}

impl Minds {
    pub(crate) fn new(counts_listeners: bool) -> Self {
        let listener_counts = counts_listeners.then(Arc::default);
        Self {
            seeds: RandomState::new(),
            crowd: OnceLock::new(),
            meters: Arc::default(),
            retained: Arc::default(),
            listener_counts,
        }
    }

    /// What has come by each listener, by number.
    pub(crate) fn listener_counter(&self) -> ListenerCounter {
        let counts = self.listener_counts.clone();
        let (meters, retained) = (Arc::clone(&self.meters), Arc::clone(&self.retained));
        ListenerCounter(Arc::new(move |number| {
            let counts = counts.as_ref().map(|counts| counts.of(ListenerId(number)));
            let counts = counts.unwrap_or_default();
            let limits = retained.read().unwrap_or_else(PoisonError::into_inner);
            let limit = limits.get(usize::from(number)).copied().unwrap_or_default();
            let stock = meters.get().map(|meters| meters.retained_of(ListenerId(number)));
            let [messages, bytes] = stock.unwrap_or_default();
            ListenerNumbers {
                retained_messages: limit[0].then_some(messages),
                retained_bytes: limit[1].then_some(bytes),
                retained_refused: counts.retained_refused,
                connections: counts.connections,
                accepted: counts.accepted,
                refused: counts.refused,
                connects_refused: counts.connects_refused,
                publishers_paced: counts.publishers_paced,
            }
        }))
    }

    /// `listeners` are by number, also those that are closed: their clients may still be there.
    pub(crate) fn settings(
        &self,
        settings: &Settings,
        security: &Security,
        listeners: &[&Listener],
    ) -> midge_shard::Settings {
        let limits = &settings.config().limits;
        let performance = &settings.config().performance;
        midge_shard::Settings {
            levels: levels(&settings.config().durability, listeners),
            limits: Limits {
                maximum_packet_size: narrow(limits.maximum_packet_size_bytes.bytes()),
                maximum_qos: QoS::from_u8(limits.maximum_qos).unwrap_or(QoS::ExactlyOnce),
                retain_available: limits.retain_available,
                wildcard_subscription_available: limits.wildcard_subscription_available,
                subscription_identifiers_available: limits.subscription_identifiers_available,
                shared_subscription_available: limits.shared_subscription_available,
                receive_maximum: limits.receive_maximum,
                topic_alias_maximum: limits.topic_alias_maximum,
                topic_alias_maximum_outbound: limits.topic_alias_maximum_outbound,
                keep_alive_seconds_max: limits.keep_alive_seconds_max,
                session_expiry_interval_seconds_max: limits
                    .session_expiry_interval_max
                    .session_expiry_interval_seconds(),
                session_expiry_interval_seconds_v3: limits
                    .session_expiry_v3
                    .session_expiry_interval_seconds(),
                in_flight_max: limits.inflight_messages_max,
                client_id_size_max: limits.client_id_size_max.into(),
            },
            topic_limits: Broker::topic_limits(settings),
            queue: QueueLimits {
                messages_max: wide(limits.queued_messages_max),
                bytes_max: size(limits.queued_bytes_max.bytes()),
            },
            queued_bytes_max: size(settings.queued_bytes_per_shard_max.bytes()),
            queued_in_memory_max: size(settings.queued_in_memory_per_shard_max.bytes()),
            queued_memory_max: size(settings.config().durability.queued_memory_max.bytes()),
            queue_qos0: limits.queue_qos0_messages,
            output_bytes_max: size(limits.output_bytes_max.bytes()),
            subscriptions_per_client_max: wide(limits.subscriptions_per_client_max),
            connect_timeout_ms: u64::try_from(limits.connect_timeout.duration().as_millis())
                .unwrap_or(u64::MAX),
            connections_max: match limits.connections_max {
                0 => usize::MAX,
                total => part(total, settings),
            },
            sessions_max: match limits.sessions_max {
                0 => usize::MAX,
                total => part(total, settings),
            },
            retained_messages_max: wide(settings.retained_messages_per_shard_max()),
            retained_bytes_max: size(settings.retained_bytes_per_shard_max().bytes()),
            share_backlog_messages_max: wide(limits.shared_backlog_messages_max),
            outbox: OutboxLimits {
                bytes_max: size(performance.outbox_bytes_max.bytes()),
                envelopes_max: wide(performance.outbox_envelopes_max),
            },
            security: security.clone(),
            recheck_retained: settings.config().security.recheck_retained,
            audit: settings.config().audit.file.is_some(),
            protection: self.protection(settings, listeners),
            client_id_seed: self.seeds.hash_one("client ids"),
        }
    }

    fn protection(&self, settings: &Settings, listeners: &[&Listener]) -> Protection {
        let (limits, security) = (&settings.config().limits, &settings.config().security);
        let mut protection = Protection {
            rates: Rates {
                publishes_per_second: limits.publishes_per_second_max,
                bytes_per_second: limits.publish_bytes_per_second_max.bytes(),
            },
            connections_per_address_max: limits.connections_per_address_max,
            connects_per_address: per_second(limits.connects_per_address_per_second_max),
            failed_logins: penalty(&security.failed_logins),
            flapping: penalty(&security.flapping),
            handshakes_max: match limits.handshakes_max {
                0 => 0,
                total => part(total, settings),
            },
            listeners: (0..).zip(listeners).map(|(number, one)| own(number, one)).collect(),
            client_ids: NamePatterns::new(security.client_ids.iter().map(String::as_str)),
            user_names: NamePatterns::new(security.user_names.iter().map(String::as_str)),
            crowd: None,
            meters: None,
            listener_counts: self.listener_counts.clone(),
        };
        // A broker of which nothing of the kind is asked pays for nothing.
        if protection.listeners.iter().all(|one| *one == ListenerProtection::default()) {
            protection.listeners.clear();
        }
        let limits_listeners =
            |one: &ListenerProtection| one.connections_max > 0 || one.connects.is_some();
        if protection.connections_per_address_max > 0
            || protection.connects_per_address.is_some()
            || protection.failed_logins.is_some()
            || protection.listeners.iter().any(limits_listeners)
        {
            let seeds = [1, 2, 3, 4].map(|number: u64| self.seeds.hash_one(("crowd", number)));
            self.crowd.get_or_init(|| Arc::new(Crowd::new(seeds)));
        }
        // Also when nothing needs it any more: those that were counted leave.
        protection.crowd = self.crowd.get().cloned();
        let limit = |one: &ListenerProtection| {
            let quota = one.retained.as_ref();
            quota.map_or([false; 2], |quota| [quota.messages_max > 0, quota.bytes_max > 0])
        };
        *self.retained.write().unwrap_or_else(PoisonError::into_inner) =
            protection.listeners.iter().map(limit).collect();
        let together =
            |one: &ListenerProtection| one.rates_together.is_bounded() || one.retained.is_some();
        if protection.listeners.iter().any(together) {
            protection.meters = Some(Arc::clone(self.meters.get_or_init(Arc::default)));
        }
        protection
    }
}

/// Clients are spread by hash, so a shard may have a quarter more than its equal part (and a few, where that is little).
fn part(total: u32, settings: &Settings) -> usize {
    let equal = wide(total.div_ceil(u32::from(settings.shards)));
    (equal + equal / 4 + 16).min(wide(total))
}

fn per_second(count: u32) -> Option<Quota> {
    (count > 0).then_some(Quota { count, period_ms: 1000 })
}

fn penalty(rule: &BanRule) -> Option<Penalty> {
    let ms = |period: midge_config::Period| {
        u64::try_from(period.duration().as_millis()).unwrap_or(u64::MAX)
    };
    let quota = Quota { count: rule.count, period_ms: ms(rule.within) };
    (rule.count > 0).then_some(Penalty { quota, ban_ms: ms(rule.ban_for) })
}

fn own(number: u16, listener: &Listener) -> ListenerProtection {
    let limits = &listener.limits;
    let retained = RetainedQuota {
        listener: ListenerId(number),
        label: listener.label().into(),
        messages_max: limits.retained_messages_max.into(),
        bytes_max: limits.retained_bytes_max.bytes(),
    };
    ListenerProtection {
        is_behind_proxy: listener.proxy_protocol.is_some()
            || !listener.websocket.trusted_proxies.is_empty(),
        connections_max: limits.connections_max,
        connects: per_second(limits.connects_per_second_max),
        rates: Rates {
            publishes_per_second: limits.publishes_per_second_max,
            bytes_per_second: limits.publish_bytes_per_second_max.bytes(),
        },
        rates_together: Rates {
            publishes_per_second: limits.publishes_per_second_total_max,
            bytes_per_second: limits.publish_bytes_per_second_total_max.bytes(),
        },
        maximum_packet_size: narrow(limits.maximum_packet_size_bytes.bytes()),
        subscriptions_per_client_max: wide(limits.subscriptions_per_client_max),
        topic_levels_max: limits.topic_levels_max,
        retained: (retained.messages_max > 0 || retained.bytes_max > 0).then(|| Arc::new(retained)),
    }
}

/// The configuration's validation has checked the range.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn wide(value: u32) -> usize {
    value as usize
}

/// Who is acknowledged when; `listeners` are by number.
fn levels(durability: &Durability, listeners: &[&Listener]) -> Levels {
    let keeping = |level| match level {
        DurabilityLevel::Fsync => Keeping::Fsync,
        DurabilityLevel::Written => Keeping::Written,
        DurabilityLevel::Memory => Keeping::Memory,
    };
    let default = durability.acknowledge_after;
    let listeners = listeners.iter().map(|one| one.acknowledge_after);
    let topics = durability.topics.iter();
    Levels::new(
        keeping(default),
        listeners.map(|own| keeping(own.unwrap_or(default))).collect(),
        topics.map(|one| (one.prefix.as_str().into(), keeping(one.acknowledge_after))).collect(),
    )
}
