//! The guide tells the truth: its queries run.

use crate::fleet::{Fleet, ask};
use floodplain_sql::Format;

#[test]
fn every_query_of_the_guide_runs() {
    let guide = include_str!("../../../../docs/guides/sql.md");
    let sql = Fleet::sample().sql();
    let mut count = 0;
    for block in guide.split("```sql\n").skip(1) {
        let (block, _) = block.split_once("```").expect("a block ends");
        for query in block.split(';').map(str::trim).filter(|query| !query.is_empty()) {
            let answer = ask(&sql, query, Format::Csv);
            let csv = answer.unwrap_or_else(|error| panic!("{query}\n{error}"));
            assert!(csv.lines().count() > 1, "a query of the guide finds nothing in the sample:\n{query}");
            count += 1;
        }
    }
    assert!(count >= 10, "the guide has {count} queries");
}
