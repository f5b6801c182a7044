//! What a client is told when a seam refuses it, in the words of MQTT.

use crate::{connection::Refusal, seams::Denied};
use floodplain_mqtt::{ConnackCode, DisconnectCode, PubackCode, SubackCode};
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

    /// MQTT 5.0 §3.4.2.1, §3.5.2.1: there is no code for a server that is busy; a quota is what was exceeded.
    pub(crate) const fn puback(self) -> PubackCode {
        match self {
            Self::BadCredential | Self::NotAuthorized => PubackCode::NotAuthorized,
            Self::Unavailable => PubackCode::ImplementationSpecificError,
            Self::Busy { .. } => PubackCode::QuotaExceeded,
        }
    }

    /// MQTT 5.0 §3.9.3.
    pub(crate) const fn suback(self) -> SubackCode {
        match self {
            Self::BadCredential | Self::NotAuthorized => SubackCode::NotAuthorized,
            Self::Unavailable => SubackCode::ImplementationSpecificError,
            Self::Busy { .. } => SubackCode::QuotaExceeded,
        }
    }

    /// The end of a connection, for want of another answer (MQTT 5.0 §3.14.2.1).
    pub(crate) fn disconnect(self, doing: &str) -> Refusal {
        let code = match self {
            Self::BadCredential | Self::NotAuthorized => DisconnectCode::NotAuthorized,
            Self::Unavailable => DisconnectCode::ImplementationSpecificError,
            Self::Busy { .. } => DisconnectCode::ServerBusy,
        };
        Refusal { code, why: self.words(doing) }
    }

    /// The reason string of an answer to somebody who wanted to do this. Codes have no place for a time, so it is here.
    pub(crate) fn words(self, doing: &str) -> Cow<'static, str> {
        match self {
            Self::BadCredential | Self::NotAuthorized => format!("not authorized to {doing}").into(),
            Self::Unavailable => "who decides cannot be asked, try again later".into(),
            Self::Busy { retry_after } => {
                let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
                format!("try again in {} s", seconds.max(1)).into()
            }
        }
    }

    /// The same where the code says the rest: to who may not connect nothing is explained.
    pub(crate) fn hint(self) -> Option<Cow<'static, str>> {
        match self {
            Self::BadCredential | Self::NotAuthorized => None,
            Self::Unavailable | Self::Busy { .. } => Some(self.words("connect")),
        }
    }
}
