//! Power cuts, kills and brokers that fail, more of them than every run of the tests could have.

use crate::{
    run::{self, GROUPS, Steps, cargo, target},
    tools,
};
use anyhow::{Result, bail};

/// The campaigns that take too long, or need too many rights, for every run of the tests.
pub(crate) fn run(args: &[String]) -> Result<()> {
    match of_kafka(args)? {
        Some(args) => kafka(&args),
        None => embedded(args),
    }
}

/// Brokers, owners and writers of the log on Kafka, hurt at random.
fn kafka(args: &[String]) -> Result<()> {
    let tools = tools::install_kafka()?;
    run::run(
        cargo()
            .args(["run", "--release", "--locked", "--package", "floodplain-log-kafka", "--features", "kafka"])
            .args(["--example", "faults", "--"])
            .args(args)
            .env("FLOODPLAIN_TEST_TOOLS", tools.folder()),
    )
}

/// What its campaign is given, if the engine is Kafka.
fn of_kafka(args: &[String]) -> Result<Option<Vec<String>>> {
    let (mut engine, mut of_kafka) = ("embedded", Vec::new());
    for pair in args.chunks(2) {
        match pair {
            [flag, value] if flag == "--engine" => engine = value,
            _ => of_kafka.extend_from_slice(pair),
        }
    }
    match engine {
        "embedded" => Ok(None),
        "kafka" => {
            for pair in of_kafka.chunks(2) {
                let [flag, _] = pair else { bail!("{:?} needs a value", pair[0]) };
                if !["--faults", "--seed", "--only"].contains(&flag.as_str()) {
                    bail!("unknown flag {flag}: with --engine kafka use --faults, --seed and --only");
                }
            }
            Ok(Some(of_kafka))
        }
        other => bail!("unknown engine {other}: use embedded or kafka"),
    }
}

fn embedded(args: &[String]) -> Result<()> {
    let (of_log, of_server) = cuts(args)?;
    let tools = tools::install()?;
    // It says what it needs (root, usually); the rest of the campaign needs less, and runs.
    let powercut = |args: &[String]| {
        run::run(
            cargo()
                .args(["run", "--release", "--package", "floodplain-testkit", "--bin", "powercut", "--"])
                .args(args)
                .env("FLOODPLAIN_TEST_TOOLS", tools.folder()),
        )
    };
    Steps::all(|steps| {
        steps.each(&[
            ("power cuts", &|| powercut(&of_log)),
            // As `cargo xtask test` builds them, so that there is one set of artefacts.
            ("build tests", &|| {
                run::run(cargo().args(["test", "--release", "--locked"]).args(GROUPS[0]).arg("--no-run"))
            }),
            ("power cuts of the server", &|| powercut(&of_server)),
            ("kill loops", &|| {
                // The same tests as in `cargo xtask test`, with ten times the cycles.
                run::run(
                    cargo()
                        .args(["test", "--release", "--locked"])
                        .args(GROUPS[0])
                        .args(["--test", "blackbox", "kill"])
                        .env("FLOODPLAIN_TEST_TOOLS", tools.folder())
                        .env("FLOODPLAIN_TEST_KILLS", "1000"),
                )
            }),
        ])
    })
}

/// What `powercut` is given for the log, and for the server.
fn cuts(args: &[String]) -> Result<(Vec<String>, Vec<String>)> {
    let program = target().join("release/floodplain").to_string_lossy().into_owned();
    let (mut of_log, mut of_server) = (Vec::new(), vec!["server".to_owned(), "--program".to_owned(), program]);
    for pair in args.chunks(2) {
        let [flag, value] = pair else { bail!("{:?} needs a value", pair[0]) };
        match flag.as_str() {
            // It was understood before.
            "--engine" => {}
            "--cuts" => of_log.extend([flag.clone(), value.clone()]),
            "--server-cuts" => of_server.extend(["--cuts-each".to_owned(), value.clone()]),
            "--fs" | "--seed" => {
                [&mut of_log, &mut of_server].into_iter().for_each(|args| args.extend_from_slice(pair))
            }
            _ => {
                bail!("unknown flag {flag}: use --engine, --cuts, --server-cuts (on each file system), --fs and --seed")
            }
        }
    }
    Ok((of_log, of_server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_campaign_is_given_its_own_flags_and_those_of_both() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (of_log, of_server) = cuts(&words("--cuts 7 --server-cuts 3 --fs xfs")).unwrap();
        assert_eq!(of_log, words("--cuts 7 --fs xfs"));
        assert_eq!(of_server[3..], words("--cuts-each 3 --fs xfs"));
        assert!(cuts(&words("--cut 7")).is_err() && cuts(&words("--cuts")).is_err());
        assert_eq!(cuts(&words("--engine embedded --cuts 7")).unwrap().0, words("--cuts 7"));
    }

    #[test]
    fn the_campaign_of_kafka_has_flags_of_its_own() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let of_kafka = |text: &str| of_kafka(&words(text));
        assert_eq!(of_kafka("--cuts 7").unwrap(), None);
        assert_eq!(of_kafka("--engine embedded --cuts 7").unwrap(), None);
        assert_eq!(of_kafka("--engine kafka").unwrap(), Some(Vec::new()));
        assert_eq!(of_kafka("--faults 3 --engine kafka --seed 7").unwrap(), Some(words("--faults 3 --seed 7")));
        for wrong in ["--engine kafka --cuts 7", "--engine kafka --faults", "--engine nats", "--engine kafka --engine"]
        {
            assert!(of_kafka(wrong).is_err(), "{wrong}");
        }
    }
}
