//! `floodplain sub`: prints messages as they come.

use super::{ConnectArgs, Event, Message, now, parse_qos};
use crate::output::{Output, OutputArgs};
use anyhow::{Context, Result, bail, ensure};
use floodplain_mqtt::{RetainHandling, SubscriptionOptions, Version};
use std::{
    io::{ErrorKind, Write},
    time::Duration,
};

/// Arguments of `floodplain sub`; letters as in `mosquitto_sub` where it has them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Topic filter; may be repeated
    #[arg(short, long = "topic", required = true, value_name = "FILTER")]
    topics: Vec<String>,
    /// Highest QoS of deliveries: 0, 1 or 2
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// End after so many messages
    #[arg(short = 'C', long, value_name = "COUNT")]
    count: Option<u64>,
    /// End when nothing came for so many seconds
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = crate::numbers::seconds)]
    timeout: Option<f64>,
    /// Keep the session when leaving, and resume it when it is there; needs --id
    #[arg(short = 'c', long)]
    keep_session: bool,
    /// Seconds that a kept session lasts (version 5)
    #[arg(short = 'x', long, default_value_t = 86_400, value_name = "SECONDS")]
    session_expiry: u32,
    /// Subscribe and leave
    #[arg(short = 'E', long)]
    subscribe_only: bool,
    /// Not what this client publishes itself (version 5)
    #[arg(long)]
    no_local: bool,
    /// Keep the retain flag of live messages (version 5)
    #[arg(long)]
    retain_as_published: bool,
    /// No retained messages (version 5)
    #[arg(short = 'R', long)]
    no_retained: bool,
    /// Print the topic before the payload
    #[arg(short, long)]
    verbose: bool,
    /// table: the payload, one message per line; json: one object per line
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command. A message is acknowledged after it was printed.
///
/// # Errors
/// A refused subscription, a lost connection, or fewer messages than `--count` before `--timeout`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let v5_only = args.no_local || args.retain_as_published || args.no_retained;
    ensure!(
        args.connect.protocol_version == Version::V5 || !v5_only,
        "--no-local, --retain-as-published and --no-retained need version 5"
    );
    let (mut client, _) = args.connect.connect(args.keep_session.then_some(args.session_expiry))?;
    let options = SubscriptionOptions {
        qos: parse_qos(args.qos),
        no_local: args.no_local,
        retain_as_published: args.retain_as_published,
        retain_handling: if args.no_retained { RetainHandling::DoNotSend } else { RetainHandling::Send },
    };
    client.subscribe(&args.topics, options)?;
    let mut out = std::io::stdout().lock();
    let (mut subscribed, mut seen) = (false, 0);
    let wait = args.timeout.map_or(Duration::from_secs(86_400), Duration::from_secs_f64);
    loop {
        if subscribed && (args.subscribe_only || args.count.is_some_and(|count| seen >= count)) {
            return client.leave();
        }
        match client.next(now() + if subscribed { wait } else { super::PATIENCE })? {
            Some(Event::Message(message)) => {
                match print(&mut out, args, &message) {
                    Err(e) if e.kind() == ErrorKind::BrokenPipe => return client.leave(),
                    other => other.context("write to standard output")?,
                }
                client.accept(&message)?;
                seen += 1;
            }
            Some(Event::Suback(codes)) => {
                for (filter, code) in args.topics.iter().zip(codes) {
                    if let Err(reason) = code {
                        bail!("the server refused {filter}: {reason}");
                    }
                }
                subscribed = true;
            }
            Some(Event::Pubrel(_)) => {}
            Some(other) => bail!("unexpected {other:?}"),
            None if !subscribed => bail!("no answer to SUBSCRIBE within {:?}", super::PATIENCE),
            None if args.timeout.is_some() => {
                client.leave()?;
                ensure!(args.count.is_none(), "only {seen} messages came before the timeout");
                return Ok(());
            }
            None => {}
        }
    }
}

fn print(out: &mut impl Write, args: &Args, message: &Message) -> std::io::Result<()> {
    match args.output.output {
        Output::Json => writeln!(out, "{}", json(message))?,
        Output::Table => {
            if args.verbose {
                write!(out, "{} ", message.topic)?;
            }
            out.write_all(&message.payload)?;
            writeln!(out)?;
        }
    }
    out.flush()
}

/// One object per message; a payload that is not UTF-8 goes as a list of bytes.
fn json(message: &Message) -> serde_json::Value {
    let mut object = serde_json::json!({
        "topic": message.topic,
        "qos": message.qos as u8,
        "retain": message.retain,
        "dup": message.dup,
    });
    match std::str::from_utf8(&message.payload) {
        Ok(text) => object["payload"] = text.into(),
        Err(_) => object["payload_bytes"] = message.payload.clone().into(),
    }
    let optional = [("content_type", &message.content_type), ("response_topic", &message.response_topic)];
    for (name, value) in optional {
        if let Some(value) = value {
            object[name] = value.as_str().into();
        }
    }
    if let Some(seconds) = message.expiry_secs {
        object["expiry_seconds"] = seconds.into();
    }
    if !message.user_properties.is_empty() {
        let pairs = message.user_properties.iter().map(|(name, value)| serde_json::json!([name, value]));
        object["user_properties"] = pairs.collect();
    }
    object
}
