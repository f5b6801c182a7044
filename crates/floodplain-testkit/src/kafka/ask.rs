//! The few questions that the harness asks a broker, in Kafka's own protocol: no client library, which may retry, cache
//! and wait, stands between it and the answer.

use super::{
    NodeId,
    error::{Error, Result},
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A broker on loopback that lives answers in milliseconds; a frozen one never.
const TIMEOUT: Duration = Duration::from_secs(2);
const METADATA: i16 = 3;
const DESCRIBE_QUORUM: i16 = 55;
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What a cluster says of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaPartition {
    /// `None` while no replica may lead.
    pub leader: Option<NodeId>,
    /// All that should have its records, in the order of preference.
    pub replicas: Vec<NodeId>,
    /// Those that have all its records.
    pub in_sync: Vec<NodeId>,
}

/// The brokers that live, as this one knows it, by number.
pub(super) fn live_brokers(broker: SocketAddr) -> Result<Vec<NodeId>> {
    // No topics.
    let mut answer = Answer::to("Metadata", broker, METADATA, 1, &0_i32.to_be_bytes())?;
    answer.brokers()
}

/// The partitions of a topic.
pub(super) fn topic(broker: SocketAddr, name: &str) -> Result<Vec<KafkaPartition>> {
    let mut question = 1_i32.to_be_bytes().to_vec();
    question.extend_from_slice(&(name.len() as i16).to_be_bytes());
    question.extend_from_slice(name.as_bytes());
    let mut answer = Answer::to("Metadata", broker, METADATA, 1, &question)?;
    answer.brokers()?;
    answer.i32()?; // the controller: in KRaft just any broker
    let (_one_topic, error) = (answer.i32()?, answer.i16()?);
    if error != 0 {
        return Err(answer.wrong(format!("error {error} for topic {name}")));
    }
    answer.string()?;
    answer.take(1)?; // whether it is internal
    let mut partitions = Vec::new();
    for _ in 0..answer.i32()? {
        answer.i16()?; // 5, 9: no leader, or not all replicas, which the lists say too
        let (idx, leader) = (answer.i32()?, answer.i32()?);
        let leader = (leader >= 0).then_some(NodeId(leader));
        partitions.push((idx, KafkaPartition { leader, replicas: answer.ids()?, in_sync: answer.ids()? }));
    }
    partitions.sort_by_key(|(idx, _)| *idx);
    Ok(partitions.into_iter().map(|(_, partition)| partition).collect())
}

/// The node that leads the controllers.
pub(super) fn controller(broker: SocketAddr) -> Result<NodeId> {
    // A flexible version: lengths are varints, one more than there is, and zeros end what could have tagged fields.
    let mut question = vec![0, 2];
    question.push(b"__cluster_metadata".len() as u8 + 1);
    question.extend_from_slice(b"__cluster_metadata");
    question.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    let mut answer = Answer::to("DescribeQuorum", broker, DESCRIBE_QUORUM, 0, &question)?;
    answer.take(1)?; // tags of the header
    let error = answer.i16()?;
    if error != 0 {
        return Err(answer.wrong(format!("error {error}")));
    }
    answer.take(1)?; // one topic
    let name_length = answer.take(1)?[0];
    answer.take(usize::from(name_length).saturating_sub(1))?;
    answer.take(1)?; // one partition
    answer.i32()?; // which is number 0
    let (error, leader) = (answer.i16()?, answer.i32()?);
    if error != 0 || leader < 0 {
        return Err(answer.wrong(format!("error {error}, leader {leader}")));
    }
    Ok(NodeId(leader))
}

/// What is still to be read of an answer.
struct Answer {
    question: &'static str,
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    /// Asks, and reads the answer up to its correlation id.
    fn to(question: &'static str, broker: SocketAddr, key: i16, version: i16, body: &[u8]) -> Result<Self> {
        let failed = || Error::what(format!("ask {broker} for {question}"));
        let client = b"floodplain-testkit";
        let mut request = Vec::new();
        request.extend_from_slice(&key.to_be_bytes());
        request.extend_from_slice(&version.to_be_bytes());
        request.extend_from_slice(&1_i32.to_be_bytes());
        request.extend_from_slice(&(client.len() as i16).to_be_bytes());
        request.extend_from_slice(client);
        request.extend_from_slice(body);
        let mut socket = TcpStream::connect_timeout(&broker, TIMEOUT).map_err(failed())?;
        socket.set_read_timeout(Some(TIMEOUT)).map_err(failed())?;
        socket.set_write_timeout(Some(TIMEOUT)).map_err(failed())?;
        let length = (request.len() as i32).to_be_bytes();
        socket.write_all(&[&length, &request[..]].concat()).map_err(failed())?;
        let mut length = [0; 4];
        socket.read_exact(&mut length).map_err(failed())?;
        let length = u32::from_be_bytes(length) as usize;
        let mut answer = Self { question, bytes: Vec::new(), at: 0 };
        if length > ANSWER_BYTES_MAX {
            return Err(answer.wrong(format!("{length} bytes")));
        }
        answer.bytes = vec![0; length];
        socket.read_exact(&mut answer.bytes).map_err(failed())?;
        match answer.i32()? {
            1 => Ok(answer),
            other => Err(answer.wrong(format!("correlation id {other}"))),
        }
    }

    fn wrong(&self, answer: String) -> Error {
        Error::Answer { question: self.question, answer }
    }

    fn take(&mut self, length: usize) -> Result<&[u8]> {
        let range = self.at..self.at.saturating_add(length);
        self.at = range.end;
        let (question, total) = (self.question, self.bytes.len());
        let short = || Error::Answer { question, answer: format!("ends after {total} bytes") };
        self.bytes.get(range).ok_or_else(short)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(self.take(2)?.iter().fold(0, |value, byte| value << 8 | i16::from(*byte)))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(self.take(4)?.iter().fold(0, |value, byte| value << 8 | i32::from(*byte)))
    }

    fn string(&mut self) -> Result<()> {
        let length = self.i16()?;
        self.take(usize::try_from(length).unwrap_or_default()).map(drop)
    }

    fn ids(&mut self) -> Result<Vec<NodeId>> {
        (0..self.i32()?).map(|_| self.i32().map(NodeId)).collect()
    }

    fn brokers(&mut self) -> Result<Vec<NodeId>> {
        let mut ids = Vec::new();
        for _ in 0..self.i32()? {
            ids.push(NodeId(self.i32()?));
            self.string()?; // host
            self.i32()?; // port
            self.string()?; // rack
        }
        ids.sort();
        Ok(ids)
    }
}
