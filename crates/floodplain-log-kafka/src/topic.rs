//! Names and settings of topics.

use crate::config::KafkaConfig;
use floodplain_types::StreamId;

/// The topic that names all streams in the order of their creation; see `docs/formats/kafka-streams.md`.
pub(crate) const STREAMS: &str = "_floodplain.streams";

/// The topic whose partitions are slots. Nobody writes to it.
pub(crate) const SLOTS: &str = "_floodplain.slots";

/// `<tenant>.<stream>`, with `.g<n>` behind it from generation 1 on, which is the second: `.g2`.
pub(crate) fn name(prefix: &str, id: &StreamId) -> String {
    let mut name = format!("{prefix}{}.{}", id.tenant, id.stream);
    if id.generation > 0 {
        name.push_str(&format!(".g{}", u64::from(id.generation) + 1));
    }
    name
}

/// The stream of definitions: bindings, schemas, rules.
const DEFINITIONS: &str = "state";

/// Settings of a stream's topic. Messages and what is derived of them have their time; definitions are kept, because a server
/// that is new to the log learns them from the first one on.
pub(crate) fn stream_settings(config: &KafkaConfig, id: &StreamId) -> Vec<(&'static str, String)> {
    if id.stream.as_str() == DEFINITIONS {
        return streams_settings(config);
    }
    let retention = config.retention.map_or(-1, |keep| i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
    let mut settings = shared(config);
    settings.extend([("cleanup.policy", "delete".to_owned()), ("retention.ms", retention.to_string())]);
    settings
}

/// Settings of [`STREAMS`]: it forgets nothing. Compaction would keep the last record of a key, and the first counts.
pub(crate) fn streams_settings(config: &KafkaConfig) -> Vec<(&'static str, String)> {
    let mut settings = shared(config);
    let never = || "-1".to_owned();
    settings.extend([("cleanup.policy", "delete".to_owned()), ("retention.ms", never()), ("retention.bytes", never())]);
    settings
}

/// Settings of [`SLOTS`].
pub(crate) fn slots_settings(config: &KafkaConfig) -> Vec<(&'static str, String)> {
    let mut settings = shared(config);
    settings.push(("cleanup.policy", "delete".to_owned()));
    settings
}

fn shared(config: &KafkaConfig) -> Vec<(&'static str, String)> {
    vec![
        ("min.insync.replicas", config.min_insync_replicas.to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("max.message.bytes", config.max_message_bytes.to_string()),
        ("message.timestamp.type", "CreateTime".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_types::{StreamName, TenantId};
    use std::time::Duration;

    #[test]
    fn definitions_are_kept_and_messages_have_their_time() {
        let config = KafkaConfig { retention: Some(Duration::from_secs(60)), ..KafkaConfig::new(["127.0.0.1:9092"]) };
        let keeps = |name| {
            let id =
                StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new(name).unwrap(), generation: 0 };
            let settings = stream_settings(&config, &id);
            settings.into_iter().find_map(|(key, value)| (key == "retention.ms").then_some(value)).unwrap()
        };
        assert_eq!((keeps("telemetry"), keeps("state")), ("60000".to_owned(), "-1".to_owned()));
    }

    #[test]
    fn the_first_generation_has_the_bare_name() {
        let id = |generation| StreamId {
            tenant: TenantId::new("acme").unwrap(),
            stream: StreamName::new("telemetry").unwrap(),
            generation,
        };
        assert_eq!(name("", &id(0)), "acme.telemetry");
        assert_eq!(name("", &id(1)), "acme.telemetry.g2");
        assert_eq!(name("site-", &id(2)), "site-acme.telemetry.g3");
    }
}
