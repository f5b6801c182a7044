//! The table `alerts`, over records as `docs/formats/alerts.md` has them.

use crate::fleet::{Fleet as Bed, NINE, id, lines, message, submit};
use floodplain_log::{BatchBuilder, Compression};
use floodplain_sql::{Client, Config, Device, Fleet, Happening, LongFiring, Sql, Unanswered};
use floodplain_types::Timestamp;
use std::sync::Arc;

fn transition(bed: &Bed, minute: i64, rule: &str, device: &str, state: &str, value: Option<f64>) {
    bed.clock.set(Timestamp::from_millis(NINE + minute * 60_000));
    let since = format!("2026-11-21T09:{minute:02}:00.123456789Z");
    let payload =
        serde_json::json!({ "alert": rule, "device": device, "state": state, "since": since, "value": value })
            .to_string();
    let topic = format!("alerts/{rule}/{device}");
    let cause = format!("1/0:{minute}/0");
    let cause = value.map(|_| ("cause", cause.as_str()));
    let properties: Vec<_> = cause.into_iter().chain([("rule", "1"), ("webhook", "owed")]).collect();
    bed.publish("alerts", &message(device, &topic, payload.as_bytes()), &properties);
}

fn bed() -> Bed {
    let bed = Bed::empty();
    bed.log.open_stream(&id("default", "alerts"), 2).unwrap();
    transition(&bed, 0, "hot", "truck-1", "firing", Some(130.5));
    transition(&bed, 1, "hot", "truck-2", "firing", Some(140.0));
    transition(&bed, 2, "hot", "truck-1", "resolved", Some(90.0));
    transition(&bed, 3, "quiet", "truck-1", "firing", None);
    transition(&bed, 4, "hot", "truck-2", "resolved", None);
    transition(&bed, 5, "hot", "truck-2", "firing", Some(150.0));
    bed
}

#[test]
fn transitions_are_rows_and_the_last_ones_say_what_fires() {
    let bed = bed();
    let sql = bed.sql();
    assert_eq!(
        lines(
            &sql,
            "SELECT time, rule, device, state, since, value, cause_partition, cause_position, active FROM alerts ORDER BY time"
        ),
        [
            "2026-11-21T09:00:00Z,hot,truck-1,firing,2026-11-21T09:00:00.123456Z,130.5,1,0:0,false",
            "2026-11-21T09:01:00Z,hot,truck-2,firing,2026-11-21T09:01:00.123456Z,140,1,0:1,false",
            "2026-11-21T09:02:00Z,hot,truck-1,resolved,2026-11-21T09:02:00.123456Z,90,1,0:2,false",
            "2026-11-21T09:03:00Z,quiet,truck-1,firing,2026-11-21T09:03:00.123456Z,,,,true",
            "2026-11-21T09:04:00Z,hot,truck-2,resolved,2026-11-21T09:04:00.123456Z,,,,false",
            "2026-11-21T09:05:00Z,hot,truck-2,firing,2026-11-21T09:05:00.123456Z,150,1,0:5,true",
        ]
    );
    let active = "SELECT rule, device FROM alerts WHERE active ORDER BY 1, 2";
    assert_eq!(lines(&sql, active), ["hot,truck-2", "quiet,truck-1"]);
    let of_one = "SELECT count(*), max(value) FROM alerts WHERE device = 'truck-1' AND rule = 'hot'";
    assert_eq!(lines(&sql, of_one), ["2,130.5"]);
    // A range of time decides what is shown, not what fires.
    let range = "SELECT rule FROM alerts WHERE active AND time > TIMESTAMP '2026-11-21 09:04:00'";
    assert_eq!(lines(&sql, range), ["hot"]);
    // What ends a delivery is no transition.
    let mut receipt = BatchBuilder::new();
    receipt.push(NINE, Some(b"truck-1"), None, [("alert", b"hot".as_slice()), ("told", b"0:1")]).unwrap();
    let partition = bed.stream("alerts").partition_of(b"truck-1");
    assert!(submit(&*bed.log, vec![(partition, receipt.finish(Compression::None).unwrap())]));
    assert_eq!(lines(&sql, "SELECT count(*) FROM alerts"), ["6"]);
}

/// Knows one alert that fires for longer than the log goes back.
#[derive(Debug)]
struct Known(Result<Vec<LongFiring>, Unanswered>);

#[async_trait::async_trait]
impl Fleet for Known {
    fn happenings(&self, _: &[u8]) -> Vec<Happening> {
        Vec::new()
    }

    async fn long_firing(&self) -> Result<Vec<LongFiring>, Unanswered> {
        self.0.clone()
    }

    async fn clients(&self, _: Option<&str>, _: usize) -> Result<Vec<Client>, Unanswered> {
        Ok(Vec::new())
    }

    async fn devices(&self, _: Option<&str>, _: usize) -> Result<Vec<Device>, Unanswered> {
        Ok(Vec::new())
    }

    async fn device(&self, _: &str) -> Result<Option<Device>, Unanswered> {
        Ok(None)
    }
}

#[test]
fn what_fires_for_longer_than_the_log_goes_back_is_there() {
    let bed = bed();
    let sql =
        |known| Sql::with_fleet(Arc::clone(&bed.log), None, Some(Arc::new(Known(known))), Config::default()).unwrap();
    let long = LongFiring {
        rule: "flat".to_owned(),
        device: "pump-1".to_owned(),
        since: Timestamp::from_millis(NINE - 86_400_000),
        value: Some(2.5),
    };
    let sql_of_long = sql(Ok(vec![long]));
    assert_eq!(
        lines(&sql_of_long, "SELECT * FROM alerts WHERE device = 'pump-1'"),
        [",flat,pump-1,firing,2026-11-20T09:00:00Z,2.5,,,,,,true"]
    );
    let active = "SELECT rule, device FROM alerts WHERE active ORDER BY 1, 2";
    assert_eq!(lines(&sql_of_long, active), ["flat,pump-1", "hot,truck-2", "quiet,truck-1"]);
    assert_eq!(lines(&sql(Ok(Vec::new())), "SELECT count(*) FROM alerts"), ["6"]);
    // Who does not answer fails the query, not its planning: the catalog still knows the table.
    let mute = sql(Err(Unanswered("nobody is there".to_owned())));
    let error = crate::fleet::ask(&mute, active, floodplain_sql::Format::Csv).unwrap_err();
    assert!(error.to_string().contains("nobody is there"), "{error}");
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'alerts'";
    assert_eq!(lines(&mute, columns), ["12"]);
}
