//! What a cluster is, as far as it decides what an acknowledgement means.

use crate::{admin::block_on, config::KafkaConfig, kafka::OpenError, metrics::Context, topic};
use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier},
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
};
use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

/// Brokers, and the topics of an installation.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub brokers: Vec<Broker>,
    /// Those that there are; they are created when a server first starts.
    pub topics: Vec<Topic>,
    /// Whether eligible leader replicas (KIP-966) are on; `None` where that could not be asked.
    pub eligible_leader_replicas: Option<bool>,
}

/// One broker.
#[derive(Debug, Clone)]
pub struct Broker {
    pub id: i32,
    pub address: String,
    /// `broker.rack`.
    pub rack: Option<String>,
}

/// One topic.
#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    /// The fewest copies, and the fewest that are in sync, of any partition.
    pub replicas: usize,
    pub in_sync: usize,
    /// `min.insync.replicas`.
    pub min_insync_replicas: u64,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election: bool,
    /// `flush.messages`: after so many a broker syncs.
    pub flush_messages: u64,
}

/// Asks the cluster. Blocks.
///
/// # Errors
/// [`OpenError`].
pub fn inspect(config: &KafkaConfig) -> Result<Cluster, OpenError> {
    let failed = |what| {
        move |source: rdkafka::error::KafkaError| OpenError::Cluster {
            what,
            servers: config.bootstrap_servers.join(","),
            source: source.into(),
        }
    };
    let client = config.client("doctor").map_err(OpenError::Client)?;
    let lookup: BaseConsumer<Context> =
        BaseConsumer::from_config_and_context(&client, Context::new("doctor")).map_err(failed("start a client"))?;
    let admin: AdminClient<Context> =
        AdminClient::from_config_and_context(&client, Context::new("doctor")).map_err(failed("start a client"))?;
    let metadata = lookup.fetch_metadata(None, config.request_timeout).map_err(failed("ask for brokers and topics"))?;
    let is_ours = |name: &str| {
        let rest = name.strip_prefix(&*config.topic_prefix);
        rest.is_some_and(|rest| rest.starts_with("default.") || rest == topic::STREAMS || rest == topic::SLOTS)
    };
    let topics: Vec<_> = metadata.topics().iter().filter(|topic| is_ours(topic.name())).collect();
    // Each broker answers for itself alone.
    let brokers = metadata.brokers().iter().map(|broker| vec![ResourceSpecifier::Broker(broker.id())]);
    let of_topics = topics.iter().map(|topic| ResourceSpecifier::Topic(topic.name())).collect();
    let options = AdminOptions::new().request_timeout(Some(config.request_timeout));
    let mut settings: Vec<ConfigResource> = Vec::new();
    for asked in brokers.chain([of_topics]).filter(|asked: &Vec<_>| !asked.is_empty()) {
        let described = block_on(admin.describe_configs(&asked, &options)).map_err(failed("ask for settings"))?;
        settings.extend(described.into_iter().flatten());
    }
    let of = |wanted: &OwnedResourceSpecifier| -> BTreeMap<&str, &str> {
        let entries = settings.iter().filter(|resource| resource.specifier == *wanted).flat_map(|found| &found.entries);
        entries.filter_map(|entry| Some((&*entry.name, entry.value.as_deref()?))).collect()
    };
    let brokers: Vec<Broker> = metadata
        .brokers()
        .iter()
        .map(|broker| {
            let settings = of(&OwnedResourceSpecifier::Broker(broker.id()));
            let rack = settings.get("broker.rack").filter(|rack| !rack.is_empty()).map(|rack| (*rack).to_owned());
            Broker { id: broker.id(), address: format!("{}:{}", broker.host(), broker.port()), rack }
        })
        .collect();
    let topics = topics.iter().map(|topic| {
        let settings = of(&OwnedResourceSpecifier::Topic(topic.name().to_owned()));
        let number = |name: &str, default| settings.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        Topic {
            name: topic.name().to_owned(),
            replicas: topic.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
            in_sync: topic.partitions().iter().map(|partition| partition.isr().len()).min().unwrap_or(0),
            min_insync_replicas: number("min.insync.replicas", 1),
            unclean_leader_election: settings.get("unclean.leader.election.enable") == Some(&"true"),
            flush_messages: number("flush.messages", u64::MAX),
        }
    });
    let topics = topics.collect();
    // librdkafka has no call for it, and the question is asked without encryption here.
    let is_plain = config.security.tls.is_none() && config.security.sasl.is_none();
    let eligible_leader_replicas = brokers.first().filter(|_| is_plain).and_then(|broker| {
        let features = finalized_features(&broker.address, config.request_timeout);
        features.ok().map(|features| features.get(ELIGIBLE_LEADER_REPLICAS).is_some_and(|level| *level > 0))
    });
    Ok(Cluster { brokers, topics, eligible_leader_replicas })
}

/// The feature of KIP-966, as brokers call it.
const ELIGIBLE_LEADER_REPLICAS: &str = "eligible.leader.replicas.version";

/// The features that a cluster has switched on, with their levels: part of the answer to ApiVersions, version 3 (KIP-584).
fn finalized_features(address: &str, timeout: Duration) -> io::Result<BTreeMap<String, i16>> {
    const API_VERSIONS: i16 = 18;
    const ANSWER_BYTES_MAX: u32 = 64 << 10;
    let resolved = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&resolved, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut request = Vec::new();
    request.extend(API_VERSIONS.to_be_bytes());
    request.extend(3_i16.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    // No client id, no tagged fields of the header; then name and version of the program, and no tagged fields.
    request.extend((-1_i16).to_be_bytes());
    request.push(0);
    for text in ["floodplain", env!("CARGO_PKG_VERSION")] {
        request.push(text.len() as u8 + 1);
        request.extend(text.as_bytes());
    }
    request.push(0);
    stream.write_all(&[&(request.len() as u32).to_be_bytes()[..], &request].concat())?;
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len);
    if len > ANSWER_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; len as usize];
    stream.read_exact(&mut answer)?;
    Answer(&answer).finalized_features().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The answer to ApiVersions, from its correlation id on.
struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// An unsigned varint.
    fn varint(&mut self) -> Option<usize> {
        let mut value = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A length of the compact forms: one more than it is.
    fn len(&mut self) -> Option<usize> {
        self.varint()?.checked_sub(1)
    }

    fn skip_tags(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let len = self.varint()?;
            self.take(len)?;
        }
        Some(())
    }

    fn finalized_features(&mut self) -> Option<BTreeMap<String, i16>> {
        const FINALIZED_FEATURES: usize = 2;
        self.take(4)?;
        if self.i16()? != 0 {
            return None;
        }
        for _ in 0..self.len()? {
            self.take(6)?;
            self.skip_tags()?;
        }
        // Throttle time.
        self.take(4)?;
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let len = self.varint()?;
            let mut field = Answer(self.take(len)?);
            if tag == FINALIZED_FEATURES {
                return field.features();
            }
        }
        Some(BTreeMap::new())
    }

    fn features(&mut self) -> Option<BTreeMap<String, i16>> {
        let mut features = BTreeMap::new();
        for _ in 0..self.len()? {
            let len = self.len()?;
            let name = std::str::from_utf8(self.take(len)?).ok()?.to_owned();
            let max = self.i16()?;
            self.i16()?;
            self.skip_tags()?;
            features.insert(name, max);
        }
        Some(features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_an_answer_or_none() {
        let whole =
            [&[0, 0, 0, 1, 0, 0, 2, 0, 18, 0, 0, 0, 4, 0, 0, 0, 0, 0, 1, 2, 10, 2, 4][..], b"elr", &[0, 1, 0, 1, 0]];
        let whole = whole.concat();
        assert_eq!(Answer(&whole).finalized_features().unwrap(), BTreeMap::from([("elr".to_owned(), 1)]));
        for cut in 0..whole.len() {
            assert_eq!(Answer(&whole[..cut]).finalized_features(), None, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            drop(Answer(&damaged).finalized_features());
        }
    }
}
