//! Functions on payloads and topics.

use datafusion::{
    arrow::{
        array::{AsArray, BooleanArray, StringArray},
        compute::kernels::length::length,
        datatypes::DataType,
    },
    common::{Result, ScalarValue},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility},
};
use std::sync::Arc;

/// `utf8(payload)`: the bytes as text, NULL where they are not UTF-8.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Utf8 {
    signature: Signature,
    aliases: Vec<String>,
}

impl Utf8 {
    pub(super) fn new() -> Self {
        let signature = Signature::exact(vec![DataType::Binary], Volatility::Immutable);
        Self { signature, aliases: vec!["payload_text".to_owned()] }
    }
}

impl ScalarUDFImpl for Utf8 {
    fn name(&self) -> &'static str {
        "utf8"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        fn text(bytes: &[u8]) -> Option<&str> {
            std::str::from_utf8(bytes).ok()
        }
        match &args.args[0] {
            ColumnarValue::Scalar(ScalarValue::Binary(value)) => {
                let text = value.as_deref().and_then(text).map(str::to_owned);
                Ok(ColumnarValue::Scalar(ScalarValue::Utf8(text)))
            }
            other => {
                let array = other.to_array(args.number_rows)?;
                let texts: StringArray = array.as_binary::<i32>().iter().map(|value| value.and_then(text)).collect();
                Ok(ColumnarValue::Array(Arc::new(texts)))
            }
        }
    }
}

/// `octet_length(payload)`: DataFusion's own takes only text.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct OctetLength {
    signature: Signature,
}

impl OctetLength {
    pub(super) fn new() -> Self {
        let either = vec![TypeSignature::Exact(vec![DataType::Binary]), TypeSignature::Exact(vec![DataType::Utf8])];
        Self { signature: Signature::one_of(either, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for OctetLength {
    fn name(&self) -> &'static str {
        "octet_length"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int32)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let lengths = length(&args.args[0].to_array(args.number_rows)?)?;
        Ok(ColumnarValue::Array(lengths))
    }
}

/// `topic_matches(topic, filter)`: whether an MQTT topic filter matches.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TopicMatches {
    signature: Signature,
}

impl TopicMatches {
    pub(super) fn new() -> Self {
        Self { signature: Signature::exact(vec![DataType::Utf8, DataType::Utf8], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TopicMatches {
    fn name(&self) -> &'static str {
        "topic_matches"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let ColumnarValue::Scalar(ScalarValue::Utf8(Some(filter))) = &args.args[1]
            && let Err(error) = floodplain_types::validate_filter(filter)
        {
            return datafusion::common::exec_err!("{filter:?} is not a topic filter: {error}");
        }
        let topics = args.args[0].to_array(args.number_rows)?;
        let filters = args.args[1].to_array(args.number_rows)?;
        let pairs = topics.as_string::<i32>().iter().zip(filters.as_string::<i32>());
        let matches: BooleanArray =
            pairs.map(|(topic, filter)| Some(floodplain_types::filter_matches(filter?, topic?))).collect();
        Ok(ColumnarValue::Array(Arc::new(matches)))
    }
}
