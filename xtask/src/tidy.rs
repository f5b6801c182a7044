//! Small rules that no lint knows.

use crate::run::{GROUPS, cargo, root};
use anyhow::{Context as _, Result, bail};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A file past this length tells more than one story.
const LINES_MAX: usize = 1_000;

pub(crate) fn tidy() -> Result<()> {
    let root = root();
    let mut files = Vec::new();
    walk(&root, &mut files)?;
    let mut faults = Vec::new();
    for path in &files {
        let name = path.strip_prefix(&root).unwrap_or(path).display();
        let Ok(text) = fs::read_to_string(path) else { continue };
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        let is_page = path.extension().is_some_and(|extension| extension == "md");
        if is_rust && text.lines().count() > LINES_MAX {
            faults.push(format!("{name}: {} lines; look for the second story", text.lines().count()));
        }
        for (number, line) in text.lines().enumerate() {
            let mut fault = |what: &str| faults.push(format!("{name}:{}: {what}", number + 1));
            if line.ends_with([' ', '\t']) && is_rust {
                fault("space at the end of the line");
            }
            for named in line.split("cargo xtask ").skip(1).filter(|_| is_page) {
                let named: String = named.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
                if crate::command(&named).is_none() {
                    fault(&format!("`cargo xtask {named}` is no command"));
                }
            }
            // Split, so that this file does not find itself.
            for word in
                [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[", "ignore"), concat!("dbg", "!(")]
            {
                if is_rust && line.contains(word) {
                    fault(&format!("`{word}` is not for committed code"));
                }
            }
        }
        if !text.is_empty() && !text.ends_with('\n') && is_rust {
            faults.push(format!("{name}: no line end at the end of the file"));
        }
    }
    decisions_are_listed(&root, &mut faults)?;
    arrows_point_down(&root, &mut faults)?;
    one_set_of_features(&mut faults)?;
    if !faults.is_empty() {
        bail!("{} faults\n{}", faults.len(), faults.join("\n"));
    }
    println!("{} files are tidy", files.len());
    Ok(())
}

/// Each decision is in the index of its folder.
fn decisions_are_listed(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    let folder = root.join("docs/decisions");
    let index = fs::read_to_string(folder.join("README.md")).context("cannot read docs/decisions/README.md")?;
    for entry in fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "README.md" && !index.contains(&format!("({name})")) {
            faults.push(format!("docs/decisions/{name}: not in the index docs/decisions/README.md"));
        }
    }
    Ok(())
}

/// A crate depends on crates below it in the table of `docs/ARCHITECTURE.md`, and only tests on the test kit.
fn arrows_point_down(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    const KIT: &str = "floodplain-testkit";
    let page = fs::read_to_string(root.join("docs/ARCHITECTURE.md")).context("cannot read docs/ARCHITECTURE.md")?;
    let named = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let order: Vec<&str> = named.filter(|name| name.starts_with("floodplain")).collect();
    let place = |name: &str| order.iter().position(|known| *known == name);
    for entry in fs::read_dir(root.join("crates"))? {
        let entry = entry?;
        let (name, file) = (entry.file_name().to_string_lossy().into_owned(), entry.path().join("Cargo.toml"));
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let Some(own) = place(&name) else {
            faults.push(format!("crates/{name}: not in the table of crates of docs/ARCHITECTURE.md"));
            continue;
        };
        let dependencies = text.split("\n[").find_map(|section| section.strip_prefix("dependencies]"));
        let used = dependencies.into_iter().flat_map(str::lines).filter_map(|line| line.split(['.', ' ']).next());
        for used in used.filter(|used| used.starts_with("floodplain")) {
            if used == KIT || (name != KIT && place(used).is_none_or(|at| at <= own)) {
                faults.push(format!("crates/{name}: depends on {used}, against the arrows of docs/ARCHITECTURE.md"));
            }
        }
    }
    Ok(())
}

/// What `cargo run` builds, the tests use again. A crate whose features differ between the two
/// is compiled twice, and with it all that depend on it, in the end DataFusion: twenty minutes.
fn one_set_of_features(faults: &mut Vec<String>) -> Result<()> {
    let tree = |packages: &[&str], edges: &str| -> Result<BTreeSet<String>> {
        let mut command = cargo();
        command
            .args(["tree", "--locked", "--prefix", "none", "--format", "{p} [{f}]", "--edges", edges])
            .args(packages);
        let output = command.output().context("cannot start cargo")?;
        if !output.status.success() {
            bail!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let lines = String::from_utf8(output.stdout)?;
        Ok(lines.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect())
    };
    let tested = tree(GROUPS[0], "normal,build,dev")?;
    for package in ["floodplain", "floodplain-sql"] {
        let alone = tree(&["--package", package], "normal,build")?;
        // Our own crates may differ by Kafka, and with them what it needs.
        for line in alone.difference(&tested).filter(|line| !line.starts_with("floodplain")) {
            faults.push(format!(
                "{package} alone builds {line}, the tests build it with other features; name the missing ones in \
                 crates/floodplain-sql/Cargo.toml"
            ));
        }
    }
    Ok(())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            if !["target", ".git", "corpus", "artifacts", "node_modules"].iter().any(|skipped| name == *skipped) {
                walk(&path, files)?;
            }
        } else if ["rs", "toml", "md"].iter().any(|kind| path.extension().is_some_and(|extension| extension == *kind)) {
            files.push(path);
        }
    }
    Ok(())
}
