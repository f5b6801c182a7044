//! Arrow's IPC stream: "IPC Streaming Format" of the Arrow columnar format, 1.5.

use crate::Column;
use datafusion::arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::StreamWriter,
};
use std::{fmt, sync::Arc};

pub(super) struct Writer {
    /// Of what is written: names are unique.
    schema: SchemaRef,
    stream: StreamWriter<Vec<u8>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn start(out: &mut Vec<u8>, schema: &SchemaRef, columns: &[Column]) -> Result<Self, ArrowError> {
        let fields = schema.fields().iter().zip(columns);
        let fields: Vec<_> = fields.map(|(field, column)| field.as_ref().clone().with_name(&column.name)).collect();
        let schema = Arc::new(Schema::new(fields));
        let stream = StreamWriter::try_new(Vec::new(), &schema)?;
        let mut writer = Self { schema, stream };
        writer.hand_on(out);
        Ok(writer)
    }

    pub(super) fn rows(&mut self, out: &mut Vec<u8>, batch: &RecordBatch) -> Result<(), ArrowError> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec())?;
        self.stream.write(&batch)?;
        self.hand_on(out);
        Ok(())
    }

    /// What marks the end: a stream without it was broken off.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        self.stream.finish()?;
        self.hand_on(out);
        Ok(())
    }

    fn hand_on(&mut self, out: &mut Vec<u8>) {
        out.append(self.stream.get_mut());
    }
}
