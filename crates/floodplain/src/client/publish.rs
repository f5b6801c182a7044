//! `floodplain pub`: publishes one message, or one per line of standard input.

use super::{Client, ConnectArgs, Event, Properties, now, parse_pair, parse_qos};
use crate::output::{Output, OutputArgs};
use anyhow::{Context, Result, bail, ensure};
use floodplain_mqtt::{Ack, Packet, PacketId, Publish, PubrelCode, QoS, ReasonCode, Version};
use std::{
    collections::BTreeMap,
    io::{BufRead, Read},
    path::PathBuf,
    time::{Duration, Instant},
};

/// Arguments of `floodplain pub`; letters as in `mosquitto_pub` where it has them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Topic name
    #[arg(short, long)]
    topic: String,
    #[command(flatten)]
    source: Source,
    /// 0, 1 or 2
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Let the server keep the message for later subscribers
    #[arg(short, long)]
    retain: bool,
    /// Publish so many times
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    repeat: u64,
    /// Unacknowledged messages at a time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..), value_name = "COUNT")]
    window: u16,
    /// Content type (version 5)
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Seconds after which the message is not delivered any more (version 5)
    #[arg(long, value_name = "SECONDS")]
    expiry: Option<u32>,
    /// User property as NAME=VALUE; may be repeated (version 5)
    #[arg(short = 'D', long = "property", value_parser = parse_pair, value_name = "NAME=VALUE")]
    properties: Vec<(String, String)>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Where the payload comes from.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Payload
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// File with the payload
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Standard input is one payload
    #[arg(short, long)]
    stdin: bool,
    /// Each line of standard input is a payload
    #[arg(short, long)]
    lines: bool,
    /// Empty payload; with --retain it deletes the retained message
    #[arg(short, long)]
    null: bool,
}

/// Runs the command. Ends when everything is acknowledged.
///
/// # Errors
/// A lost connection or a refused message, with how many messages were acknowledged before.
pub(crate) fn run(args: &Args) -> Result<()> {
    let v5 = args.connect.protocol_version == Version::V5;
    let asked = args.content_type.is_some() || args.expiry.is_some() || !args.properties.is_empty();
    ensure!(v5 || !asked, "--content-type, --expiry and --property need version 5");
    let (client, welcome) = args.connect.connect(None)?;
    let properties =
        Properties { content_type: args.content_type.clone(), expiry_secs: args.expiry, user: args.properties.clone() }
            .encode()?;
    let mut publisher = Publisher {
        client,
        window: usize::from(args.window.min(welcome.receive_maximum)),
        template: Publish {
            qos: parse_qos(args.qos),
            retain: args.retain,
            properties: properties.properties()?,
            ..Publish::new(&args.topic, b"")
        },
        next_id: PacketId::MIN,
        in_flight: BTreeMap::new(),
        published: 0,
        acknowledged: 0,
        worst: Duration::ZERO,
    };
    let result = publish_all(args, &mut publisher);
    let Publisher { client, published, acknowledged, worst, .. } = publisher;
    let result = result.and_then(|()| client.leave());
    if args.output.output == Output::Json {
        let report = serde_json::json!({
            "published": published,
            "acknowledged": acknowledged,
            "ack_ms_max": worst.as_secs_f64() * 1e3,
        });
        println!("{report}");
    }
    let promised = if args.qos == 0 { "sent" } else { "acknowledged" };
    result.with_context(|| format!("stopped after {acknowledged} messages were {promised}"))
}

fn publish_all(args: &Args, publisher: &mut Publisher<'_>) -> Result<()> {
    if args.source.lines {
        ensure!(args.repeat == 1, "--repeat and --lines exclude each other");
        let mut lines = std::io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).context("read standard input")? == 0 {
                break;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            publisher.publish(&line)?;
        }
    } else {
        let payload = match &args.source {
            Source { message: Some(text), .. } => text.clone().into_bytes(),
            Source { file: Some(file), .. } => {
                std::fs::read(file).with_context(|| format!("read {}", file.display()))?
            }
            Source { stdin: true, .. } => {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_to_end(&mut bytes).context("read standard input")?;
                bytes
            }
            _ => Vec::new(),
        };
        for _ in 0..args.repeat {
            publisher.publish(&payload)?;
        }
    }
    publisher.settle(0)
}

/// Keeps at most `window` messages without their last acknowledgement.
struct Publisher<'a> {
    client: Client,
    window: usize,
    template: Publish<'a>,
    next_id: PacketId,
    in_flight: BTreeMap<PacketId, Instant>,
    published: u64,
    acknowledged: u64,
    worst: Duration,
}

impl Publisher<'_> {
    fn publish(&mut self, payload: &[u8]) -> Result<()> {
        let packet_id = (self.template.qos != QoS::AtMostOnce).then_some(self.next_id);
        if let Some(id) = packet_id {
            self.settle(self.window - 1)?;
            self.next_id = PacketId::new(id.get().wrapping_add(1)).unwrap_or(PacketId::MIN);
            self.in_flight.insert(id, now());
        } else {
            self.acknowledged += 1;
        }
        self.published += 1;
        self.client.queue(&Packet::Publish(Publish { packet_id, payload, ..self.template }))?;
        // QoS 0 from a fast source: a few packets per write.
        if packet_id.is_some() || self.client.queued_bytes() > 64 << 10 {
            self.client.flush()?;
        }
        Ok(())
    }

    /// Waits until at most `open` messages are unacknowledged.
    fn settle(&mut self, open: usize) -> Result<()> {
        self.client.flush()?;
        while self.in_flight.len() > open {
            let Some(event) = self.client.next(now() + super::PATIENCE)? else {
                bail!("no acknowledgement within {:?}", super::PATIENCE)
            };
            match event {
                Event::Puback(id, code) => {
                    ensure!(!code.is_failure(), "the server refused the message: {code:?} ({:#04x})", code.value());
                    self.done(id)?;
                }
                Event::Pubrec(id, code) => {
                    ensure!(!code.is_failure(), "the server refused the message: {code:?} ({:#04x})", code.value());
                    self.client.queue(&Packet::Pubrel(Ack::with_code(id, PubrelCode::Success)))?;
                }
                Event::Pubcomp(id) => self.done(id)?,
                other => bail!("unexpected {other:?}"),
            }
        }
        Ok(())
    }

    fn done(&mut self, id: PacketId) -> Result<()> {
        let since = self.in_flight.remove(&id).with_context(|| format!("acknowledgement of unknown id {id}"))?;
        self.worst = self.worst.max(since.elapsed());
        self.acknowledged += 1;
        Ok(())
    }
}
