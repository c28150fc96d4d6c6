//! Keeps every sample, writes it down at once, and shows medians, ratios and what was aimed at.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use serde_json::json;

use crate::latency::median;
use crate::machine::Machine;

/// Named numbers of one repetition; the name says the unit.
pub type Figures = BTreeMap<String, f64>;

/// One repetition of a scenario with one subject.
#[derive(Debug, Serialize)]
pub struct Sample {
    scenario: String,
    subject: String,
    repetition: usize,
    figures: Figures,
}

/// What a median is compared with.
enum Aim {
    Most(f64),
    Least(f64),
    /// At least so many times another subject's figure: (factor, subject, scenario, figure).
    Times(f64, &'static str, &'static str, &'static str),
}

/// A figure that the project has set itself an aim for.
struct Target {
    scenario: &'static str,
    figure: &'static str,
    embedded: Aim,
    /// Over Redis, where it differs.
    redis: Option<Aim>,
}

const PUSHED: &str = "received_per_second";
const PEER: &str = "bullmq-always";

const TARGETS: [Target; 18] = [
    Target {
        scenario: "array",
        figure: PUSHED,
        embedded: Aim::Times(6.0, PEER, "array", PUSHED),
        redis: Some(Aim::Times(4.0, PEER, "array", PUSHED)),
    },
    Target { scenario: "single", figure: PUSHED, embedded: Aim::Times(2.0, PEER, "single", PUSHED), redis: None },
    // The stricter reading: single submits against BullMQ's best throughput in any way of adding.
    Target { scenario: "single", figure: PUSHED, embedded: Aim::Times(2.0, PEER, "array", PUSHED), redis: None },
    Target {
        scenario: "batch-slow-100",
        figure: PUSHED,
        embedded: Aim::Times(3.0, "lovage", "batch-slow-1", PUSHED),
        redis: Some(Aim::Times(3.0, "lovage-redis", "batch-slow-1", PUSHED)),
    },
    at_most("array", "cpu_seconds_per_1000", 0.06),
    at_most("array", "redis_cpu_per_1000", 0.025),
    Target { scenario: "fleet", figure: "least_share", embedded: Aim::Least(0.8), redis: None },
    Target { scenario: "limits-3", figure: "share_of_unlimited", embedded: Aim::Least(0.7), redis: None },
    at_most("crowd-100000", "receipt_p99_ms", 250.0),
    at_most("keys", "after_to_before", 1.2),
    at_most("tenants-fair", "start_p99_ms", 250.0),
    at_most("rate", "receipt_p50_ms", 1.5),
    at_most("rate", "receipt_p99_ms", 8.0),
    at_most("rate", "result_p50_ms", 1.5),
    at_most("rate", "result_p99_ms", 8.0),
    at_most("memory", "resident_mib", 100.0),
    at_most("start", "ready_ms", 300.0),
    at_most("backlog-1000000", "ready_ms", 5000.0),
];

const fn at_most(scenario: &'static str, figure: &'static str, limit: f64) -> Target {
    Target { scenario, figure, embedded: Aim::Most(limit), redis: None }
}

/// Scenarios whose rate with a large backlog is compared with that of a small one: (large, small, figure).
const BACKLOGS: [(&str, &str, &str); 2] =
    [("backlog-1000000", "backlog-10000", "drained_per_second"), ("standing-1000000", "standing-10000", PUSHED)];

/// All samples of a run.
#[derive(Debug)]
pub struct Results {
    file: File,
    samples: Vec<Sample>,
}

impl Results {
    /// Begins the file at `path` with the machine.
    pub fn create(path: &Path, machine: &Machine) -> anyhow::Result<Self> {
        let mut file = File::create(path)?;
        writeln!(file, "{}", json!({ "kind": "machine", "machine": machine }))?;
        Ok(Self { file, samples: Vec::new() })
    }

    /// Adds one repetition's figures.
    pub fn add(&mut self, scenario: &str, subject: &str, repetition: usize, figures: Figures) -> anyhow::Result<()> {
        let sample = self.note(scenario, subject, repetition, figures)?;
        self.samples.push(sample);
        Ok(())
    }

    /// Writes figures down without taking them into the tables.
    pub fn note(&mut self, scenario: &str, subject: &str, repetition: usize, figures: Figures) -> anyhow::Result<Sample> {
        let sample = Sample { scenario: scenario.to_owned(), subject: subject.to_owned(), repetition, figures };
        writeln!(self.file, "{}", json!({ "kind": "sample", "sample": sample }))?;
        let named = sample.figures.iter().map(|(name, value)| format!("{name} {}", number(*value)));
        eprintln!("{scenario} · {subject} · {repetition}: {}", named.collect::<Vec<_>>().join(", "));
        Ok(sample)
    }

    /// The median of a figure over its repetitions.
    pub fn median(&self, scenario: &str, subject: &str, figure: &str) -> Option<f64> {
        let values: Vec<f64> = self
            .samples
            .iter()
            .filter(|sample| sample.scenario == scenario && sample.subject == subject)
            .filter_map(|sample| sample.figures.get(figure).copied())
            .collect();
        (!values.is_empty()).then(|| median(&values))
    }

    /// Prints the table of all medians and the table of aims.
    pub fn print(&self) {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        let subjects = distinct(self.samples.iter().map(|sample| sample.subject.as_str()));
        let mut header = vec!["scenario", "figure (median)"];
        header.extend(&subjects);
        table.set_header(header);
        for scenario in distinct(self.samples.iter().map(|sample| sample.scenario.as_str())) {
            let of_scenario = self.samples.iter().filter(|sample| sample.scenario == scenario);
            for figure in distinct(of_scenario.flat_map(|sample| sample.figures.keys().map(String::as_str))) {
                let mut row = vec![scenario.to_owned(), figure.to_owned()];
                row.extend(
                    subjects.iter().map(|subject| self.median(scenario, subject, figure).map_or_else(String::new, number)),
                );
                table.add_row(row);
            }
        }
        println!("{table}");

        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.set_header(["scenario", "subject", "figure", "measured", "aim", "met"]);
        for subject in ["lovage", "lovage-redis"] {
            for row in self.aims(subject) {
                table.add_row(row);
            }
        }
        if table.row_count() > 0 {
            println!("{table}");
        }
    }

    fn aims(&self, subject: &str) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut add = |scenario: &str, figure: &str, measured: String, aim: String, met: bool| {
            let met = if met { "yes" } else { "no" };
            rows.push([scenario, subject, figure, &measured, &aim, met].map(str::to_owned).to_vec());
        };
        for target in &TARGETS {
            let Some(value) = self.median(target.scenario, subject, target.figure) else {
                continue;
            };
            let aim = match &target.redis {
                Some(aim) if subject == "lovage-redis" => aim,
                _ => &target.embedded,
            };
            match aim {
                Aim::Most(limit) => {
                    let aim = format!("≤ {}", number(*limit));
                    add(target.scenario, target.figure, number(value), aim, value <= *limit);
                }
                Aim::Least(limit) => {
                    let aim = format!("≥ {}", number(*limit));
                    add(target.scenario, target.figure, number(value), aim, value >= *limit);
                }
                Aim::Times(factor, peer, scenario, figure) => {
                    let Some(base) = self.median(scenario, peer, figure) else {
                        continue;
                    };
                    let (measured, aim) = (format!("{:.2} ×", value / base), format!("≥ {factor} × {peer} {scenario}"));
                    add(target.scenario, target.figure, measured, aim, value >= factor * base);
                }
            }
        }
        for (large, small, figure) in BACKLOGS {
            let medians = (self.median(large, subject, figure), self.median(small, subject, figure));
            if let (Some(large_rate), Some(small_rate)) = medians {
                let ratio = large_rate / small_rate;
                add(large, figure, format!("{ratio:.2} ×"), format!("≥ 0.8 × {small}"), ratio >= 0.8);
            }
        }
        rows
    }
}

/// In order of first appearance.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
