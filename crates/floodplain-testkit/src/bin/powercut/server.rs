//! Power cuts below a whole server: log, snapshots of folds, files of tables, registry.
//!
//! Clients of both MQTT versions publish with QoS 1 and 2, one subscriber listens, another sleeps from cut to cut; users of
//! the HTTP API make tokens and change a binding, which brings rows into files. After each cut all that any of them was
//! answered before it must be there: by SQL, at the subscribers, as retained message, as row, as token.

#![expect(clippy::disallowed_methods, reason = "durations of real processes")]

use super::image::Image;
use anyhow::{Context as _, Result, bail, ensure};
use floodplain_testkit::{
    Copies, History, Program, Server, Stamp,
    mqtt::{
        client::{Client, Line},
        session::{Publisher, Subscriber, ended},
        wire::Version::{V5, V311},
    },
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(5);
/// Between two requests that change something.
const REQUEST_PAUSE: Duration = Duration::from_millis(100);
/// All topics of the campaign.
const TOPICS: &str = "cut/#";
const PASSWORD: &str = "some words that nobody guesses";

/// When the plug is pulled.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Load,
    Start,
    Stop,
}

/// In turn, so that each comes in every campaign.
const MOMENTS: [Moment; 5] = [Moment::Load, Moment::Load, Moment::Start, Moment::Load, Moment::Stop];

/// What one cut was, and what was found after it.
#[derive(Debug)]
struct Row {
    fs: String,
    cut: u64,
    moment: Moment,
    /// Messages that were acknowledged in the life that the cut ended.
    acked: u64,
    found: Found,
}

#[derive(Debug)]
struct Found {
    /// Records of the log.
    records: usize,
    /// Messages that it has without having said so.
    unanswered: usize,
    /// Of the bound table.
    rows: usize,
    /// What the sleeper got when it woke.
    woken: usize,
    retained: usize,
    tokens: usize,
    start: Duration,
}

const HEAD: &str = "fs     cut  moment   acked  records  unanswered    rows   woken  retained  tokens  start";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fs, cut, moment, acked, found } = self;
        let Found { records, unanswered, rows, woken, retained, tokens, start } = found;
        let moment = format!("{moment:?}").to_lowercase();
        write!(
            f,
            "{fs:<5} {cut:>4}  {moment:<6} {acked:>7} {records:>8} {unanswered:>11} {rows:>7} {woken:>7} {retained:>9} \
             {tokens:>7} {start:>6.1?}"
        )
    }
}

/// Cuts each file system `cuts` times.
pub(super) fn campaign(program: &Path, cuts: u64, file_systems: &[&str], seed: u64) -> Result<()> {
    let (mut rng, mut table, mut sums) = (SmallRng::seed_from_u64(seed), Vec::new(), Vec::new());
    for fs in file_systems {
        sums.push(cut_one_image(program, fs, cuts, &mut rng, &mut table).with_context(|| format!("seed {seed}"))?);
    }
    println!("\n{HEAD}");
    table.iter().for_each(|row| println!("{row}"));
    for (fs, acked) in file_systems.iter().zip(sums) {
        println!("powercut: server on {fs}: {cuts} cuts, {acked} acknowledged messages, none of them lost");
    }
    Ok(())
}

/// Gives how many messages were acknowledged.
fn cut_one_image(program: &Path, fs: &str, cuts: u64, rng: &mut SmallRng, table: &mut Vec<Row>) -> Result<u64> {
    let mut image = Image::make(fs)?;
    image.mount()?;
    // What a person would look at when something was lost is not on the image.
    let folder = tempfile::Builder::new().prefix("powercut-server").tempdir()?;
    let variables = vec![
        // Short, so that cuts hit their ends and the making of segments too.
        ("FLOODPLAIN_LOG__JOURNAL_SIZE", "1MiB".to_owned()),
        ("FLOODPLAIN_LOG__TAIL_SIZE", "1MiB".to_owned()),
        // Queries have the lowest priority of all, so other programs can hold them up for long.
        ("FLOODPLAIN_SQL__TIME_MAX", "5m".to_owned()),
    ];
    let data = image.mount_point().join("data");
    let program = Program { data, variables, ..Program::new(program, folder.path()) };
    let result = World::prepare(program).and_then(|mut world| world.live_through(fs, cuts, &mut image, rng, table));
    if result.is_err() {
        println!("powercut: the logs of the server are in {}", folder.keep().display());
    }
    let acked = result?;
    image.unmount()?;
    Ok(acked)
}

/// All that clients know of one server.
struct World {
    program: Program,
    token: String,
    /// One per QoS: the rules for copies differ.
    histories: [History; 2],
    publishers: Vec<Publisher>,
    live: Subscriber,
    sleeper: Subscriber,
    answers: Mutex<Answers>,
    last_start: Duration,
}

/// What users of the HTTP API were told.
#[derive(Debug, Default)]
struct Answers {
    tokens: BTreeSet<String>,
    /// The version of the binding.
    binding: u64,
}

/// The payload of messages that become rows.
fn reading(stamp: &Stamp) -> Vec<u8> {
    let text = String::from_utf8_lossy(&stamp.payload(100)).into_owned();
    json!({ "n": stamp.seq, "stamp": text }).to_string().into_bytes()
}

/// A payload as the checker knows it.
fn bare(payload: &[u8]) -> Vec<u8> {
    let fields: Option<Value> = serde_json::from_slice(payload).ok();
    let stamp = fields.as_ref().and_then(|fields| fields["stamp"].as_str());
    stamp.map_or(payload, str::as_bytes).to_vec()
}

fn is_of(payload: &[u8], name: &str) -> bool {
    Stamp::parse(payload).is_ok_and(|stamp| stamp.client.contains(name))
}

impl World {
    /// A first start without a cut: the first user, a token, the binding, and both subscriptions.
    fn prepare(program: Program) -> Result<Self> {
        let mut server = program.start()?;
        let logged = program.logged()?;
        let link = logged.split_once("/setup#").context("no link for the first user in the logs")?.1;
        let setup = link.split_whitespace().next().unwrap_or_default();
        let user = json!({ "token": setup, "user": "anna", "password": PASSWORD });
        server.ask("POST", "/api/v1/setup", &user.to_string())?;
        let password = program.folder.join("password");
        std::fs::write(&password, PASSWORD)?;
        let output = Command::new(&program.binary)
            .args(["token", "create", "powercut", "--role", "admin", "--login", "anna", "--login-password-file"])
            .arg(&password)
            .args(["--url", &format!("http://{}", server.http)])
            .current_dir(&program.folder)
            .output()?;
        ensure!(output.status.success(), "token create: {}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8(output.stdout)?.trim().to_owned();
        server.token = Some(token.clone());
        let binding = bind(&server, 0)?;

        let plain = [(V311, 1), (V5, 1), (V311, 2), (V5, 2)].map(|(version, qos)| ("plain", version, qos));
        let others = [("rows", V5, 1), ("rows", V311, 2), ("retained", V311, 1), ("retained", V5, 2)];
        let publishers = plain.into_iter().chain(others).map(|(name, version, qos)| {
            let mut publisher = Publisher::new(&format!("cut/{name}"), name, version, qos);
            publisher.retain = name == "retained";
            if name == "rows" {
                publisher.payload = reading;
            }
            publisher
        });
        let mut world = Self {
            program,
            token,
            histories: [History::new(), History::new()],
            publishers: publishers.collect(),
            live: Subscriber::new("live", V5, 2),
            sleeper: Subscriber::new("sleeper", V311, 2),
            answers: Mutex::new(Answers { binding, ..Answers::default() }),
            last_start: Duration::ZERO,
        };
        for subscriber in [&mut world.live, &mut world.sleeper] {
            let mut client = subscriber.connect(server.mqtt)?;
            client.subscribe(TOPICS, subscriber.qos)?;
            client.leave()?;
        }
        server.kill()?;
        Ok(world)
    }

    fn acked(&self) -> u64 {
        self.histories.iter().map(History::acked).sum()
    }

    fn start(&mut self) -> Result<Server> {
        let since = Instant::now();
        let mut server = self.program.start()?;
        self.last_start = since.elapsed();
        server.token = Some(self.token.clone());
        Ok(server)
    }

    /// Cut after cut, and what is there after each; then everybody finishes. Gives how many messages were acknowledged.
    fn live_through(
        &mut self,
        fs: &str,
        cuts: u64,
        image: &mut Image,
        rng: &mut SmallRng,
        table: &mut Vec<Row>,
    ) -> Result<u64> {
        let mut total = 0;
        let mut server = self.start()?;
        for (cut, moment) in (0..cuts).zip(MOMENTS.into_iter().cycle()) {
            let context = || format!("{fs}, cut {cut}, {moment:?}");
            let acked = match moment {
                Moment::Start => {
                    server.kill()?;
                    self.cut_start(image, rng).map(|()| 0)
                }
                Moment::Load | Moment::Stop => self.cut_life(server, moment, image, rng),
            };
            let acked = acked.with_context(context)?;
            total += acked;
            image.unmount()?;
            image.mount()?;
            server = self.start().with_context(context)?;
            let found = self.look(&server).with_context(context)?;
            let row = Row { fs: fs.to_owned(), cut, moment, acked, found };
            println!("powercut: server: {row}");
            table.push(row);
        }
        self.finish(&server).with_context(|| format!("{fs}, after all cuts"))?;
        let all = self.acked();
        ensure!(total > cuts, "{fs}: too little happened: {total} messages in {cuts} cuts");
        server.terminate()?;
        Ok(all)
    }

    /// The plug is pulled before the server is ready.
    fn cut_start(&self, image: &Image, rng: &mut SmallRng) -> Result<()> {
        let starting = self.program.spawn()?;
        // The moment is the fault: nothing is waited for.
        std::thread::sleep(self.last_start.mul_f64(rng.random_range(0.0..1.0)));
        image.pull_the_plug()?;
        starting.kill()
    }

    /// Everybody does what they do until the plug is pulled. Gives how many messages were acknowledged.
    fn cut_life(&mut self, server: Server, moment: Moment, image: &Image, rng: &mut SmallRng) -> Result<u64> {
        let Self { histories, publishers, live, answers, .. } = self;
        let acked = || histories.iter().map(History::acked).sum::<u64>();
        let (acked_before, line, is_stopping) = (acked(), Line::from(server.mqtt), AtomicBool::new(false));
        std::thread::scope(|scope| -> Result<()> {
            let (line, is_stopping, server_ref) = (&line, &is_stopping, &server);
            let mut threads = Vec::new();
            for publisher in publishers {
                let history = &histories[usize::from(publisher.qos) - 1];
                threads.push(scope.spawn(move || {
                    let result = publisher.run(line.clone(), history, false);
                    ended(result).with_context(|| publisher.name.clone())
                }));
            }
            threads.push(scope.spawn(move || {
                let result = live.connect(line.clone()).and_then(|mut client| live.run(&mut client, |_| false));
                ended(result).context("live subscriber")
            }));
            threads.push(scope.spawn(move || change_things(server_ref, line, is_stopping, answers)));

            let since = Instant::now();
            while acked() == acked_before && since.elapsed() < PATIENCE {
                std::thread::sleep(STEP);
            }
            // The moment is the fault: nothing is waited for.
            std::thread::sleep(Duration::from_millis(rng.random_range(20..1_500)));
            if matches!(moment, Moment::Stop) {
                is_stopping.store(true, Ordering::SeqCst);
                server.tell_to_stop()?;
                std::thread::sleep(Duration::from_millis(rng.random_range(0..200)));
            }
            line.cut();
            let pulled = image.pull_the_plug();
            server.stop_now()?;
            threads.into_iter().try_for_each(|thread| thread.join().expect("clients do not panic"))?;
            pulled
        })?;
        let acked = acked() - acked_before;
        ensure!(acked > 0, "nothing was acknowledged within {PATIENCE:?}");
        Ok(acked)
    }

    /// Compares what is there with what was promised.
    fn look(&mut self, server: &Server) -> Result<Found> {
        for counter in ["floodplain_log_damaged_ranges_total", "floodplain_fold_damaged_snapshots_total"] {
            let count = server.counted(counter)?;
            ensure!(count == 0, "a power cut is no damage, but {counter} is {count}");
        }
        let tokens = self.look_at_answers(server)?;
        let acked = self.acked();
        let log = self.look_at_log(server)?;
        let messages: BTreeSet<&[u8]> = log.iter().map(Vec::as_slice).collect();
        let woken = self.wake(server, &messages)?;
        Ok(Found {
            records: log.len(),
            unanswered: messages.len() - usize::try_from(acked)?,
            rows: look_at_rows(server, &log)?,
            woken,
            retained: self.look_at_retained(server, &log)?,
            tokens,
            start: self.last_start,
        })
    }

    /// Tokens and the binding; how many tokens there are.
    fn look_at_answers(&self, server: &Server) -> Result<usize> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let list: Value = serde_json::from_str(&server.get("/api/v1/tokens?limit=1000")?)?;
        let tokens = list["tokens"].as_array().context("no tokens")?;
        let tokens: BTreeSet<_> = tokens.iter().filter_map(|token| token["id"].as_str().map(str::to_owned)).collect();
        let lost: Vec<_> = answers.tokens.difference(&tokens).collect();
        ensure!(lost.is_empty(), "tokens are lost: {lost:?}");
        let list: Value = serde_json::from_str(&server.get("/api/v1/bindings")?)?;
        let mut bindings = list["bindings"].as_array().context("no bindings")?.iter();
        let binding = bindings.find(|binding| binding["name"] == "cuts").context("the binding is lost")?;
        let version = binding["version"].as_u64().context("a binding without version")?;
        ensure!(version >= answers.binding, "the binding has version {version}, and had {}", answers.binding);
        Ok(tokens.len())
    }

    /// All messages of the log, as the checker knows them, in its order.
    fn look_at_log(&self, server: &Server) -> Result<Vec<Vec<u8>>> {
        let log: Vec<_> = server.log("cut/%")?.iter().map(|payload| bare(payload)).collect();
        let count = server.csv("SELECT count(*) FROM records WHERE topic LIKE 'cut/%'")?;
        ensure!(count == [log.len().to_string()], "{} records, but SQL counts {count:?}", log.len());
        self.check("log", &log, [Copies::PerAttempt, Copies::PerAttempt])?;
        for qos in [1, 2] {
            let history = &self.histories[qos - 1];
            history.keep(log.iter().filter(|payload| is_of(payload, &format!("qos{qos}"))).map(Vec::as_slice));
        }
        Ok(log)
    }

    fn check(&self, reader: &str, payloads: &[Vec<u8>], copies: [Copies; 2]) -> Result<()> {
        for (qos, copies) in (1..).zip(copies) {
            let of_qos = payloads.iter().filter(|payload| is_of(payload, &format!("qos{qos}")));
            let report = self.histories[qos - 1].check(of_qos.map(Vec::as_slice), copies);
            ensure!(report.violations.is_empty(), "{reader}, QoS {qos}: {report}");
        }
        let strange = payloads.iter().find(|payload| !is_of(payload, "qos"));
        ensure!(strange.is_none(), "{reader}: {strange:?} was never published");
        Ok(())
    }

    /// The sleeper wakes, takes all that it has slept through, and sleeps again. Gives how much that was.
    fn wake(&mut self, server: &Server, messages: &BTreeSet<&[u8]>) -> Result<usize> {
        let had = self.sleeper.got.len();
        let mut client = self.sleeper.connect(server.mqtt)?;
        catch_up(&mut self.sleeper, &mut client, messages)?;
        client.leave()?;
        self.check_subscriber(&self.sleeper)?;
        Ok(self.sleeper.got.len() - had)
    }

    fn check_subscriber(&self, subscriber: &Subscriber) -> Result<()> {
        let got: Vec<_> = subscriber.got.iter().map(|payload| bare(payload)).collect();
        self.check(subscriber.name, &got, [Copies::Any, Copies::PerAttempt])
    }

    /// The retained message of a topic is the newest one that the log has. Gives how many there are.
    fn look_at_retained(&self, server: &Server, log: &[Vec<u8>]) -> Result<usize> {
        let mut count = 0;
        for publisher in self.publishers.iter().filter(|publisher| publisher.retain) {
            let of_it = log.iter().filter(|payload| is_of(payload, &publisher.name));
            let newest = of_it.filter_map(|payload| Stamp::parse(payload).ok()).next_back();
            let mut client = Client::clean(server.mqtt, publisher.version, "looks at retained messages")?;
            client.subscribe(&publisher.topic, 1)?;
            if let Some(newest) = newest {
                let message = client.message()?;
                let stamp = Stamp::parse(&message.payload)?;
                ensure!(message.retain, "{}: {stamp:?} comes as if it were new", publisher.topic);
                ensure!(stamp == newest, "{}: {stamp:?} is retained, the newest is {newest:?}", publisher.topic);
                let (least, most) = (publisher.newest_acked(), publisher.newest_tried());
                ensure!((least..=most).contains(&stamp.seq), "{stamp:?} is retained, {least} was acknowledged");
                count += 1;
            }
            client.leave()?;
        }
        Ok(count)
    }

    /// The last life: everybody brings to its end what is open.
    fn finish(&mut self, server: &Server) -> Result<()> {
        for publisher in &mut self.publishers {
            publisher.run(server.mqtt, &self.histories[usize::from(publisher.qos) - 1], true)?;
        }
        let found = self.look(server)?;
        ensure!(found.unanswered == 0, "everything was answered, but {found:?}");
        let log = self.look_at_log(server)?;
        let messages = log.iter().map(Vec::as_slice).collect();
        let mut client = self.live.connect(server.mqtt)?;
        catch_up(&mut self.live, &mut client, &messages)?;
        client.leave()?;
        self.check_subscriber(&self.live)
    }
}

/// Runs a subscriber until it has all messages.
fn catch_up(subscriber: &mut Subscriber, client: &mut Client, messages: &BTreeSet<&[u8]>) -> Result<()> {
    let missing = |subscriber: &Subscriber| -> usize {
        let got: BTreeSet<_> = subscriber.got.iter().map(|payload| bare(payload)).collect();
        messages.iter().filter(|message| !got.contains(**message)).count()
    };
    let since = Instant::now();
    subscriber.run(client, |subscriber| missing(subscriber) == 0 || since.elapsed() > PATIENCE)?;
    let missing = missing(subscriber);
    ensure!(missing == 0, "{} did not get {missing} of {} messages", subscriber.name, messages.len());
    Ok(())
}

/// Sets the binding; its version. Each change brings what is in memory into files first.
fn bind(server: &Server, days: u64) -> Result<u64> {
    // No field with a time: each message is a row of its own, at the time of its receipt.
    let binding = json!({
        "filter": "cut/rows/+", "device_level": 3, "table": { "name": "readings" }, "key_columns": ["n"],
        "decoder": { "format": "json", "types": { "n": "int64" } }, "retention": format!("{}d", 100 + days),
    });
    let answer: Value = serde_json::from_str(&server.ask("PUT", "/api/v1/bindings/cuts", &binding.to_string())?)?;
    answer["version"].as_u64().with_context(|| format!("no version in {answer}"))
}

/// Makes tokens and changes the binding until the line is cut, and notes what was answered before.
fn change_things(server: &Server, line: &Line, is_stopping: &AtomicBool, answers: &Mutex<Answers>) -> Result<()> {
    for n in 0.. {
        let changed = if n % 3 == 0 {
            bind(server, n).map(|version| (None, version))
        } else {
            let token = json!({ "name": format!("token {n}"), "role": "viewer" });
            server.ask("POST", "/api/v1/tokens", &token.to_string()).and_then(|answer| {
                let made: Value = serde_json::from_str(&answer)?;
                Ok((Some(made["id"].as_str().context("a token without id")?.to_owned()), 0))
            })
        };
        if line.is_cut() {
            break;
        }
        match changed {
            Ok((token, version)) => {
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.tokens.extend(token);
                answers.binding = answers.binding.max(version);
            }
            Err(_) if is_stopping.load(Ordering::SeqCst) => break,
            Err(error) => bail!(error.context("a change over HTTP")),
        }
        std::thread::sleep(REQUEST_PAUSE);
    }
    Ok(())
}

/// The rows of the bound table are the messages of the log, each once. Gives how many there are.
fn look_at_rows(server: &Server, log: &[Vec<u8>]) -> Result<usize> {
    let mut messages: BTreeMap<&[u8], i64> = BTreeMap::new();
    for payload in log.iter().filter(|payload| is_of(payload, "rows")) {
        *messages.entry(payload).or_default() += 1;
    }
    if messages.is_empty() {
        return Ok(0);
    }
    let rows = server.csv("SELECT device, n, stamp FROM readings")?;
    for row in &rows {
        let [device, n, stamp] = row.split(',').collect::<Vec<_>>()[..] else { bail!("a row of other columns: {row}") };
        let named = Stamp::parse(stamp.as_bytes())?;
        ensure!(device == named.client && n == named.seq.to_string(), "{row} is of another message");
        *messages.entry(stamp.as_bytes()).or_default() -= 1;
    }
    let mut differences = messages.iter().filter(|(_, difference)| **difference != 0);
    let example = differences.next().map(|(stamp, more)| (String::from_utf8_lossy(stamp), more));
    ensure!(
        example.is_none(),
        "{} messages have another number of rows than of records, one of them {example:?}",
        1 + differences.count()
    );
    Ok(rows.len())
}
