//! Documents of a tenant in the stream `state`: each is the value of the newest record of its key that follows the one before.

use floodplain_fold::{
    Fold, Input, Outputs, RestoreError,
    wire::{Get, Put, WireError},
};
use std::{fmt, sync::Arc};

/// A document.
pub trait Document: fmt::Debug + Default + Send + Sync {
    /// Key of its records, and name of its snapshots.
    const KEY: &'static str;

    /// Reads the value of a record; `None` if it is none of this document, or of a newer release.
    fn decode(value: &[u8]) -> Option<Self>;

    /// The value of a record.
    fn encode(&self) -> Vec<u8>;

    /// Greater by one with each document; 0 while there is none.
    fn version(&self) -> u32;
}

/// The newest document. One applies only if its version is the next: of two that were proposed at once the first that
/// was committed wins, and one that was appended twice applies once.
#[derive(Debug, Default)]
pub struct DocumentFold<D> {
    document: Arc<D>,
    value: Box<[u8]>,
    refused: u64,
}

impl<D: Document> DocumentFold<D> {
    /// The document.
    #[must_use]
    pub const fn document(&self) -> &Arc<D> {
        &self.document
    }

    /// How many records of the key did not apply.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Folds a record; returns whether it applied. Records of other keys change nothing.
    pub fn apply_record(&mut self, key: &[u8], value: &[u8]) -> bool {
        if key != D::KEY.as_bytes() {
            return false;
        }
        let next = D::decode(value).filter(|next| Some(next.version()) == self.document.version().checked_add(1));
        let applies = next.is_some();
        match next {
            Some(next) => (self.document, self.value) = (Arc::new(next), value.into()),
            None => self.refused += 1,
        }
        applies
    }
}

impl<D: Document> Fold for DocumentFold<D> {
    const NAME: &'static str = D::KEY;
    const FORMAT: u16 = 1;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        self.apply_record(input.record.key.unwrap_or_default(), input.record.value.unwrap_or_default());
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.refused);
        out.put_bytes(&self.value);
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if format != Self::FORMAT {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        let mut get = Get::new(bytes);
        let (refused, value) = (get.u64()?, get.bytes()?);
        let document = match value {
            [] => D::default(),
            value => D::decode(value).ok_or(WireError::Invalid("document"))?,
        };
        *self = Self { document: Arc::new(document), value: value.into(), refused };
        get.end()?;
        Ok(())
    }
}
