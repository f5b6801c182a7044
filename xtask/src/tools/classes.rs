//! An archive of the classes of a Kafka broker: Java finds them read, checked and laid out, so a broker is ready with a
//! third less CPU. Java makes it at the end of a run, for exactly this JDK and these jars.

use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

/// What a broker logs when it is ready.
const READY: &str = "Kafka Server started";

/// Makes `<folder>/classes.jsa` of the jars in `<folder>/lib`, unless it is there and Java takes it.
pub(super) fn archive(folder: &Path) -> Result<()> {
    let path = folder.join("classes.jsa");
    let java = || {
        let mut java = Command::new("java");
        java.args(["-XX:+UseSerialGC", "-Xmx256m"]).arg("-cp").arg(folder.join("lib/*"));
        java
    };
    let check = java().arg(option("SharedArchiveFile", &path)).args(["-Xshare:on", "--version"]).output();
    if check.context("cannot start java")?.status.success() {
        return Ok(());
    }
    println!("archiving the classes of a Kafka broker");
    let data = folder.join("archiving");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    fs::create_dir_all(&data)?;
    let properties = data.join("server.properties");
    let free = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
    let (client, controller) = (free()?, free()?);
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\nlog.dirs={}\n",
        data.join("data").display()
    );
    fs::write(&properties, text)?;
    let format = java()
        .args(["kafka.tools.StorageTool", "format", "--cluster-id", "Zmxvb2RwbGFpbi10ZXN0MQ", "--config"])
        .arg(&properties)
        .output()?;
    ensure!(format.status.success(), "kafka.tools.StorageTool: {}", String::from_utf8_lossy(&format.stderr));
    let new = folder.join("classes.new.jsa");
    let mut broker = java();
    broker.arg(option("ArchiveClassesAtExit", &new)).arg("kafka.Kafka").arg(&properties);
    let broker = broker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut broker = Broker(broker);
    let mut log = String::new();
    let mut is_stopping = false;
    for line in BufReader::new(broker.0.stderr.take().context("the broker has no log")?).lines() {
        let line = line?;
        if !is_stopping && line.contains(READY) {
            is_stopping = Command::new("kill").arg(broker.0.id().to_string()).status()?.success();
        }
        log += &line;
        log.push('\n');
    }
    broker.0.wait()?;
    ensure!(is_stopping, "a Kafka broker does not start:\n{log}");
    ensure!(new.is_file(), "java has made no archive of classes:\n{log}");
    fs::rename(new, path)?;
    fs::remove_dir_all(data)?;
    Ok(())
}

fn option(name: &str, path: &Path) -> String {
    format!("-XX:{name}={}", path.display())
}

/// Ends with us.
struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
