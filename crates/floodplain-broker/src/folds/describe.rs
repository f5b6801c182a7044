//! What an event says to people.

use super::{CloseReason, Event, NEVER_EXPIRES, Open};

/// One thing that happened to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// `connected`, `taken_over`, `disconnected`, `will`, `subscribed`, `unsubscribed`, `server_started` or
    /// `node_died`.
    pub kind: &'static str,
    pub detail: String,
}

impl Event {
    /// What happened, in order; nothing for events that are for the folds alone.
    ///
    /// It is what this record says and no more: what the fold concludes from it may depend on records before.
    #[must_use]
    pub fn describe(&self) -> Vec<Happening> {
        let one = |kind, detail| vec![Happening { kind, detail }];
        match self {
            Self::Open(open) => {
                let mut happened = Vec::new();
                if open.takes_over {
                    let detail = format!("the client connected again, from {}", open.peer);
                    happened.push(Happening { kind: "taken_over", detail });
                }
                happened.push(Happening { kind: "connected", detail: connected(open) });
                happened
            }
            Self::Close(close) => {
                let mut happened = one("disconnected", close.reason.text().to_owned());
                if close.fires_will {
                    let detail = "its will is published, unless it comes back within the delay of the will".to_owned();
                    happened.push(Happening { kind: "will", detail });
                }
                happened
            }
            Self::Subscribe { subscriptions, .. } => {
                let subscribed = subscriptions.iter().map(|subscription| Happening {
                    kind: "subscribed",
                    detail: format!("{} (QoS {})", subscription.filter.as_str(), subscription.qos),
                });
                subscribed.collect()
            }
            Self::Unsubscribe { filters, .. } => {
                let kind = "unsubscribed";
                filters.iter().map(|filter| Happening { kind, detail: filter.as_str().to_owned() }).collect()
            }
            Self::ServerStart { .. } => {
                one("server_started", "connections of earlier runs of the server are gone".to_owned())
            }
            Self::NodeDied { run } => one("node_died", format!("connections of server {:016x} are gone", run.0)),
            Self::Progress { .. }
            | Self::Received { .. }
            | Self::Released { .. }
            | Self::Tick
            | Self::NodeAlive { .. }
            | Self::Lost { .. }
            | Self::Buried { .. } => Vec::new(),
        }
    }
}

fn connected(open: &Open) -> String {
    let session = match open.session_expiry_s {
        0 => "ends with the connection".to_owned(),
        NEVER_EXPIRES => "never expires".to_owned(),
        seconds => format!("expires after {seconds} s"),
    };
    let clean = if open.clean_start { ", clean start" } else { "" };
    let will = if open.will.is_some() { ", with a will" } else { "" };
    let (protocol, peer) = (protocol(open.protocol_level), &open.peer);
    format!("{protocol} from {peer}, session {session}{clean}{will}, keep-alive {} s", open.keep_alive_s)
}

/// The name of a protocol level of CONNECT.
#[must_use]
pub const fn protocol(level: u8) -> &'static str {
    match level {
        3 => "MQTT 3.1",
        4 => "MQTT 3.1.1",
        _ => "MQTT 5.0",
    }
}

impl CloseReason {
    /// The reason for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Disconnect => "the client said DISCONNECT",
            Self::ConnectionLost => "the connection was lost",
            Self::KeepAlive => "nothing came for 1.5 times the keep-alive",
            Self::ProtocolError => "the client broke the protocol",
            Self::Administrative => "the server ended it",
            Self::ServerStop => "the server stopped",
            Self::ServerDied => "the server died",
            Self::TakenOver => "the client connected again",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folds::{Close, Positions, Progress, RunId, Subscription};
    use floodplain_types::{Position, TopicFilter};

    #[test]
    fn events_are_told_in_order() {
        let told = |event: Event| -> Vec<String> {
            event.describe().into_iter().map(|Happening { kind, detail }| format!("{kind}: {detail}")).collect()
        };
        let open = Open {
            run: RunId(1),
            takes_over: true,
            protocol_level: 5,
            clean_start: true,
            session_expiry_s: 60,
            keep_alive_s: 30,
            peer: "127.0.0.1:9".to_owned(),
            will: None,
        };
        assert_eq!(
            told(Event::Open(Box::new(open))),
            [
                "taken_over: the client connected again, from 127.0.0.1:9",
                "connected: MQTT 5.0 from 127.0.0.1:9, session expires after 60 s, clean start, keep-alive 30 s"
            ]
        );
        let (epoch, progress) = (Position::ZERO, Progress::default());
        let reason = CloseReason::KeepAlive;
        let close = Close { epoch, reason, fires_will: true, session_expiry_s: None, progress: progress.clone() };
        assert_eq!(
            told(Event::Close(Box::new(close))),
            [
                "disconnected: nothing came for 1.5 times the keep-alive",
                "will: its will is published, unless it comes back within the delay of the will"
            ]
        );
        let subscription = Subscription {
            filter: TopicFilter::new("a/#").unwrap(),
            qos: 1,
            no_local: false,
            retain_as_published: false,
            id: None,
            retained_due: false,
        };
        let subscriptions = vec![subscription];
        let start = Positions::default();
        assert_eq!(told(Event::Subscribe { epoch, subscriptions, start }), ["subscribed: a/# (QoS 1)"]);
        assert_eq!(told(Event::Progress { epoch, progress }), [] as [&str; 0]);
    }
}
