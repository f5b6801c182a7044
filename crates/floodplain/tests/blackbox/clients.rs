//! Clients that were not written here: `mosquitto_pub`, `mosquitto_sub` and paho-mqtt.

use crate::{
    client::Client,
    target::{Target, each, each_version, tool},
    wire::{CONTENT_TYPE, MESSAGE_EXPIRY, Prop, Version},
};
use anyhow::{Context, Result, ensure};
use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// A Mosquitto client pointed at the target.
fn mosquitto(t: &Target, v: Version, name: &str) -> Command {
    let mut command = Command::new(tool(name));
    let version = if v == Version::V5 { "5" } else { "311" };
    command.args(["-h", &t.mqtt.ip().to_string(), "-p", &t.mqtt.port().to_string(), "-V", version]);
    command.stdin(Stdio::null());
    command
}

/// Runs to the end, which must be a success; returns what it printed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// [3:7.0.0-2]
#[test]
fn mosquitto_pub_is_heard_at_every_qos() {
    each_version(|t, v| {
        let mut subscriber = Client::clean(t.mqtt, Version::V5, &t.id("s"))?;
        subscriber.subscribe(&t.topic("#"), 2)?;
        for qos in ["0", "1", "2"] {
            let topic = t.topic(qos);
            output(mosquitto(t, v, "mosquitto_pub").args(["-t", &topic, "-q", qos, "-m", "hello ü"]))?;
            let got = subscriber.hears(&topic, "hello ü")?;
            ensure!(got.qos.to_string() == qos, "{got:?}");
        }
        Ok(())
    });
}

#[test]
fn mosquitto_pub_passes_properties() {
    each(|t| {
        let mut subscriber = Client::clean(t.mqtt, Version::V5, &t.id("s"))?;
        subscriber.subscribe(&t.topic("a"), 1)?;
        output(mosquitto(t, Version::V5, "mosquitto_pub").args(["-t", &t.topic("a"), "-q", "1", "-m", "x"]).args([
            "-D",
            "publish",
            "user-property",
            "unit",
            "km/h",
            "-D",
            "publish",
            "content-type",
            "text/plain",
            "-D",
            "publish",
            "message-expiry-interval",
            "600",
        ]))?;
        let got = subscriber.hears(&t.topic("a"), "x")?;
        ensure!(got.user_props() == [("unit", "km/h")], "{got:?}");
        ensure!(got.props.contains(&Prop::Text(CONTENT_TYPE, "text/plain".into())), "{got:?}");
        ensure!(got.props.iter().any(|p| matches!(p, Prop::Four(MESSAGE_EXPIRY, 590..=600))), "{got:?}");
        Ok(())
    });
}

#[test]
fn mosquitto_sub_gets_the_retained_message() {
    each_version(|t, v| {
        let topic = t.topic("a");
        output(mosquitto(t, v, "mosquitto_pub").args(["-t", &topic, "-q", "1", "-r", "-m", "kept"]))?;
        let got = output(mosquitto(t, v, "mosquitto_sub").args([
            "-t",
            &topic,
            "-q",
            "1",
            "-C",
            "1",
            "-W",
            "20",
            "-F",
            "%q %r %t %p",
        ]))?;
        ensure!(got == format!("1 1 {topic} kept\n"), "{got}");
        output(mosquitto(t, v, "mosquitto_pub").args(["-t", &topic, "-q", "1", "-r", "-n"]))?;
        Ok(())
    });
}

#[test]
fn mosquitto_sub_sleeps_and_gets_all_lines_in_order() {
    each_version(|t, v| {
        for qos in ["1", "2"] {
            let (id, filter, topic) = (t.id(qos), t.topic(&format!("{qos}/#")), t.topic(&format!("{qos}/lines")));
            let subscriber = |more: &[&str]| {
                let mut command = mosquitto(t, v, "mosquitto_sub");
                command.args(["-i", &id, "-c", "-q", qos, "-t", &filter]).args(more);
                if v == Version::V5 {
                    command.args(["-x", "600"]);
                }
                command
            };
            // -E: leave after the SUBACK.
            output(&mut subscriber(&["-E"]))?;
            let lines: String = (0..500).map(|n| format!("{{\"n\":{n}}}\n")).collect();
            let mut publisher =
                mosquitto(t, v, "mosquitto_pub").args(["-q", qos, "-t", &topic, "-l"]).stdin(Stdio::piped()).spawn()?;
            publisher.stdin.take().context("stdin")?.write_all(lines.as_bytes())?;
            ensure!(publisher.wait()?.success());
            let got = output(&mut subscriber(&["-C", "500", "-W", "20"]))?;
            ensure!(got == lines, "{} lines came:\n{got}", got.lines().count());
        }
        Ok(())
    });
}

#[test]
fn will_of_a_killed_mosquitto_sub() {
    each_version(|t, v| {
        let mut listener = Client::clean(t.mqtt, v, &t.id("l"))?;
        listener.subscribe(&t.topic("will"), 1)?;
        // Its retained message tells when it is connected and subscribed.
        listener.publish(crate::wire::Publish::new(t.topic("hello"), "x", 1).retained())?;
        let mut child = mosquitto(t, v, "mosquitto_sub")
            .args([
                "-t",
                &t.topic("hello"),
                "--will-topic",
                &t.topic("will"),
                "--will-payload",
                "gone",
                "--will-qos",
                "1",
            ])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = [0; 2];
        std::io::Read::read_exact(child.stdout.as_mut().context("stdout")?, &mut line)?;
        child.kill()?;
        child.wait()?;
        listener.hears(&t.topic("will"), "gone")?;
        listener.publish(crate::wire::Publish::new(t.topic("hello"), "", 1).retained())?;
        Ok(())
    });
}

/// Runs one function of `paho_cases.py` in both protocol versions.
fn paho(case: &str) {
    each_version(|t, v| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/blackbox/paho_cases.py");
        let version = if v == Version::V5 { "5" } else { "4" };
        output(
            Command::new(floodplain_testkit::python())
                .arg(script)
                .args([case, &t.mqtt.ip().to_string(), &t.mqtt.port().to_string(), &t.prefix, version])
                .stdin(Stdio::null()),
        )?;
        Ok(())
    });
}

#[test]
fn paho_round_trip() {
    paho("round_trip");
}

/// [3:7.0.0-2]
#[test]
fn paho_session() {
    paho("session");
}

#[test]
fn paho_retained_and_will() {
    paho("retained_and_will");
}

#[test]
fn paho_properties() {
    paho("properties");
}
