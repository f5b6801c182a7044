//! Reason codes: one enum per set of packets, because each packet allows only its own
//! [MQTT-3.2.2-8], [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.9.3-2], [MQTT-3.11.3-2], [MQTT-3.14.2-1].

use std::fmt;

use crate::QoS;

/// A reason code of any packet.
pub trait ReasonCode: Copy + Eq + fmt::Debug + fmt::Display + 'static {
    /// The code of an answer that needs no words, and the one a short form stands for.
    const SUCCESS: Self;
    /// The code for the byte on the wire, if this packet allows it.
    fn from_value(value: u8) -> Option<Self>;
    /// The byte on the wire.
    fn value(self) -> u8;
    /// Whether the code says that the operation failed: 0x80 or greater (§2.4).
    fn is_failure(self) -> bool {
        self.value() >= 0x80
    }
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident, success $success:ident { $($value:literal $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $(#[doc = $text] $variant = $value,)*
        }

        impl $name {
            /// Every code, in the order of its value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
        }

        impl ReasonCode for $name {
            const SUCCESS: Self = Self::$success;
            fn from_value(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$variant),)*
                    _ => None,
                }
            }
            fn value(self) -> u8 {
                self as u8
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = match self {
                    $(Self::$variant => $text,)*
                };
                write!(f, "{text} ({:#04x})", *self as u8)
            }
        }
    };
}

codes! {
    /// CONNACK (§3.2.2.2). MQTT 3.1.1 has five of them, see [`ConnackCode::return_code`].
    ConnackCode, success Success {
        0x00 Success "success",
        0x80 UnspecifiedError "unspecified error",
        0x81 MalformedPacket "malformed packet",
        0x82 ProtocolError "protocol error",
        0x83 ImplementationSpecificError "implementation specific error",
        0x84 UnsupportedProtocolVersion "unsupported protocol version",
        0x85 ClientIdentifierNotValid "client identifier not valid",
        0x86 BadUserNameOrPassword "bad user name or password",
        0x87 NotAuthorized "not authorized",
        0x88 ServerUnavailable "server unavailable",
        0x89 ServerBusy "server busy",
        0x8A Banned "banned",
        0x8C BadAuthenticationMethod "bad authentication method",
        0x90 TopicNameInvalid "topic name invalid",
        0x95 PacketTooLarge "packet too large",
        0x97 QuotaExceeded "quota exceeded",
        0x99 PayloadFormatInvalid "payload format invalid",
        0x9A RetainNotSupported "retain not supported",
        0x9B QosNotSupported "QoS not supported",
        0x9C UseAnotherServer "use another server",
        0x9D ServerMoved "server moved",
        0x9F ConnectionRateExceeded "connection rate exceeded",
    }
}

impl ConnackCode {
    /// The return code of MQTT 3.1.1 (table 3.1), or `None` where 3.1.1 closes without CONNACK [3:3.2.2-6].
    #[must_use]
    pub const fn return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::UnspecifiedError
            | Self::ImplementationSpecificError
            | Self::ServerUnavailable
            | Self::ServerBusy
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => Some(5),
            Self::MalformedPacket
            | Self::ProtocolError
            | Self::TopicNameInvalid
            | Self::PacketTooLarge
            | Self::PayloadFormatInvalid
            | Self::RetainNotSupported
            | Self::QosNotSupported => None,
        }
    }

    /// The code that a return code of MQTT 3.1.1 stands for.
    #[must_use]
    pub const fn from_return_code(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }
}

codes! {
    /// PUBACK and PUBREC (§3.4.2.1, §3.5.2.1). A code of 0x80 or greater is final for a client
    /// [MQTT-4.4.0-2]: it is never the answer to a passing trouble.
    PubackCode, success Success {
        0x00 Success "success",
        0x10 NoMatchingSubscribers "no matching subscribers",
        0x80 UnspecifiedError "unspecified error",
        0x83 ImplementationSpecificError "implementation specific error",
        0x87 NotAuthorized "not authorized",
        0x90 TopicNameInvalid "topic name invalid",
        0x91 PacketIdentifierInUse "packet identifier in use",
        0x97 QuotaExceeded "quota exceeded",
        0x99 PayloadFormatInvalid "payload format invalid",
    }
}

codes! {
    /// PUBREL and PUBCOMP (§3.6.2.1, §3.7.2.1).
    PubrelCode, success Success {
        0x00 Success "success",
        0x92 PacketIdentifierNotFound "packet identifier not found",
    }
}

codes! {
    /// SUBACK, one per filter (§3.9.3). MQTT 3.1.1 knows the first three and 0x80 [3:3.9.3-2].
    SubackCode, success GrantedQos0 {
        0x00 GrantedQos0 "granted QoS 0",
        0x01 GrantedQos1 "granted QoS 1",
        0x02 GrantedQos2 "granted QoS 2",
        0x80 UnspecifiedError "unspecified error",
        0x83 ImplementationSpecificError "implementation specific error",
        0x87 NotAuthorized "not authorized",
        0x8F TopicFilterInvalid "topic filter invalid",
        0x91 PacketIdentifierInUse "packet identifier in use",
        0x97 QuotaExceeded "quota exceeded",
        0x9E SharedSubscriptionsNotSupported "shared subscriptions not supported",
        0xA1 SubscriptionIdentifiersNotSupported "subscription identifiers not supported",
        0xA2 WildcardSubscriptionsNotSupported "wildcard subscriptions not supported",
    }
}

impl SubackCode {
    /// The code that grants `qos`.
    #[must_use]
    pub const fn granted(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::GrantedQos0,
            QoS::AtLeastOnce => Self::GrantedQos1,
            QoS::ExactlyOnce => Self::GrantedQos2,
        }
    }

    /// The QoS that was granted, `None` for a refusal.
    #[must_use]
    pub const fn qos(self) -> Option<QoS> {
        match self {
            Self::GrantedQos0 => Some(QoS::AtMostOnce),
            Self::GrantedQos1 => Some(QoS::AtLeastOnce),
            Self::GrantedQos2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

codes! {
    /// UNSUBACK, one per filter (§3.11.3). MQTT 3.1.1 sends none.
    UnsubackCode, success Success {
        0x00 Success "success",
        0x11 NoSubscriptionExisted "no subscription existed",
        0x80 UnspecifiedError "unspecified error",
        0x83 ImplementationSpecificError "implementation specific error",
        0x87 NotAuthorized "not authorized",
        0x8F TopicFilterInvalid "topic filter invalid",
        0x91 PacketIdentifierInUse "packet identifier in use",
    }
}

codes! {
    /// DISCONNECT (§3.14.2.1), from either side.
    DisconnectCode, success NormalDisconnection {
        0x00 NormalDisconnection "normal disconnection",
        0x04 DisconnectWithWill "disconnect with will message",
        0x80 UnspecifiedError "unspecified error",
        0x81 MalformedPacket "malformed packet",
        0x82 ProtocolError "protocol error",
        0x83 ImplementationSpecificError "implementation specific error",
        0x87 NotAuthorized "not authorized",
        0x89 ServerBusy "server busy",
        0x8B ServerShuttingDown "server shutting down",
        0x8D KeepAliveTimeout "keep alive timeout",
        0x8E SessionTakenOver "session taken over",
        0x8F TopicFilterInvalid "topic filter invalid",
        0x90 TopicNameInvalid "topic name invalid",
        0x93 ReceiveMaximumExceeded "receive maximum exceeded",
        0x94 TopicAliasInvalid "topic alias invalid",
        0x95 PacketTooLarge "packet too large",
        0x96 MessageRateTooHigh "message rate too high",
        0x97 QuotaExceeded "quota exceeded",
        0x98 AdministrativeAction "administrative action",
        0x99 PayloadFormatInvalid "payload format invalid",
        0x9A RetainNotSupported "retain not supported",
        0x9B QosNotSupported "QoS not supported",
        0x9C UseAnotherServer "use another server",
        0x9D ServerMoved "server moved",
        0x9E SharedSubscriptionsNotSupported "shared subscriptions not supported",
        0x9F ConnectionRateExceeded "connection rate exceeded",
        0xA0 MaximumConnectTime "maximum connect time",
        0xA1 SubscriptionIdentifiersNotSupported "subscription identifiers not supported",
        0xA2 WildcardSubscriptionsNotSupported "wildcard subscriptions not supported",
    }
}

codes! {
    /// AUTH (§3.15.2.1).
    AuthCode, success Success {
        0x00 Success "success",
        0x18 ContinueAuthentication "continue authentication",
        0x19 ReAuthenticate "re-authenticate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<C: ReasonCode>() -> Vec<u8> {
        (0..=255).filter(|&v| C::from_value(v).inspect(|code| assert_eq!(code.value(), v)).is_some()).collect()
    }

    /// The tables of MQTT 5.0, written out once more so that a slip in either place shows.
    #[test]
    fn each_packet_allows_its_own_codes_only() {
        let connack: Vec<u8> = (0x80..=0x8A).chain([0x8C, 0x90, 0x95, 0x97]).chain(0x99..=0x9D).chain([0x9F]).collect();
        assert_eq!(values::<ConnackCode>(), [vec![0], connack].concat());
        assert_eq!(values::<PubackCode>(), [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]);
        assert_eq!(values::<PubrelCode>(), [0x00, 0x92]);
        assert_eq!(values::<SubackCode>(), [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]);
        assert_eq!(values::<UnsubackCode>(), [0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]);
        let disconnect: Vec<u8> =
            (0x80..=0x83).chain([0x87, 0x89, 0x8B]).chain(0x8D..=0x90).chain(0x93..=0xA2).collect();
        assert_eq!(values::<DisconnectCode>(), [vec![0, 4], disconnect].concat());
        assert_eq!(values::<AuthCode>(), [0x00, 0x18, 0x19]);
    }

    #[test]
    fn return_codes_of_3_1_1_come_back() {
        for value in 0..=5 {
            assert_eq!(ConnackCode::from_return_code(value).and_then(ConnackCode::return_code), Some(value));
        }
        assert_eq!(ConnackCode::from_return_code(6), None);
        // [3:3.1.4-1]: a malformed CONNECT is closed without CONNACK.
        assert_eq!(ConnackCode::MalformedPacket.return_code(), None);
    }
}
