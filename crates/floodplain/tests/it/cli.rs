//! Configuration, exit codes, completions, doctor.

use crate::{
    process::{Server, floodplain, python, run, stderr, stdout},
    serve::Mqtt,
};
use std::path::Path;

/// Value and origin of `log.retention`... of any key, as `config show` prints them.
fn shown(folder: &Path, key: &str, variables: &[(&str, &str)], flags: &[&str]) -> (String, String) {
    let mut command = floodplain(folder);
    command.args(["config", "show", "--origin", "--output", "json"]).args(flags).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let shown: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let text = |field: &str| shown[key][field].as_str().unwrap().to_owned();
    (text("value"), text("origin"))
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let folder = tempfile::tempdir().unwrap();
    let check = |variables: &[(&str, &str)], flags: &[&str], value: &str, origin: &str| {
        let expected = (value.to_owned(), origin.to_owned());
        assert_eq!(shown(folder.path(), "mqtt.address", variables, flags), expected);
    };
    check(&[], &[], "127.0.0.1:1883", "default");
    std::fs::write(folder.path().join("floodplain.toml"), "[mqtt]\naddress = \"127.0.0.1:2001\"\n").unwrap();
    std::fs::write(folder.path().join("other.toml"), "mqtt.address = \"127.0.0.1:2002\"\n").unwrap();
    check(&[], &[], "127.0.0.1:2001", "file floodplain.toml");
    check(&[("FLOODPLAIN_CONFIG", "other.toml")], &[], "127.0.0.1:2002", "file other.toml");
    check(
        &[("FLOODPLAIN_CONFIG", "other.toml")],
        &["--config", "floodplain.toml"],
        "127.0.0.1:2001",
        "file floodplain.toml",
    );
    let variable = ("FLOODPLAIN_MQTT__ADDRESS", "127.0.0.1:2003");
    check(&[variable], &[], "127.0.0.1:2003", "environment FLOODPLAIN_MQTT__ADDRESS");
    check(&[variable], &["--mqtt-address", "127.0.0.1:2004"], "127.0.0.1:2004", "flag --mqtt-address");
    check(&[variable], &["--set", "mqtt.address=127.0.0.1:2005"], "127.0.0.1:2005", "flag --set");
    assert_eq!(
        shown(folder.path(), "data_dir", &[("FLOODPLAIN_DATA_DIR", "/var/lib/fleet")], &[]),
        ("/var/lib/fleet".to_owned(), "environment FLOODPLAIN_DATA_DIR".to_owned())
    );
}

#[test]
fn a_wrong_configuration_is_misuse_and_says_what_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let check = |file: &str, variable: Option<(&str, &str)>, text: &str| {
        std::fs::write(folder.path().join("floodplain.toml"), file).unwrap();
        for command in [&["config", "check"][..], &["serve"], &["doctor"]] {
            let output = floodplain(folder.path()).args(command).envs(variable).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{command:?}");
            assert!(stderr(&output).contains(text), "{}", stderr(&output));
        }
    };
    check("[mqtt]\nadress = \"x\"", None, "the nearest is \"mqtt.address\"");
    check("", Some(("FLOODPLAIN_HTTP__ADRESS", "x")), "the nearest is \"FLOODPLAIN_HTTP__ADDRESS\"");
    check("http.address = \"nowhere\"", None, "must be an IP address and a port");
    check("http.address = \"0.0.0.0:8080\"", None, "must be a loopback address");
    check("[http", None, "is not valid TOML");
    check("", Some(("FLOODPLAIN_CONFIG", "missing.toml")), "cannot read the configuration file missing.toml");
}

#[test]
fn a_right_configuration_passes_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["config", "check"]);
    assert!(output.status.success());
    assert_eq!(stdout(&output), "the configuration is valid (no file)\n");
    std::fs::write(folder.path().join("good.toml"), "mqtt.address = \"127.0.0.1:1884\"\n").unwrap();
    let output = run(folder.path(), &["config", "check", "--config", "good.toml", "--output", "json"]);
    assert_eq!(stdout(&output), "{\"valid\":true,\"file\":\"good.toml\"}\n", "{}", stderr(&output));
}

#[test]
fn misuse_exits_with_2_and_help_with_0() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&[][..], &["nonsense"], &["serve", "--nonsense"], &["config", "show", "--output", "xml"]] {
        assert_eq!(run(folder.path(), args).status.code(), Some(2), "{args:?}");
    }
    for args in [&["--help"][..], &["help", "serve"], &["--version"], &["version"]] {
        let output = run(folder.path(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    // Bound and not listened to, so that nobody else answers there.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let output = run(folder.path(), &["sql", "--url", &format!("http://{address}"), "SELECT 1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address.to_string()), "{}", stderr(&output));
}

#[test]
fn numbers_that_make_no_sense_are_misuse() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["sim", "--rate", "0"][..],
        &["sim", "--rate=-1"],
        &["sim", "--rate", "NaN"],
        &["sim", "--rate", "1e-300"],
        &["sim", "--seconds=-1"],
        &["sim", "--faults", "1.5"],
        &["demo", "--rate", "0"],
        &["demo", "--rate", "inf"],
        &["sub", "-t", "a", "-W=-1"],
        &["bench", "mqtt", "b1", "--warm-up=-1"],
        &["bench", "mqtt", "b1", "--seconds=-1"],
        &["bench", "mqtt", "b1", "--seconds", "0"],
        &["bench", "mqtt", "b1", "--seconds", "1e300"],
        &["bench", "mqtt", "l", "--rate", "0"],
    ] {
        let output = run(folder.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}

/// As in `floodplain config show | head -0`.
#[test]
fn a_closed_output_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["config", "show"][..],
        &["config", "show", "--output", "json"],
        &["config", "check"],
        &["completions", "bash"],
        &["version"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = floodplain(folder.path());
        let output = command.args(args).stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn completions_name_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(folder.path(), &["completions", shell]);
        assert!(output.status.success());
        for word in ["serve", "doctor", "ready-file"] {
            assert!(stdout(&output).contains(word), "{shell}: {word}");
        }
    }
    // Bash itself accepts the script.
    std::fs::write(folder.path().join("c.bash"), run(folder.path(), &["completions", "bash"]).stdout).unwrap();
    let status = std::process::Command::new("bash").args(["-n", "c.bash"]).current_dir(folder.path()).status();
    assert!(status.unwrap().success());
}

#[test]
fn doctor_measures_the_sync_of_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["doctor", "--output", "json", "--data-dir", "data"]);
    let findings: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let findings = findings.as_array().unwrap();
    let checks: Vec<&str> = findings.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    assert_eq!(
        checks,
        [
            "sync",
            "acknowledgement",
            "file system",
            "disk space",
            "file limit",
            "clock",
            "port mqtt",
            "port http",
            "port postgres"
        ]
    );
    assert!(findings[0]["data"]["p99_us"].as_u64() >= findings[0]["data"]["p50_us"].as_u64());
    // The exit code says the same as the findings, whatever this machine is like.
    let failed = findings.iter().any(|finding| finding["verdict"] == "failed");
    assert_eq!(output.status.code(), Some(i32::from(failed)));
    assert_eq!(std::fs::read_dir(folder.path().join("data")).unwrap().count(), 0, "doctor leaves nothing behind");
}

#[test]
fn queries_are_asked_for_in_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut mqtt = Mqtt::connect(server.mqtt, "truck-1");
    for n in 1..=5 {
        mqtt.publish("devices/truck-1/engine", &format!(r#"{{"rpm": {n}.5}}"#));
    }
    let home = folder.path().to_str().unwrap();
    python("terminal_cases.py", &[env!("CARGO_BIN_EXE_floodplain"), &format!("http://{}", server.http), home]);
    // Without a terminal there is nobody to ask.
    let output = run(folder.path(), &["sql"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("a query is missing"), "{}", stderr(&output));
}
