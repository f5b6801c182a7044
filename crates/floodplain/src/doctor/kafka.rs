//! What an acknowledgement means where the log is on Apache Kafka.

use super::{Finding, Verdict};
use floodplain_server::{Class, Kafka, KafkaCluster};
use serde_json::json;
use std::collections::BTreeSet;

/// The findings about the cluster, and the sentence that is true of it.
pub(super) fn findings(kafka: &Kafka, class: Class) -> Vec<Finding> {
    match kafka.inspect() {
        Ok(cluster) => examine(kafka, &cluster, class),
        Err(error) => {
            let text = format!("{error}; see kafka.brokers and whether they run");
            vec![Finding { check: "kafka", verdict: Verdict::Failed, text, data: json!({ "brokers": kafka.brokers }) }]
        }
    }
}

fn examine(kafka: &Kafka, cluster: &KafkaCluster, class: Class) -> Vec<Finding> {
    vec![brokers(kafka, cluster), racks(cluster), copies(cluster), elections(cluster), promise(cluster, class)]
}

fn brokers(kafka: &Kafka, cluster: &KafkaCluster) -> Finding {
    let (count, wanted) = (cluster.brokers.len(), usize::from(kafka.replication));
    let (verdict, text) = if count < wanted {
        let text =
            format!("{count} of them, too few for the {wanted} copies of kafka.replication: topics cannot be created");
        (Verdict::Failed, text)
    } else {
        (Verdict::Ok, format!("{count} of them, {} topics of this installation", cluster.topics))
    };
    let addresses: Vec<_> = cluster.brokers.iter().map(|broker| &broker.address).collect();
    Finding { check: "brokers", verdict, text, data: json!({ "addresses": addresses, "topics": cluster.topics }) }
}

fn racks(cluster: &KafkaCluster) -> Finding {
    let racks: BTreeSet<_> = cluster.brokers.iter().filter_map(|broker| broker.rack.as_deref()).collect();
    let is_complete = cluster.brokers.iter().all(|broker| broker.rack.is_some());
    let (verdict, text) = match (is_complete, racks.len()) {
        (true, racks) if racks >= cluster.replicas => {
            (Verdict::Ok, format!("{racks}: copies of a partition are in different ones"))
        }
        (true, racks) => (Verdict::Warning, format!("{racks} for {} copies: some share one", cluster.replicas)),
        (false, _) => {
            (Verdict::Warning, "not all brokers name theirs (broker.rack): all copies may be in one".to_owned())
        }
    };
    Finding { check: "racks", verdict, text, data: json!({ "racks": racks }) }
}

fn copies(cluster: &KafkaCluster) -> Finding {
    let KafkaCluster { replicas, in_sync, min_insync_replicas, .. } = cluster;
    let (verdict, text) = if (*in_sync as u64) < *min_insync_replicas {
        let text =
            format!("{in_sync} in sync of {replicas}, and {min_insync_replicas} must be: publishes are refused now");
        (Verdict::Failed, text)
    } else if *min_insync_replicas < 2 || *replicas < 3 {
        let text =
            format!("{replicas} of each partition, {min_insync_replicas} before an acknowledgement: for development");
        (Verdict::Warning, text)
    } else if in_sync < replicas {
        (Verdict::Warning, format!("{in_sync} in sync of {replicas}: a broker is down, or has just come back"))
    } else {
        (Verdict::Ok, format!("{replicas} of each partition, {min_insync_replicas} before an acknowledgement"))
    };
    let data = json!({ "replicas": replicas, "in_sync": in_sync, "min_insync_replicas": min_insync_replicas });
    Finding { check: "copies", verdict, text, data }
}

fn elections(cluster: &KafkaCluster) -> Finding {
    let eligible = cluster.eligible_leader_replicas;
    let (verdict, text) = match (&cluster.unclean[..], eligible) {
        ([first, ..], _) => (
            Verdict::Failed,
            format!(
                "unclean.leader.election.enable is on for {} topics, {first} among them: a leader may be elected that lacks acknowledged messages",
                cluster.unclean.len()
            ),
        ),
        ([], Some(true)) => (Verdict::Ok, "clean, and eligible leader replicas are on".to_owned()),
        ([], Some(false)) => (
            Verdict::Warning,
            "clean, but eligible leader replicas (KIP-966) are off: if all copies but one have failed before, and that one loses what it has not synced, so do you; \
             switch them on with kafka-features.sh upgrade --feature eligible.leader.replicas.version=1"
                .to_owned(),
        ),
        ([], None) => (
            Verdict::Warning,
            "clean; whether eligible leader replicas are on could not be asked: kafka-features.sh describe says it".to_owned(),
        ),
    };
    Finding {
        check: "elections",
        verdict,
        text,
        data: json!({ "unclean": cluster.unclean, "eligible_leader_replicas": eligible }),
    }
}

/// What a client may take from a PUBACK.
fn promise(cluster: &KafkaCluster, class: Class) -> Finding {
    let KafkaCluster { replicas, min_insync_replicas, flushes, unclean, .. } = cluster;
    let (verdict, text) = if class != Class::All {
        let text = "mqtt.ack_class is leader: sent when one broker has the message; survives a crash of this program, not that of the broker";
        (Verdict::Warning, text.to_owned())
    } else if !unclean.is_empty() {
        (
            Verdict::Failed,
            "survives a crash of this program; the loss of a broker may take messages (see elections)".to_owned(),
        )
    } else if *replicas < 2 || *min_insync_replicas < 2 {
        let power = if *flushes { "and a power cut" } else { "but no power cut, and not the loss of the broker" };
        (
            Verdict::Warning,
            format!(
                "sent when one broker has the message: survives a crash of this program and of the broker, {power}"
            ),
        )
    } else {
        let power = if *flushes {
            "and a power cut of all of them, since each syncs it first (flush.messages=1)"
        } else {
            "power included; a power cut of all brokers at once can take the newest messages (flush.messages is not 1)"
        };
        (
            Verdict::Ok,
            format!(
                "sent when {min_insync_replicas} of {replicas} brokers have the message: survives the loss of any one of them, {power}"
            ),
        )
    };
    let class = if class == Class::All { "all" } else { "leader" };
    Finding { check: "acknowledgement", verdict, text, data: json!({ "class": class, "flushes": flushes }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_server::KafkaBroker;

    fn cluster() -> KafkaCluster {
        let broker = |id| KafkaBroker { id, address: format!("b{id}:9092"), rack: Some(format!("r{id}")) };
        KafkaCluster {
            brokers: (1..=3).map(broker).collect(),
            topics: 8,
            replicas: 3,
            in_sync: 3,
            min_insync_replicas: 2,
            unclean: Vec::new(),
            flushes: false,
            eligible_leader_replicas: Some(true),
        }
    }

    #[test]
    fn each_fault_changes_its_verdict_and_the_sentence() {
        let words = |finding: Finding| (finding.verdict, finding.text);
        assert_eq!(racks(&cluster()).verdict, Verdict::Ok);
        let mut one = cluster();
        one.brokers.iter_mut().for_each(|broker| broker.rack = Some("r".to_owned()));
        assert_eq!(words(racks(&one)), (Verdict::Warning, "1 for 3 copies: some share one".to_owned()));
        one.brokers[0].rack = None;
        assert_eq!(racks(&one).verdict, Verdict::Warning);

        assert_eq!(copies(&cluster()).verdict, Verdict::Ok);
        for (in_sync, expected) in [(3, Verdict::Ok), (2, Verdict::Warning), (1, Verdict::Failed)] {
            assert_eq!(copies(&KafkaCluster { in_sync, ..cluster() }).verdict, expected, "{in_sync}");
        }
        for (eligible, expected) in
            [(Some(true), Verdict::Ok), (Some(false), Verdict::Warning), (None, Verdict::Warning)]
        {
            assert_eq!(elections(&KafkaCluster { eligible_leader_replicas: eligible, ..cluster() }).verdict, expected);
        }
        let unclean = KafkaCluster { unclean: vec!["default.telemetry".to_owned()], ..cluster() };
        assert_eq!(
            (elections(&unclean).verdict, promise(&unclean, Class::All).verdict),
            (Verdict::Failed, Verdict::Failed)
        );

        let (verdict, text) = words(promise(&cluster(), Class::All));
        assert!(verdict == Verdict::Ok && text.contains("2 of 3") && text.contains("can take the newest"), "{text}");
        let text = promise(&KafkaCluster { flushes: true, ..cluster() }, Class::All).text;
        assert!(text.contains("a power cut of all of them"), "{text}");
        assert_eq!(promise(&cluster(), Class::Leader).verdict, Verdict::Warning);
        let single = KafkaCluster { replicas: 1, in_sync: 1, min_insync_replicas: 1, ..cluster() };
        assert_eq!(promise(&single, Class::All).verdict, Verdict::Warning);
    }
}
