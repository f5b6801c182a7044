//! Where Kafka's classes are, and how Java is started with them.

use super::error::{Error, Result};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Kafka's jars, as `cargo xtask tools` installs them.
#[derive(Debug, Clone)]
pub struct KafkaJars {
    folder: PathBuf,
}

impl KafkaJars {
    /// Those in `$FLOODPLAIN_TEST_TOOLS/kafka`, or in `~/.cache/floodplain/tools/kafka`.
    ///
    /// # Errors
    /// They are not there: nothing is downloaded here.
    pub fn find() -> Result<Self> {
        Self::at(&crate::tools().join("kafka"))
    }

    /// Those in `<folder>/lib`.
    ///
    /// # Errors
    /// They are not there.
    pub fn at(folder: &Path) -> Result<Self> {
        // The pom is written last, so it says that the jars are complete.
        if folder.join("pom.xml").is_file() {
            Ok(Self { folder: folder.to_owned() })
        } else {
            Err(Error::NoJars(folder.to_owned()))
        }
    }

    /// The folder that has them in `lib`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One of Kafka's command line tools, such as `org.apache.kafka.tools.TopicCommand`; its arguments are to be added.
    #[must_use]
    pub fn tool(&self, class: &str) -> Command {
        let flags = ["-Xmx128m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"];
        let mut java = self.java(&flags.map(str::to_owned));
        java.arg(class);
        java
    }

    /// Java with Kafka's classes, its log on stderr; the class is to be added.
    pub(super) fn java(&self, flags: &[String]) -> Command {
        let mut java = Command::new("java");
        java.args(["-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true"]).args(flags);
        // Classes that are read, checked and laid out already: a third less CPU until a broker is ready. Java takes
        // them only if they are of this JDK and these jars, and says no word if not.
        let archive = self.folder.join("classes.jsa");
        if archive.is_file() {
            java.arg(format!("-XX:SharedArchiveFile={}", archive.display())).args(["-Xshare:auto", "-Xlog:disable"]);
        }
        java.arg("-cp").arg(self.folder.join("lib/*"));
        java
    }
}
