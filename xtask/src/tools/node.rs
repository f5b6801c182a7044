//! A node that is new enough for the console: Debian 12 has an older one.

use super::may_download;
use crate::run::run;
use anyhow::{Result, bail, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest that will do, as in `ui/package.json`.
const OLDEST: (u32, u32) = (20, 19);

/// What is installed where there is none of that age, as npm's registry has it.
const VERSION: &str = "22.23.3";

/// The folder below `tools` with such a node, installed if it is missing; `None` if the system has one.
pub(super) fn own(tools: &Path) -> Result<Option<PathBuf>> {
    if is_new(Path::new("node")) {
        return Ok(None);
    }
    let machine = match env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => bail!("the console's tests need node {OLDEST:?} or newer, which npm has not for {other}"),
    };
    let (package, root) = (format!("node-linux-{machine}"), tools.join("node"));
    let folder = root.join("node_modules").join(&package).join("bin");
    if !is_new(&folder.join("node")) {
        let package = format!("{package}@{VERSION}");
        may_download(&package)?;
        fs::create_dir_all(&root)?;
        // The package of npm's package `node` for this machine: what the scripts of that would install.
        run(Command::new("npm")
            .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix"])
            .arg(&root)
            .arg(&package))?;
        ensure!(is_new(&folder.join("node")), "{package} has no node that works here");
    }
    Ok(Some(folder))
}

/// npm, by the node in `own` if there is one: it leaves out what is not for the node that runs it.
pub(super) fn npm(own: Option<&Path>) -> Command {
    let mut command = Command::new("npm");
    if let Some(own) = own {
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([own.to_owned()].into_iter().chain(env::split_paths(&path)));
        command.env("PATH", path.expect("the parts of a path can be joined"));
        // Debian's npm has its modules where Debian's node alone looks by itself.
        command.env("NODE_PATH", "/usr/share/nodejs");
    }
    command
}

fn is_new(node: &Path) -> bool {
    let said = Command::new(node).arg("--version").output();
    said.is_ok_and(|said| version(&String::from_utf8_lossy(&said.stdout)) >= Some(OLDEST))
}

/// The first two numbers of `v20.19.5`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix('v')?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_compared_by_number() {
        for (said, is_new) in [
            ("v20.19.0\n", true),
            ("v22.3.0\n", true),
            ("v18.20.4\n", false),
            ("v20.9.1\n", false),
            ("", false),
            ("node", false),
        ] {
            assert_eq!(version(said) >= Some(OLDEST), is_new, "{said:?}");
        }
    }
}
