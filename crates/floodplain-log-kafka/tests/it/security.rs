//! A broker that speaks with those alone who know a password, under TLS.

use crate::fixture::{clock, open, stream, values, wait_for, write};
use floodplain_log_kafka::{KafkaConfig, KafkaLog, Sasl, SaslMechanism, Security, Tls};
use floodplain_testkit::kafka::{KafkaCluster, KafkaJars, KafkaOptions};
use floodplain_types::Position;
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const PASSWORD: &str = "s3cret";

/// A key with a certificate of its own for 127.0.0.1 in a key store, and the certificate as PEM.
fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (store, pem) = (dir.join(format!("{name}.p12")), dir.join(format!("{name}.pem")));
    let keytool = |args: &[&str]| {
        let common = ["-keystore", store.to_str().unwrap(), "-storepass", PASSWORD, "-alias", name];
        let output = Command::new("keytool").args(args).args(common).output().expect("a JDK has keytool");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    let key = ["-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12", "-dname", "CN=broker", "-validity", "2"];
    keytool(&[&key[..], &["-ext", "san=ip:127.0.0.1"]].concat());
    keytool(&["-exportcert", "-rfc", "-file", pem.to_str().unwrap()]);
    (store, pem)
}

/// One broker with a listener for users beside that of the harness; where that is.
fn start(dir: &Path, store: &Path) -> (KafkaCluster, String) {
    let jars = KafkaJars::find().unwrap();
    let data = dir.join("kafka");
    // The listeners of the first start are those of the second, and one more.
    drop(KafkaCluster::start(&jars, 1, &data, KafkaOptions::default()).unwrap());
    let properties = fs::read_to_string(data.join("broker-1/server.properties")).unwrap();
    let line = |name: &str| {
        let start = format!("{name}=");
        properties.lines().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let secure = format!("SECURE://127.0.0.1:{port}");
    let plain = format!("org.apache.kafka.common.security.plain.PlainLoginModule required user_node=\"{PASSWORD}\";");
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let settings = [
        ("listeners", format!("{},{secure}", line("listeners"))),
        ("advertised.listeners", format!("{},{secure}", line("advertised.listeners"))),
        ("listener.security.protocol.map", format!("{},SECURE:SASL_SSL", line("listener.security.protocol.map"))),
        ("listener.name.secure.ssl.keystore.location", store.display().to_string()),
        ("listener.name.secure.ssl.keystore.type", "PKCS12".to_owned()),
        ("listener.name.secure.ssl.keystore.password", PASSWORD.to_owned()),
        ("listener.name.secure.ssl.key.password", PASSWORD.to_owned()),
        ("listener.name.secure.sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned()),
        ("listener.name.secure.plain.sasl.jaas.config", plain),
        ("listener.name.secure.scram-sha-256.sasl.jaas.config", scram.to_owned()),
        ("listener.name.secure.scram-sha-512.sasl.jaas.config", scram.to_owned()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let cluster = KafkaCluster::start(&jars, 1, &data, KafkaOptions { settings, ..KafkaOptions::default() }).unwrap();
    // Each takes a request of its own.
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let mut configs = jars.tool("kafka.admin.ConfigCommand");
        let credential = format!("{mechanism}=[password={PASSWORD}]");
        configs.args(["--bootstrap-server", &cluster.bootstrap(), "--alter", "--add-config", &credential]);
        let output = configs.args(["--entity-type", "users", "--entity-name", "node"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    (cluster, format!("127.0.0.1:{port}"))
}

#[test]
fn brokers_and_nodes_know_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ca) = certificate(dir.path(), "broker");
    let (_, other_ca) = certificate(dir.path(), "other");
    let (cluster, address) = start(dir.path(), &store);
    let file = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let config = |ca: &Path, mechanism, password: &str| KafkaConfig {
        security: Security {
            tls: Some(Tls { ca_file: Some(ca.to_owned()), ..Tls::default() }),
            sasl: Some(Sasl { mechanism, username: "node".to_owned(), password_file: file("password", password) }),
        },
        topic_prefix: format!("{mechanism:?}-"),
        retention: None,
        producers: 1,
        ..KafkaConfig::development([address.clone()])
    };
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
        let log = open(config(&ca, mechanism, PASSWORD));
        let partition = stream(&log, "a", 1).partition(0);
        let position = write(&log, partition, "known");
        wait_for(&log, partition, position.next());
        assert_eq!(values(&log, partition, Position::ZERO), [(position, "known".to_owned())]);
    }
    let refused = |config: KafkaConfig| {
        let config = KafkaConfig { request_timeout: Duration::from_secs(3), ..config };
        assert!(KafkaLog::open(clock(), config).is_err());
    };
    refused(config(&ca, SaslMechanism::Plain, "wrong"));
    refused(config(&ca, SaslMechanism::ScramSha512, "wrong"));
    refused(config(&other_ca, SaslMechanism::Plain, PASSWORD));
    // The listener itself is well.
    drop(open(config(&ca, SaslMechanism::Plain, PASSWORD)));
    drop(cluster);
}
