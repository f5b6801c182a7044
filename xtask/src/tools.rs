//! What the tests need beside Rust: other people's clients, brokers and tools to compare with.
//!
//! Everything is looked for first, so that a second run, or a run without a network, does nothing.

mod classes;
mod node;

use crate::{console, run::run};
use anyhow::{Context as _, Result, bail};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Program, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 17] = [
    ("gcc", "gcc"),
    ("curl", "curl"),
    ("chromium", "chromium"),
    ("losetup", "mount"),
    ("kcat", "kcat"),
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("nats-server", "nats-server"),
    ("mkfs.ext4", "e2fsprogs"),
    ("xfs_io", "xfsprogs"),
    JAVA[0],
    JAVA[1],
    JAVA[2],
    ("python3", "python3"),
    ("psql", "postgresql-client"),
    ("pg_ctlcluster", "postgresql"),
    ("npm", "npm"),
];

/// What runs Kafka, what fetches it, and what stops it.
const JAVA: [(&str, &str); 3] = [("javac", "default-jdk-headless"), ("mvn", "maven"), ("kill", "procps")];

/// Modules of Python, and where they come from: independent clients of MQTT, PostgreSQL, InfluxDB and Kafka, a reader of Arrow, what drives a browser, and what
/// finds barriers in its pages.
const PYTHON: [(&str, &str); 8] = [
    ("paho.mqtt.client", "paho-mqtt==2.1.0"),
    ("psycopg", "psycopg[binary]==3.2.10"),
    ("sqlalchemy", "SQLAlchemy==2.0.58"),
    ("pyarrow", "pyarrow==21.0.0"),
    ("influxdb_client", "influxdb-client==1.50.0"),
    ("confluent_kafka", "confluent-kafka==2.16.1"),
    ("playwright", "playwright==1.65.2"),
    ("axe_playwright_python", "axe-playwright-python==0.1.8"),
];

/// The version of cargo-deny that is installed where there is none.
const DENY: &str = "0.20.2";

/// A server of object storage that keeps objects as files. It is to be ready soon, not fast.
const S3: (&str, [&str; 5]) = ("s3s-fs", ["--version", "0.14.1", "--features", "binary", "--debug"]);

/// Servers that Debian starts when it installs them: their ports would be taken.
const SERVICES: [&str; 3] = ["mosquitto", "nats-server", "postgresql"];

/// Apache Kafka: brokers for the tests, its own tools and client, which judge our record batches, and where all of these
/// write their logs.
const KAFKA: [(&str, &str, &str); 3] = [
    ("org.apache.kafka", "kafka_2.13", "4.3.1"),
    ("org.apache.kafka", "kafka-tools", "4.3.1"),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
];

/// The driver by which Java asks PostgreSQL.
const JDBC: [(&str, &str, &str); 1] = [("org.postgresql", "postgresql", "42.7.7")];

/// Where the tools are.
#[derive(Debug)]
pub(crate) struct Tools {
    folder: PathBuf,
    /// The folder of a node of our own, if that of the system is too old.
    node: Option<PathBuf>,
}

impl Tools {
    /// The value of `FLOODPLAIN_TEST_TOOLS` for the tests.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// npm, with a node that is new enough.
    pub(crate) fn npm(&self) -> Command {
        node::npm(self.node.as_deref())
    }
}

/// Installs what is missing.
pub(crate) fn install() -> Result<Tools> {
    let mut tools = present()?;
    debian_packages(&PROGRAMS, true)?;
    tools.python()?;
    tools.kafka()?;
    tools.jars("jdbc", &JDBC)?;
    cargo_program(S3.0, &S3.1)?;
    tools.node = node::own(&tools.folder)?;
    console::install(&tools)?;
    println!("tools are in {}", tools.folder.display());
    Ok(tools)
}

/// Installs what Apache Kafka needs, if it is missing, and nothing else.
pub(crate) fn install_kafka() -> Result<Tools> {
    let tools = present()?;
    debian_packages(&JAVA, false)?;
    tools.kafka()?;
    Ok(tools)
}

/// What is there.
pub(crate) fn present() -> Result<Tools> {
    Ok(Tools { folder: folder()?, node: None })
}

fn folder() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("FLOODPLAIN_TEST_TOOLS") {
        return Ok(PathBuf::from(folder));
    }
    let home = env::var_os("HOME").context("HOME is not set; set FLOODPLAIN_TEST_TOOLS to a folder for the tools")?;
    Ok(Path::new(&home).join(".cache/floodplain/tools"))
}

/// The path of cargo-deny, built first if it is missing.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    match find("cargo-deny") {
        Some(path) => Ok(path),
        None => cargo_program("cargo-deny", &["--version", DENY]),
    }
}

/// The path of a program from crates.io, built first if it is missing. `args` say which version, and how.
fn cargo_program(name: &str, args: &[&str]) -> Result<PathBuf> {
    let root = folder()?.join("cargo");
    let path = root.join("bin").join(name);
    if !path.exists() {
        may_download(name)?;
        let mut install = crate::run::cargo();
        install.args(["install", "--locked"]).args(args).args([name, "--root"]).arg(&root);
        // What is built for debugging is built so because that is soon done.
        run(install.env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    }
    Ok(path)
}

/// Installs those of `programs` that are missing, and the module of Python that makes virtual environments if wanted.
fn debian_packages(programs: &[(&str, &'static str)], venv: bool) -> Result<()> {
    let mut packages: Vec<&str> =
        programs.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    // Debian keeps this module of Python in a package of its own.
    let has_venv = || Command::new("python3").args(["-c", "import ensurepip"]).output();
    if venv && !has_venv().is_ok_and(|output| output.status.success()) {
        packages.push("python3-venv");
    }
    if packages.is_empty() {
        return Ok(());
    }
    let missing = packages.join(" ");
    may_download(&missing)?;
    if find("apt-get").is_none() {
        bail!("the tests need the Debian packages {missing}; this is not Debian, so install their programs by hand");
    }
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let as_root = |args: &[&str]| {
        let mut command = if is_root { Command::new("env") } else { Command::new("sudo") };
        run(command.arg("DEBIAN_FRONTEND=noninteractive").args(args))
    };
    if !is_root && find("sudo").is_none() {
        bail!("the tests need Debian packages; as root: apt-get install {missing}");
    }
    as_root(&["apt-get", "update", "--quiet"])?;
    let mut install = vec!["apt-get", "install", "--quiet", "--yes", "--no-install-recommends"];
    install.extend(&packages);
    as_root(&install).with_context(|| format!("cannot install {missing}"))?;
    // We want the programs. Services that were there before are left as they are.
    let services: Vec<&str> = SERVICES.into_iter().filter(|service| packages.contains(service)).collect();
    if !services.is_empty() && Path::new("/run/systemd/system").exists() {
        as_root(&[&["systemctl", "disable", "--now"], &services[..]].concat())?;
    }
    Ok(())
}

impl Tools {
    /// A virtual environment `venv` with all of [`PYTHON`].
    fn python(&self) -> Result<()> {
        let venv = self.folder.join("venv");
        let python = venv.join("bin/python");
        let imports = |module: &str| {
            let import = Command::new(&python).args(["-c", &format!("import {module}")]).output();
            import.is_ok_and(|output| output.status.success())
        };
        let missing = PYTHON.iter().filter(|(module, _)| !imports(module)).map(|(_, package)| *package);
        let missing: Vec<&str> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        may_download(&missing.join(" "))?;
        fs::create_dir_all(&self.folder)?;
        if !python.exists() {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        }
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(&missing))
    }

    /// The jars of Kafka, and the archive of their classes.
    fn kafka(&self) -> Result<()> {
        self.jars("kafka", &KAFKA)?;
        // Not every JDK can; what does not start without it either, a test will say.
        if let Err(error) = classes::archive(&self.folder.join("kafka")) {
            println!("Kafka's classes are not archived, so brokers start slower: {error:#}");
        }
        Ok(())
    }

    /// Jars, and those that they need, in `<name>/lib`.
    fn jars(&self, name: &str, artifacts: &[(&str, &str, &str)]) -> Result<()> {
        let folder = self.folder.join(name);
        let pom = pom(artifacts);
        // The pom is written last, so it says that the jars below it are complete.
        if fs::read_to_string(folder.join("pom.xml")).is_ok_and(|old| old == pom) {
            return Ok(());
        }
        may_download(&format!("jars of {name}"))?;
        let lib = folder.join("lib");
        if lib.exists() {
            fs::remove_dir_all(&lib)?;
        }
        fs::create_dir_all(&lib)?;
        let new = folder.join("pom.new.xml");
        fs::write(&new, &pom)?;
        run(Command::new("mvn")
            .args(["--batch-mode", "--quiet", "--file"])
            .arg(&new)
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", lib.display())))?;
        fs::rename(new, folder.join("pom.xml"))?;
        Ok(())
    }
}

fn pom(artifacts: &[(&str, &str, &str)]) -> String {
    let dependencies: String = artifacts
        .iter()
        .map(|(group, artifact, version)| {
            format!(
                "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
                 <version>{version}</version></dependency>\n"
            )
        })
        .collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n  <modelVersion>4.0.0</modelVersion>\n  \
         <groupId>floodplain</groupId>\n  <artifactId>test-tools</artifactId>\n  <version>1</version>\n  \
         <packaging>pom</packaging>\n  <dependencies>\n{dependencies}  </dependencies>\n</project>\n"
    )
}

/// A program on the search path, or where Debian keeps those for root.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Whether nothing may be downloaded.
pub(crate) fn is_offline() -> bool {
    env::var_os("FLOODPLAIN_TEST_OFFLINE").is_some_and(|value| value != "0")
}

pub(crate) fn may_download(what: &str) -> Result<()> {
    if is_offline() {
        bail!("{what} is missing, and FLOODPLAIN_TEST_OFFLINE forbids to download it");
    }
    println!("missing: {what}");
    Ok(())
}
