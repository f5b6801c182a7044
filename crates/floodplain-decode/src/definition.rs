//! How the payloads of a binding are read: what users write, checked.

use serde::Deserialize;

use crate::{
    document::{Shape, TimeField, VALUE},
    layout::Layout,
    line_protocol::Lines,
    time::TimeUnit,
    value::ColumnType,
};

mod v1;

/// How payloads are read. Comes from TOML or JSON through serde, and is checked on the way: what is here works.
///
/// A key that does not exist is an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "v1::Definition")]
pub struct Definition {
    wire: v1::Definition,
    pub(crate) plan: Plan,
}

/// What is wrong with a definition.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The text is not what the stored form of a definition looks like.
    #[error("stored decoder definition is not readable")]
    Stored(#[from] serde_json::Error),
    /// Another release has written it.
    #[error("stored decoder definition has format {0}, this release reads format 1")]
    Format(u32),
    /// It contradicts itself, or names what does not exist.
    #[error("{0}")]
    Invalid(String),
}

/// A checked definition, as decoders want it.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    Auto(Shape),
    Json(Shape),
    Number(String),
    Text(String),
    Cbor(Shape),
    LineProtocol(Lines),
    Struct(Layout),
}

impl Plan {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Auto(_) => "auto",
            Self::Json(_) => "json",
            Self::Number(_) => "number",
            Self::Text(_) => "text",
            Self::Cbor(_) => "cbor",
            Self::LineProtocol(_) => "line-protocol",
            Self::Struct(_) => "struct",
        }
    }
}

impl Definition {
    /// Decides by the payload; refuses nothing.
    #[must_use]
    pub fn auto() -> Self {
        let wire = v1::Definition::Auto(v1::Auto::default());
        Self::try_from(wire).expect("nothing is declared, so nothing is wrong")
    }

    /// Lines of InfluxDB's line protocol: measurements are tables, tags are key columns, times are nanoseconds unless the
    /// content type says otherwise.
    #[must_use]
    pub fn line_protocol() -> Self {
        let wire = v1::Definition::LineProtocol(v1::Lines::default());
        Self::try_from(wire).expect("nothing is declared, so nothing is wrong")
    }

    /// The name of the decoder: `auto`, `json`, `number`, `text`, `cbor`, `line-protocol` or `struct`.
    #[must_use]
    pub const fn decoder(&self) -> &'static str {
        self.plan.name()
    }

    /// The form that is stored: one line of JSON with a format number. Equal definitions have equal forms.
    #[must_use]
    pub fn to_stored(&self) -> String {
        serde_json::to_string(&v1::Stored { format: 1, definition: self.wire.clone() })
            .expect("names and numbers can be written")
    }

    /// Reads [`Self::to_stored`].
    ///
    /// # Errors
    /// [`DefinitionError`] if it is not that, or from a newer release.
    pub fn from_stored(stored: &str) -> Result<Self, DefinitionError> {
        let v1::Format { format } = serde_json::from_str(stored)?;
        if format != 1 {
            return Err(DefinitionError::Format(format));
        }
        serde_json::from_str::<v1::Stored>(stored)?.definition.try_into()
    }
}

impl Default for Definition {
    fn default() -> Self {
        Self::auto()
    }
}

impl PartialEq for Definition {
    fn eq(&self, other: &Self) -> bool {
        self.wire == other.wire
    }
}

impl TryFrom<v1::Definition> for Definition {
    type Error = DefinitionError;

    fn try_from(wire: v1::Definition) -> Result<Self, DefinitionError> {
        let plan = plan(&wire).map_err(DefinitionError::Invalid)?;
        Ok(Self { wire, plan })
    }
}

fn plan(wire: &v1::Definition) -> Result<Plan, String> {
    Ok(match wire {
        v1::Definition::Auto(auto) => {
            let document = v1::Document { time: auto.time.clone(), keys: auto.keys.clone(), ..Default::default() };
            Plan::Auto(shape(&document)?)
        }
        v1::Definition::Json(document) => Plan::Json(shape(document)?),
        v1::Definition::Cbor(document) => Plan::Cbor(shape(document)?),
        v1::Definition::Number(number) => Plan::Number(number.column.clone().unwrap_or_else(|| VALUE.to_owned())),
        v1::Definition::Text(text) => Plan::Text(text.column.clone().unwrap_or_else(|| VALUE.to_owned())),
        v1::Definition::LineProtocol(lines) => Plan::LineProtocol(Lines {
            precision: lines.precision.as_deref().map_or(Ok(TimeUnit::Nanoseconds), str::parse)?,
            device_tag: lines.device_tag.clone(),
            attributes: lines.attributes.clone(),
        }),
        v1::Definition::Struct(layout) => Plan::Struct(v1::layout(layout)?),
    })
}

fn shape(document: &v1::Document) -> Result<Shape, String> {
    let mut shape = Shape { rows: document.rows.clone(), ..Shape::default() };
    shape.time = time(document.time.as_ref())?;
    if let Some(time) = &document.time {
        shape.special(&time.field).time = true;
    }
    for name in &document.keys {
        shape.special(name).key = true;
    }
    for name in &document.lists {
        shape.special(name).list = true;
    }
    for (name, declared) in &document.types {
        let special = shape.special(name);
        special.declared = Some(match declared.parse()? {
            ColumnType::Bytes | ColumnType::List(_) => {
                return Err(format!(
                    "field {name:?} is declared {declared}: use bool, int64, float64 or text, or lists"
                ));
            }
            scalar => scalar,
        });
    }
    if let Some((name, _)) = shape.specials.iter().find(|(_, special)| special.list && (special.key || special.time)) {
        return Err(format!("field {name:?} is a list: it cannot be a key or the event time"));
    }
    Ok(shape)
}

fn time(wire: Option<&v1::Time>) -> Result<Option<TimeField>, String> {
    wire.map(|time| {
        let unit = time.unit.as_deref().map_or(Ok(TimeUnit::Auto), str::parse)?;
        Ok(TimeField { field: time.field.clone(), unit })
    })
    .transpose()
}
