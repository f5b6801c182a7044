//! Every command in the README and in the guides, run as it stands there.
//!
//! A block that starts with ```` ```sh ```` is run by bash, one server per file, in a folder of its
//! own. Addresses are not edited: the clients take them from where their users would set them
//! (variables, `mosquitto_pub`'s and curl's configuration files). A block of ```` ```text ```` behind
//! it is what it prints. A block of ```` ```python ```` is run, too, and a configuration file is checked. A block marked `sh not-run` starts servers or builds; those commands have
//! tests of their own, and here their arguments are checked.

use crate::process::{Server, floodplain};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// README and guides, with the number of blocks that each must have at least.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    let guides = std::fs::read_dir(root().join("docs/guides")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(guides.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    pages.sort();
    pages
}

/// A block of a page.
struct Block {
    /// What stands behind the quotes that open it.
    kind: String,
    /// Its first line.
    line: usize,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in page.lines().enumerate() {
        match (&mut open, line.trim().strip_prefix("```")) {
            (Some(_), Some("")) => blocks.extend(open.take()),
            (Some(block), _) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, Some(kind)) => open = Some(Block { kind: kind.to_owned(), line: index + 2, text: String::new() }),
            (None, None) => {}
        }
    }
    blocks
}

/// The arguments that a line gives to our program.
fn arguments(line: &str) -> Option<Vec<&str>> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("floodplain ").or_else(|| line.strip_prefix("cargo run --release -- "))?;
    Some(rest.split_whitespace().collect())
}

#[test]
fn every_command_that_is_not_run_here_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in blocks(&text).iter().filter(|block| block.kind == "sh not-run") {
            for arguments in block.text.lines().filter_map(arguments) {
                // Help comes only where everything before it is known.
                let output = floodplain(folder.path()).args(&arguments).arg("--help").output().unwrap();
                assert!(output.status.success(), "{}:{}: {arguments:?}", page.display(), block.line);
                count += 1;
            }
        }
    }
    assert!(count >= 4, "only {count} commands were found");
}

#[test]
fn every_command_in_the_readme_and_the_guides_works() {
    let mut count = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let blocks = blocks(&text);
        if !blocks.iter().any(|block| block.kind == "sh") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path());
        let mut printed = None;
        for Block { kind, line, text } in blocks {
            let place = format!("{}:{line}", page.display());
            match kind.as_str() {
                "sh" => {
                    let output = run_block(folder.path(), &server, &text);
                    printed = Some(output.unwrap_or_else(|error| panic!("{place}: {error}")));
                    count += 1;
                }
                "python" => {
                    let script = folder.path().join("example.py");
                    // Python has no file that says where an address leads.
                    std::fs::write(&script, text.replace("127.0.0.1:8080", &server.http.to_string())).unwrap();
                    let output = run_block(folder.path(), &server, "python3 example.py");
                    output.unwrap_or_else(|error| panic!("{place}: {error}"));
                    count += 1;
                }
                "toml" => {
                    std::fs::write(folder.path().join("example.toml"), &text).unwrap();
                    let output = run_block(folder.path(), &server, "floodplain config check --config example.toml");
                    output.unwrap_or_else(|error| panic!("{place}: {error}"));
                    count += 1;
                }
                "text" => assert_eq!(printed.take().as_deref(), Some(text.as_str()), "{place}"),
                _ => {}
            }
        }
    }
    assert!(count >= 5, "only {count} blocks were found");
}

/// What the block prints.
fn run_block(folder: &Path, server: &Server, block: &str) -> Result<String, String> {
    let config = folder.join("config");
    std::fs::create_dir_all(&config).unwrap();
    for client in ["mosquitto_pub", "mosquitto_sub"] {
        std::fs::write(config.join(client), format!("-h 127.0.0.1\n-p {}\n", server.mqtt.port())).unwrap();
    }
    let connect_to = format!("connect-to = \"127.0.0.1:8080:{}\"\n", server.http);
    std::fs::write(folder.join(".curlrc"), connect_to).unwrap();

    let command = floodplain(folder);
    let programs = Path::new(command.get_program()).parent().unwrap();
    let mut path = OsString::from(programs);
    // Python with the modules that the examples import.
    path.push(":");
    path.push(floodplain_testkit::tools().join("venv/bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let output = Command::new("timeout")
        .args(["120", "bash", "-euo", "pipefail", "-c", block])
        .current_dir(folder)
        .env("PATH", path)
        .env("HOME", folder)
        .env("CURL_HOME", folder)
        .env("XDG_CONFIG_HOME", &config)
        .env("FLOODPLAIN_DATA_DIR", folder.join("data"))
        .env("FLOODPLAIN_MQTT__ADDRESS", server.mqtt.to_string())
        .env("FLOODPLAIN_HTTP__ADDRESS", server.http.to_string())
        .env("FLOODPLAIN_POSTGRES__ADDRESS", server.postgres.to_string())
        .env("PGHOST", server.postgres.ip().to_string())
        .env("PGPORT", server.postgres.port().to_string())
        .env("PGUSER", "anna")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        return String::from_utf8(output.stdout).map_err(|error| error.to_string());
    }
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
    Err(format!("{}\n$ {block}{text}\n{}", output.status, server.logged()))
}

#[test]
fn the_guide_lists_every_key_with_its_default() {
    let guide = std::fs::read_to_string(root().join("docs/guides/configuration.md")).unwrap();
    for key in floodplain_server::KEYS {
        let limits = key.limits.map_or(String::new(), |(min, max)| format!("{min} to {max}"));
        let row = format!("| `{}` | `{}` | {limits} | {} |", key.name, key.default, key.help);
        assert!(guide.contains(&row), "docs/guides/configuration.md lacks this line:\n{row}");
    }
}
