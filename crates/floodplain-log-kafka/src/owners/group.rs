//! The membership of the lease group, as a fence of transactions.

use rdkafka::ClientContext;
use rdkafka::{
    TopicPartitionList,
    bindings::{
        rd_kafka_consumer_group_metadata, rd_kafka_consumer_group_metadata_destroy,
        rd_kafka_consumer_group_metadata_generation_id, rd_kafka_consumer_group_metadata_member_id,
        rd_kafka_consumer_group_metadata_t, rd_kafka_error_code, rd_kafka_error_destroy, rd_kafka_error_is_fatal,
        rd_kafka_error_is_retriable, rd_kafka_error_txn_requires_abort, rd_kafka_send_offsets_to_transaction,
    },
    client::Client,
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{ffi::CStr, fmt, ptr::NonNull, time::Duration};

/// What an error of a transaction allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TxnError {
    pub(crate) code: RDKafkaErrorCode,
    /// The producer is of no use any more.
    pub(crate) is_fatal: bool,
    /// The call may be repeated.
    pub(crate) is_retriable: bool,
    pub(crate) requires_abort: bool,
}

impl fmt::Display for TxnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)
    }
}

impl TxnError {
    pub(crate) fn of(error: &KafkaError) -> Self {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        match error {
            KafkaError::Transaction(error) => Self {
                code,
                is_fatal: error.is_fatal(),
                is_retriable: error.is_retriable(),
                requires_abort: error.txn_requires_abort(),
            },
            _ => Self { code, is_fatal: code == RDKafkaErrorCode::Fatal, is_retriable: false, requires_abort: false },
        }
    }

    /// Somebody has started a producer with the same transactional id, or the coordinator has ended the transaction.
    pub(crate) fn is_producer_fenced(self) -> bool {
        matches!(
            self.code,
            RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch
        )
    }

    /// We are no member of the group any more.
    pub(crate) fn is_not_member(self) -> bool {
        matches!(self.code, RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::FencedInstanceId)
    }
}

/// Group, generation and member id at one moment.
///
/// `rdkafka` gives it without a way to look inside, and that must be done: brokers check no membership at all where the
/// member id is empty and the generation is -1, which is what a consumer says of itself while it is no member.
pub(crate) struct Membership(NonNull<rd_kafka_consumer_group_metadata_t>);

#[expect(unsafe_code, reason = "a pointer is not sent by itself")]
// SAFETY: the memory is ours alone, and librdkafka ties it to no thread.
unsafe impl Send for Membership {}

impl Membership {
    /// That of a consumer, if it is a member now. Asks the thread of the client, no broker.
    #[expect(unsafe_code, reason = "rdkafka does not say generation and member id")]
    pub(crate) fn of<C: ClientContext>(consumer: &Client<C>) -> Option<Self> {
        // SAFETY: the client is alive for the whole call; what is given belongs to us, and is destroyed when dropped.
        let metadata = unsafe { rd_kafka_consumer_group_metadata(consumer.native_ptr()) };
        let membership = Self(NonNull::new(metadata)?);
        // SAFETY: the metadata is alive, and its text with it; librdkafka ends it with a zero byte.
        let (generation, member_id) = unsafe {
            let member_id = rd_kafka_consumer_group_metadata_member_id(metadata);
            (
                rd_kafka_consumer_group_metadata_generation_id(metadata),
                if member_id.is_null() { c"" } else { CStr::from_ptr(member_id) },
            )
        };
        (generation >= 0 && !member_id.is_empty()).then_some(membership)
    }

    /// Makes `offsets` part of the transaction of `producer`, if the broker still knows this membership.
    #[expect(unsafe_code, reason = "rdkafka takes no metadata but its own")]
    pub(crate) fn send_offsets<C: ClientContext>(
        &self,
        producer: &Client<C>,
        offsets: &TopicPartitionList,
        timeout: Duration,
    ) -> Result<(), TxnError> {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: producer, offsets and metadata are alive for the whole call, which keeps copies of what it needs later.
        let error = unsafe {
            let (producer, offsets) = (producer.native_ptr(), offsets.ptr());
            rd_kafka_send_offsets_to_transaction(producer, offsets, self.0.as_ptr(), timeout_ms)
        };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: the error is not null and is ours; it is not used after it is destroyed.
        Err(unsafe {
            let found = TxnError {
                code: rd_kafka_error_code(error).into(),
                is_fatal: rd_kafka_error_is_fatal(error) != 0,
                is_retriable: rd_kafka_error_is_retriable(error) != 0,
                requires_abort: rd_kafka_error_txn_requires_abort(error) != 0,
            };
            rd_kafka_error_destroy(error);
            found
        })
    }
}

impl Drop for Membership {
    #[expect(unsafe_code, reason = "librdkafka's own memory")]
    fn drop(&mut self) {
        // SAFETY: it came from librdkafka, and nobody else has it.
        unsafe { rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Membership")
    }
}
