//! How often each fault struck, and how long nothing went on then.

use crate::hurt::Fault;
use std::{collections::BTreeMap, time::Duration};

/// What a class `all` append may wait when one broker dies, with `broker.session.timeout.ms` of 6 s.
const STALL_MAX: Duration = Duration::from_secs(10);

/// What one fault has cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Struck {
    /// The longest time in which some partition acknowledged nothing.
    pub(crate) outage: Duration,
    /// The longest time in which some partition got no outputs.
    pub(crate) outputs: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<Fault, Vec<Struck>>);

impl Table {
    pub(crate) fn add(&mut self, fault: Fault, struck: Struck) {
        self.0.entry(fault).or_default().push(struck);
    }

    pub(crate) fn print(&self) {
        println!("\n| fault | count | no acknowledgement, s: p50 | p99 | most | no outputs, s: p50 | p99 | most |");
        println!("|---|--:|--:|--:|--:|--:|--:|--:|");
        for (fault, all) in &self.0 {
            println!("{}", row(&fault.to_string(), all));
        }
        let of = |is: fn(Fault) -> bool| -> Vec<Struck> {
            self.0.iter().filter(|(fault, _)| is(**fault)).flat_map(|(_, all)| all).copied().collect()
        };
        let killed = of(|fault| matches!(fault, Fault::Kill(_)));
        for (name, all) in [
            ("kill of one broker", &killed),
            ("any of one broker", &of(Fault::is_of_one_broker)),
            ("all", &of(|_| true)),
        ] {
            println!("{}", row(name, all));
        }
        let long = killed.iter().filter(|struck| struck.outage > STALL_MAX).count();
        println!("\nA broker's death held acknowledgements up for more than {} s: {long} times.", STALL_MAX.as_secs());
    }
}

fn row(name: &str, all: &[Struck]) -> String {
    let part = |of: fn(&Struck) -> Duration| {
        let mut times: Vec<f64> = all.iter().map(|struck| of(struck).as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        // The least time that so many of all do not exceed.
        let at = |share: f64| times.get(((times.len() as f64 * share).ceil() as usize).max(1) - 1).copied();
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| at(share).unwrap_or_default());
        format!("{p50:.2} | {p99:.2} | {most:.2}")
    };
    format!("| {name} | {} | {} | {} |", all.len(), part(|struck| struck.outage), part(|struck| struck.outputs))
}
