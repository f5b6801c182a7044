//! Every code that an answer can carry, explained.

/// What a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// As in the `code` of a problem (RFC 9457), or of an error in InfluxDB's form.
    pub code: &'static str,
    /// The HTTP status that it comes with.
    pub status: u16,
    /// As in the `title` of a problem.
    pub title: &'static str,
    /// When it is answered.
    pub meaning: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

/// The code of that name.
#[must_use]
pub fn find(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|entry| entry.code == code)
}

/// All codes, by name.
pub static CODES: &[Code] = &[
    Code {
        code: "alert_from_config",
        status: 409,
        title: "the alert is from the configuration",
        meaning: "The configuration file has an alert of this name, and would bring it back at the next start.",
        remedy: "Change the file and restart, or take another name.",
    },
    Code {
        code: "alert_invalid",
        status: 422,
        title: "the alert makes no sense",
        meaning: "A member of the alert is missing, or is not as it should be; `detail` says which.",
        remedy: "Compare it with the guide of alerts.",
    },
    Code {
        code: "alert_unknown",
        status: 404,
        title: "there is no such alert",
        meaning: "No alert has this name.",
        remedy: "See the list of alerts.",
    },
    Code {
        code: "alerts_behind",
        status: 503,
        title: "the log is still being read",
        meaning: "Who is silent is known once the log was read; it is, the first time that somebody wants to know.",
        remedy: "Ask again in a moment.",
    },
    Code {
        code: "alerts_failed",
        status: 500,
        title: "alerts failed",
        meaning: "The log of alerts cannot be read, or the server has a fault; its logs say more.",
        remedy: "Look into the logs of the server.",
    },
    Code {
        code: "alerts_full",
        status: 409,
        title: "there are too many alerts",
        meaning: "There are 256 alerts, which is all there can be.",
        remedy: "Remove some that nobody needs.",
    },
    Code {
        code: "bad_request",
        status: 400,
        title: "the request is malformed",
        meaning: "The body or the path is not as it should be; `detail` says where.",
        remedy: "Compare the request with the documentation of the path.",
    },
    Code {
        code: "binding_invalid",
        status: 422,
        title: "the binding is not valid",
        meaning: "The binding contradicts itself or names what cannot be; `detail` says what.",
        remedy: "Mend it; `POST /api/v1/bindings/test` and `floodplain binding test` show what it would do.",
    },
    Code {
        code: "binding_read_only",
        status: 409,
        title: "the binding does not change here",
        meaning: "The binding is built in, or one of the configuration file.",
        remedy: "Change the file and restart, or make a binding with another name and a more exact filter.",
    },
    Code {
        code: "binding_unknown",
        status: 404,
        title: "there is no such binding",
        meaning: "No binding has this name.",
        remedy: "List them: `floodplain binding list`.",
    },
    Code {
        code: "bindings_busy",
        status: 503,
        title: "the change has to wait",
        meaning: "A change of bindings or the begin of a replay has waited too long for the engine of history: after a start it first decodes what was seen before. The change may still be made.",
        remedy: "Look whether it was made, or send it again: the same change twice is one.",
    },
    Code {
        code: "body_too_large",
        status: 413,
        title: "the request is too large",
        meaning: "The body is longer than this path takes.",
        remedy: "Send less at a time.",
    },
    Code {
        code: "class_invalid",
        status: 400,
        title: "the request is not valid",
        meaning: "The class of a publish is neither `all` nor `leader`.",
        remedy: "Leave it out, or take one of the two.",
    },
    Code {
        code: "commit_unknown",
        status: 503,
        title: "the commit is not confirmed",
        meaning: "The message may or may not be stored: the log did not answer in time.",
        remedy: "Send it again if a second copy does no harm, or look for it with SQL.",
    },
    Code {
        code: "content_type_invalid",
        status: 400,
        title: "the request is not valid",
        meaning: "The Content-Type header of a publish is no text.",
        remedy: "Send ASCII.",
    },
    Code {
        code: "device_unknown",
        status: 404,
        title: "there is no such device",
        meaning: "No message of the device is in the log, and no client of that name was here within the last week.",
        remedy: "`GET /api/v1/devices?search=` finds devices by a part of their names.",
    },
    Code {
        code: "disk_full",
        status: 503,
        title: "the disk is full",
        meaning: "The disk has less free space than the reserve of the log. Nothing was stored.",
        remedy: "Make room; it goes on by itself.",
    },
    Code {
        code: "expiry_invalid",
        status: 422,
        title: "the token cannot expire then",
        meaning: "The time at which a token is to expire is past, or is no time of RFC 3339.",
        remedy: "Send a time to come with its time zone, such as 2027-01-31T00:00:00Z, or none.",
    },
    Code {
        code: "filters_full",
        status: 400,
        title: "the request is not valid",
        meaning: "One WebSocket follows no more filters.",
        remedy: "Unsubscribe some, or take a wildcard.",
    },
    Code {
        code: "follow_missing",
        status: 400,
        title: "the request is not valid",
        meaning: "Messages of a topic can be followed; there is no list of past ones.",
        remedy: "Add `?follow`, or ask SQL.",
    },
    Code {
        code: "followers_full",
        status: 503,
        title: "too many followers",
        meaning: "As many clients follow topics as may do so at once.",
        remedy: "Close another page, or try again later.",
    },
    Code {
        code: "foreign_host",
        status: 421,
        title: "the request is not for us",
        meaning: "The Host header names another machine. A page whose name leads to this machine would send that, too.",
        remedy: "Use 127.0.0.1 or localhost in the address.",
    },
    Code {
        code: "foreign_origin",
        status: 403,
        title: "the page is not ours",
        meaning: "A browser sent this for a page that another server has given out.",
        remedy: "Open the console at the address of this server; programs leave the Origin header out.",
    },
    Code {
        code: "history_stopped",
        status: 503,
        title: "tables do not change any more",
        meaning: "The engine of history has stopped, so nothing is decoded before the next start.",
        remedy: "The log of the server says why; restart it.",
    },
    Code {
        code: "internal",
        status: 500,
        title: "a fault of the server",
        meaning: "The server has made a mistake; the query did not cause it.",
        remedy: "Look at the logs of the server and report it.",
    },
    Code {
        code: "internal error",
        status: 500,
        title: "the server failed (InfluxDB's code)",
        meaning: "Where clients of InfluxDB write, the server has a fault; `message` says more.",
        remedy: "Look into the logs of the server.",
    },
    Code {
        code: "invalid",
        status: 400,
        title: "lines are not as they should be (InfluxDB's code)",
        meaning: "Lines, or a parameter, are not line protocol as `/write` and `/api/v2/write` take it; `lines` names the bad ones. The good lines are written, and the bad ones are in the table dlq.",
        remedy: "Mend what sends the lines; do not send the good ones again.",
    },
    Code {
        code: "kept_elsewhere",
        status: 421,
        title: "another server keeps them",
        meaning: "This server shares its log with others, and one of those keeps tables and watches alerts: `history.enabled` is off here.",
        remedy: "Ask that server.",
    },
    Code {
        code: "last_admin",
        status: 409,
        title: "the last admin stays",
        meaning: "The user is the only admin; without one nobody could let others in.",
        remedy: "Make another user admin first.",
    },
    Code {
        code: "limit_invalid",
        status: 400,
        title: "the request is not valid",
        meaning: "The limit of a list is not between 1 and 1000.",
        remedy: "Ask for fewer, and go on with `after`.",
    },
    Code {
        code: "limit_reached",
        status: 409,
        title: "there are too many already",
        meaning: "There are as many users or tokens as the registry keeps.",
        remedy: "Remove some that nobody needs.",
    },
    Code {
        code: "log_poisoned",
        status: 503,
        title: "the log takes no more messages",
        meaning: "A write or a sync failed, so nothing is acknowledged any more. What was acknowledged is kept.",
        remedy: "Look at the disk, then restart the server.",
    },
    Code {
        code: "log_read",
        status: 500,
        title: "the log cannot be read",
        meaning: "The disk did not give what the log has written there.",
        remedy: "Look at the logs of the server and at the disk; `floodplain doctor` examines it.",
    },
    Code {
        code: "login_busy",
        status: 503,
        title: "too many logins at a time",
        meaning: "So many passwords are being checked that this one was not begun.",
        remedy: "Try again; programs do better with an API token, which costs no check.",
    },
    Code {
        code: "login_failed",
        status: 401,
        title: "user or password is wrong",
        meaning: "Nobody has that name, or the password is another one. Which of the two it is, is not said.",
        remedy: "Check both. An admin sets a new password with `floodplain user passwd`.",
    },
    Code {
        code: "login_needed",
        status: 401,
        title: "log in first",
        meaning: "A user exists, so strangers may not ask this.",
        remedy: "Log in, or send `Authorization: Bearer fp_…`; commands take --token or FLOODPLAIN_TOKEN.",
    },
    Code {
        code: "login_slow_down",
        status: 429,
        title: "too many failed logins",
        meaning: "Logins of this user, or from this address, have failed so often that the next ones wait.",
        remedy: "Wait as long as the Retry-After header says. Sessions and tokens work meanwhile.",
    },
    Code {
        code: "message_too_large",
        status: 413,
        title: "the message is too large",
        meaning: "A message, or all of a batch, is larger than what the log takes at once.",
        remedy: "Send less at a time.",
    },
    Code {
        code: "method_not_allowed",
        status: 405,
        title: "the method does not fit",
        meaning: "The path exists, and does not take this method; the Allow header lists what it takes.",
        remedy: "Use one of the listed methods.",
    },
    Code {
        code: "name_invalid",
        status: 422,
        title: "the name cannot be used",
        meaning: "The name is too long or has characters that a name has not; `detail` has the rule.",
        remedy: "Choose a name that follows the rule.",
    },
    Code {
        code: "not_acceptable",
        status: 406,
        title: "unknown format",
        meaning: "The Accept header names only formats that are not written here.",
        remedy: "Accept application/json, text/csv or, for SQL, application/vnd.apache.arrow.stream.",
    },
    Code {
        code: "not_built",
        status: 501,
        title: "not built yet",
        meaning: "This part of the interface is planned.",
        remedy: "Wait for a later version.",
    },
    Code {
        code: "not_found",
        status: 404,
        title: "there is nothing here",
        meaning: "The path leads nowhere.",
        remedy: "Check the path; the API is below /api/v1.",
    },
    Code {
        code: "not_owner",
        status: 503,
        title: "the partition is elsewhere",
        meaning: "This process does not own the partition of the message any more.",
        remedy: "Send it again.",
    },
    Code {
        code: "not_ready",
        status: 503,
        title: "the server is not ready",
        meaning: "The server stops, or its log takes no more records; `detail` says which.",
        remedy: "Wait for the next start. A poisoned log needs a restart: see the logs.",
    },
    Code {
        code: "origin_missing",
        status: 403,
        title: "the Origin header is missing",
        meaning: "A request with a session cookie that changes something came without Origin, which browsers always send.",
        remedy: "Programs use an API token in place of the cookie.",
    },
    Code {
        code: "overloaded",
        status: 503,
        title: "the server is overloaded",
        meaning: "The log or the memory for bodies has no room. Nothing was stored.",
        remedy: "Send it again after the time in Retry-After.",
    },
    Code {
        code: "password_weak",
        status: 422,
        title: "the password is too easy to guess",
        meaning: "The password is short, obvious, or of characters that not every client sends alike; `detail` says which.",
        remedy: "Take at least 12 characters: some words that do not belong together will do.",
    },
    Code {
        code: "qos_invalid",
        status: 400,
        title: "the request is not valid",
        meaning: "The QoS of a publish is neither 1 nor 2.",
        remedy: "Leave it out, or take one of the two.",
    },
    Code {
        code: "query_invalid",
        status: 400,
        title: "the request is not valid",
        meaning: "The query string has a name or a value that the path does not take.",
        remedy: "Compare it with the documentation of the path.",
    },
    Code {
        code: "registry_failed",
        status: 503,
        title: "the registry of users failed",
        meaning: "The database of users, sessions and tokens could not be read or written.",
        remedy: "Look at the logs of the server: a full disk is the usual reason.",
    },
    Code {
        code: "replay_running",
        status: 409,
        title: "a replay runs",
        meaning: "One replay runs at a time.",
        remedy: "Wait until `GET /api/v1/replay` says that it is done.",
    },
    Code {
        code: "request too large",
        status: 413,
        title: "the request is too large (InfluxDB's code)",
        meaning: "The body has more bytes, packed or unpacked, or its lines take more than are committed at once; `message` has the limit.",
        remedy: "Write fewer lines at once.",
    },
    Code {
        code: "request_invalid",
        status: 400,
        title: "the request is not valid",
        meaning: "What came by the WebSocket is no request.",
        remedy: "Send {\"subscribe\": [...]} or {\"unsubscribe\": [...]}.",
    },
    Code {
        code: "role_invalid",
        status: 422,
        title: "there is no such role",
        meaning: "A role is viewer, editor or admin.",
        remedy: "Use one of the three.",
    },
    Code {
        code: "role_missing",
        status: 403,
        title: "the role may not do this",
        meaning: "Who asks is known, and the role is too small.",
        remedy: "Ask an admin for a larger role, or use a token that has it.",
    },
    Code {
        code: "setup_done",
        status: 409,
        title: "the first user exists",
        meaning: "The setup link works once, and somebody has used it.",
        remedy: "Log in. If it was not you, stop the server: somebody else reached this machine first.",
    },
    Code {
        code: "setup_needed",
        status: 409,
        title: "no user exists yet",
        meaning: "Until the first admin is made by the setup link, there is nobody to log in and no one to add others.",
        remedy: "Open the link that the server printed when it started; a restart prints a new one.",
    },
    Code {
        code: "setup_token_wrong",
        status: 403,
        title: "the setup link is not valid",
        meaning: "The token is not the one that this run of the server has printed.",
        remedy: "Use the link of the last start; a restart prints a new one.",
    },
    Code {
        code: "slow_body",
        status: 408,
        title: "the request took too long",
        meaning: "The body was not whole in time.",
        remedy: "Send it faster, or in smaller parts.",
    },
    Code {
        code: "sql_busy",
        status: 503,
        title: "too many queries",
        meaning: "As many queries run as the server runs at a time.",
        remedy: "Try again when some have ended.",
    },
    Code {
        code: "sql_execution",
        status: 422,
        title: "a value cannot be computed",
        meaning: "The query ran into a value that an expression does not take, such as a division by zero.",
        remedy: "Leave such rows out, or use TRY_CAST and NULLIF.",
    },
    Code {
        code: "sql_invalid",
        status: 400,
        title: "the query does not fit the tables",
        meaning: "The query names a table, column or function that does not exist, or mixes types.",
        remedy: "SHOW TABLES and DESCRIBE tell what there is.",
    },
    Code {
        code: "sql_lag",
        status: 503,
        title: "the tables are behind the log",
        meaning: "What was acknowledged last is not in the tables yet.",
        remedy: "Try again in a moment.",
    },
    Code {
        code: "sql_memory_limit",
        status: 507,
        title: "the query needs too much memory",
        meaning: "Sorting, grouping or joining needs more memory than `sql.memory_max` gives.",
        remedy: "Ask for fewer rows or columns, or raise the key.",
    },
    Code {
        code: "sql_read_only",
        status: 403,
        title: "queries only read",
        meaning: "Only SELECT, EXPLAIN, SHOW and DESCRIBE are taken.",
        remedy: "Publish messages to change what the tables hold.",
    },
    Code {
        code: "sql_row_limit",
        status: 422,
        title: "the result is too large",
        meaning: "The result has more rows than `sql.rows_max`.",
        remedy: "Use LIMIT, aggregate, or raise the key.",
    },
    Code {
        code: "sql_syntax",
        status: 400,
        title: "the query is not SQL",
        meaning: "The parser stopped at `position`.",
        remedy: "Mend the query there.",
    },
    Code {
        code: "sql_time_limit",
        status: 504,
        title: "the query took too long",
        meaning: "The query ran longer than `sql.time_max`.",
        remedy: "Ask for a shorter time range, or raise the key.",
    },
    Code {
        code: "sql_too_complex",
        status: 413,
        title: "the query is too complex",
        meaning: "The query nests deeper than the planner follows.",
        remedy: "Split the query.",
    },
    Code {
        code: "sql_too_long",
        status: 413,
        title: "the query is too long",
        meaning: "The text of the query is longer than is read.",
        remedy: "Shorten long lists of values.",
    },
    Code {
        code: "stopping",
        status: 503,
        title: "the server is stopping",
        meaning: "The server has been told to stop and begins nothing new.",
        remedy: "Try again after the next start.",
    },
    Code {
        code: "stream_unknown",
        status: 404,
        title: "there is no such stream",
        meaning: "A binding or a replay names a stream that does not take messages of devices.",
        remedy: "Declare it under [[streams]] in the configuration file, and restart the server. `SELECT DISTINCT stream \
                 FROM streams` lists what there is.",
    },
    Code {
        code: "table_unknown",
        status: 404,
        title: "there is no such table",
        meaning: "No table of payloads has this name; it is there from its first row on.",
        remedy: "List them: `floodplain table list`, `SELECT table_name FROM tables`.",
    },
    Code {
        code: "token_invalid",
        status: 401,
        title: "the token does not count",
        meaning: "The API token is none, was removed, or has expired.",
        remedy: "Make a new one with `floodplain token create`.",
    },
    Code {
        code: "token_unknown",
        status: 404,
        title: "there is no such token",
        meaning: "No token has this id.",
        remedy: "`floodplain token list` shows the ids.",
    },
    Code {
        code: "topic_invalid",
        status: 400,
        title: "the request is not valid",
        meaning: "The topic name or filter is not as MQTT wants it, or beyond the limits.",
        remedy: "Percent-encode what a URL does not take; names have no wildcards.",
    },
    Code {
        code: "unanswered",
        status: 503,
        title: "the server cannot tell yet",
        meaning: "After a start the log is still being read, or the threads of MQTT did not answer in time.",
        remedy: "Try again in a moment.",
    },
    Code {
        code: "unavailable",
        status: 503,
        title: "nothing can be written now (InfluxDB's code)",
        meaning: "The log takes nothing for the moment, the body came too slowly, or logins of this user must wait; `message` says which.",
        remedy: "Send the same lines again after the seconds of `Retry-After`.",
    },
    Code {
        code: "unsupported media type",
        status: 415,
        title: "the encoding is unknown (InfluxDB's code)",
        meaning: "The body has another Content-Encoding than gzip.",
        remedy: "Send it packed with gzip, or as it is.",
    },
    Code {
        code: "unsupported_media_type",
        status: 415,
        title: "unknown body",
        meaning: "The Content-Type is none that this path reads.",
        remedy: "Send the type that `detail` names.",
    },
    Code {
        code: "user_exists",
        status: 409,
        title: "the user exists already",
        meaning: "Somebody has this name; upper and lower case are the same.",
        remedy: "Choose another name, or change the user that exists.",
    },
    Code {
        code: "user_unknown",
        status: 404,
        title: "there is no such user",
        meaning: "Nobody has this name.",
        remedy: "`floodplain user list` shows the names.",
    },
    Code {
        code: "websocket_needed",
        status: 426,
        title: "this is a WebSocket",
        meaning: "The request does not ask for a WebSocket.",
        remedy: "Connect by WebSocket, or follow one filter with `?follow`.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use std::{collections::BTreeSet, path::Path};

    /// Sources without their tests, each as one line.
    fn sources(folder: &Path, into: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]").next().unwrap_or_default();
                into.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }

    /// The text that starts at `text`, if one does.
    fn quoted(text: &str) -> Option<&str> {
        text.strip_prefix('"')?.split_once('"').map(|(quoted, _)| quoted)
    }

    /// Codes stand behind their status, or in `Problem::of`, or in the `match` of the registry's errors; titles behind codes.
    #[test]
    fn every_code_that_is_answered_is_in_the_table() {
        let mut texts = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
        let mut used = BTreeSet::new();
        for text in &texts {
            for (at, _) in text.match_indices("S::").chain(text.match_indices("StatusCode::")) {
                let (_, rest) = text[at..].split_once("::").unwrap();
                let Some((status, rest)) = rest.split_once(", ") else { continue };
                let Some(code) = quoted(rest) else { continue };
                let entry = find(code).unwrap_or_else(|| panic!("{code} is not in the table of codes (codes.rs)"));
                let title = rest.split_once(", ").and_then(|(_, rest)| quoted(rest));
                assert_eq!(title, Some(entry.title), "title of {code}");
                let name = StatusCode::from_u16(entry.status).unwrap().canonical_reason().unwrap();
                let name = name.to_uppercase().replace([' ', '-'], "_");
                assert_eq!(status, name, "status of {code}");
                used.insert(code);
            }
            let starts = ["Problem::of( ", "Problem::of(", "Self::of("].map(|start| text.match_indices(start));
            for (at, start) in starts.into_iter().flatten() {
                if let Some(code) = quoted(&text[at + start.len()..]) {
                    assert!(find(code).is_some(), "{code} is not in the table of codes (codes.rs)");
                    used.insert(code);
                }
            }
            for (at, start) in text.match_indices("=> ") {
                used.extend(quoted(&text[at + start.len()..]).filter(|code| find(code).is_some()));
            }
        }
        used.insert("registry_failed");
        let unused: Vec<_> = CODES.iter().map(|entry| entry.code).filter(|code| !used.contains(code)).collect();
        assert!(unused.is_empty(), "nobody answers {unused:?}");
    }

    #[test]
    fn each_code_is_explained_once() {
        assert!(CODES.is_sorted_by(|one, two| one.code < two.code));
        for entry in CODES {
            assert!(
                entry.code.bytes().all(|byte| byte.is_ascii_lowercase() || [b'_', b' '].contains(&byte)),
                "{}",
                entry.code
            );
            assert!((400..600).contains(&entry.status), "{}", entry.code);
            for text in [entry.meaning, entry.remedy] {
                assert!(text.ends_with('.') && text.len() > 10, "{}: {text}", entry.code);
            }
            assert!(!entry.title.is_empty() && !entry.title.ends_with('.'), "{}", entry.code);
        }
    }
}
