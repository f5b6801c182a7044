//! The console's own tests: types, its pages in a browser against a mock, and whether `ui/dist` is what the sources give.
//! Against the real server it is tested by `crates/floodplain/tests/it/console.rs`.

use crate::{
    run::{root, run},
    tools::{Tools, is_offline},
};
use anyhow::{Context as _, Result};
use std::{fs, path::PathBuf};

fn folder() -> PathBuf {
    root().join("ui")
}

/// Installs the packages that `package-lock.json` names, if it is another than last time.
pub(crate) fn install(tools: &Tools) -> Result<()> {
    let lock = folder().join("package-lock.json");
    let wanted = fs::read(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    // Written last, so it says that what is beside it is complete.
    let installed = folder().join("node_modules/.installed");
    if fs::read(&installed).is_ok_and(|had| had == wanted) {
        return Ok(());
    }
    // The cache outlives the clone. No scripts: packages are files, and run when they are called.
    let mut npm = tools.npm();
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache"]).arg(tools.folder().join("npm"));
    npm.arg(if is_offline() { "--offline" } else { "--prefer-offline" });
    run(npm.current_dir(folder())).context("cannot install what the console is built of")?;
    fs::write(installed, wanted)?;
    Ok(())
}

/// The tests, against the mock.
pub(crate) fn test(tools: &Tools) -> Result<()> {
    for script in ["check", "test"] {
        // For people: another server than the mock, and pictures.
        run(tools.npm().args(["run", script]).current_dir(folder()).env_remove("FLOODPLAIN_URL").env_remove("SHOTS"))?;
    }
    Ok(())
}
