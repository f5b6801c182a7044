//! What a client is told when a seam refuses it, in the words of MQTT.

use crate::seams::Denied;
use floodplain_mqtt::{ConnackCode, SubackCode};
use std::borrow::Cow;

impl Denied {
    /// MQTT 5.0 §3.2.2.2.
    pub(crate) const fn connack(self) -> ConnackCode {
        match self {
            Self::BadCredential => ConnackCode::BadUserNameOrPassword,
            Self::NotAuthorized => ConnackCode::NotAuthorized,
            Self::Unavailable => ConnackCode::ServerUnavailable,
            Self::Busy { .. } => ConnackCode::ServerBusy,
        }
    }

    /// MQTT 5.0 §3.9.3: there is no code for a server that is busy; a quota is what was exceeded.
    pub(crate) const fn suback(self) -> SubackCode {
        match self {
            Self::BadCredential | Self::NotAuthorized => SubackCode::NotAuthorized,
            Self::Unavailable => SubackCode::ImplementationSpecificError,
            Self::Busy { .. } => SubackCode::QuotaExceeded,
        }
    }

    /// The reason string of an answer to somebody who wanted to do this. Codes have no place for a time, so it is here.
    pub(crate) fn words(self, doing: &str) -> Cow<'static, str> {
        match self {
            Self::BadCredential | Self::NotAuthorized => format!("not authorized to {doing}").into(),
            Self::Unavailable => format!("nobody can say who may {doing}: try again").into(),
            Self::Busy { retry_after } => {
                let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
                format!("try again in {} s", seconds.max(1)).into()
            }
        }
    }

    /// What CONNACK says beside its code: to who may not connect nothing is explained.
    pub(crate) fn hint(self) -> Option<Cow<'static, str>> {
        match self {
            Self::BadCredential | Self::NotAuthorized | Self::Unavailable => None,
            Self::Busy { .. } => Some(self.words("connect")),
        }
    }
}
