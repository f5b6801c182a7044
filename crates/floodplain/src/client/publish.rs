//! `floodplain pub`: publishes one message, or one per line of standard input.

use super::{Client, ConnectArgs, Event, Properties, now, parse_pair, parse_qos};
use crate::output::{self, Output, OutputArgs};
use anyhow::{Context, Result, bail, ensure};
use floodplain_mqtt::{Ack, Packet, PacketId, Publish, PubrelCode, QoS, ReasonCode, Version};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write as _},
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

/// For what has come already; nothing is read in no time at all.
const AT_ONCE: Duration = Duration::from_millis(1);

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
    let promised = if args.qos == 0 { "sent" } else { "acknowledged" };
    let stopped = || format!("stopped after {acknowledged} messages were {promised}");
    if args.output.output == Output::Json {
        let report = serde_json::json!({
            "published": published,
            "acknowledged": acknowledged,
            "ack_ms_max": worst.as_secs_f64() * 1e3,
        });
        // Not before the result: a reader that has gone must not hide a failure.
        let written = writeln!(output::stdout(), "{report}");
        return result.with_context(stopped).and_then(|()| Ok(written?));
    }
    result.with_context(stopped)
}

fn publish_all(args: &Args, publisher: &mut Publisher<'_>) -> Result<()> {
    if args.source.lines {
        ensure!(args.repeat == 1, "--repeat and --lines exclude each other");
        let mut lines = Lines { input: std::io::stdin().lock(), read: Vec::new(), taken: 0, chunk: vec![0; 64 << 10] };
        while let Some(line) = lines.next(publisher)? {
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

/// The lines of standard input. While they are slow to come, the connection is looked after: acknowledgements are
/// taken, pings sent, and its end is noticed.
struct Lines<R> {
    input: R,
    read: Vec<u8>,
    /// What of it was handed out.
    taken: usize,
    chunk: Vec<u8>,
}

impl<R: Read + AsFd> Lines<R> {
    /// The next line, without its end; `None` after the last one.
    fn next(&mut self, publisher: &mut Publisher<'_>) -> Result<Option<Vec<u8>>> {
        let mut searched = self.taken;
        loop {
            if let Some(length) = self.read[searched..].iter().position(|byte| *byte == b'\n') {
                let end = searched + length;
                let line = self.read[self.taken..end].to_vec();
                self.taken = end + 1;
                return Ok(Some(line));
            }
            self.read.drain(..std::mem::take(&mut self.taken));
            searched = self.read.len();
            publisher.wait_for(&self.input)?;
            let length = match self.input.read(&mut self.chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.context("read standard input")?,
            };
            if length == 0 {
                let last = std::mem::take(&mut self.read);
                return Ok((!last.is_empty()).then_some(last));
            }
            self.read.extend_from_slice(&self.chunk[..length]);
        }
    }
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
            self.take(event)?;
        }
        Ok(())
    }

    /// Waits until `input` has something to read; meanwhile takes what the server says, and pings.
    fn wait_for(&mut self, input: &impl AsFd) -> Result<()> {
        self.client.flush()?;
        loop {
            let (socket, ping_in) = self.client.socket();
            let timeout = ping_in.map(Timespec::try_from).transpose()?;
            let mut ready = [PollFd::new(input, PollFlags::IN), PollFd::from_borrowed_fd(socket, PollFlags::IN)];
            match poll(&mut ready, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("poll"),
            }
            let [has_input, has_answer] = ready.map(|ready| !ready.revents().is_empty());
            if has_answer || !has_input {
                while let Some(event) = self.client.next(now() + AT_ONCE)? {
                    self.take(event)?;
                }
            }
            if has_input {
                return Ok(());
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Puback(id, code) => {
                ensure!(!code.is_failure(), "the server refused the message: {code:?} ({:#04x})", code.value());
                self.done(id)
            }
            Event::Pubrec(id, code) => {
                ensure!(!code.is_failure(), "the server refused the message: {code:?} ({:#04x})", code.value());
                self.client.queue(&Packet::Pubrel(Ack::with_code(id, PubrelCode::Success)))
            }
            Event::Pubcomp(id) => self.done(id),
            other => bail!("unexpected {other:?}"),
        }
    }

    fn done(&mut self, id: PacketId) -> Result<()> {
        let since = self.in_flight.remove(&id).with_context(|| format!("acknowledgement of unknown id {id}"))?;
        self.worst = self.worst.max(since.elapsed());
        self.acknowledged += 1;
        Ok(())
    }
}
