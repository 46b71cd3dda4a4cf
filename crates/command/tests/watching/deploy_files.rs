//! The alert rules and the dashboards name metrics that exist, and each alert has its section in the runbook.

use std::path::Path;
use std::process::Command;

use kinesis_streaming::METRICS;

use crate::serve::documented;

const RULES: &str = include_str!("../../../../deploy/prometheus/kinesis-fleet.rules.yml");
const RULE_TESTS: &str = include_str!("../../../../deploy/prometheus/kinesis-fleet.test.yml");
const DASHBOARD: &str = include_str!("../../../../deploy/grafana/kinesis-fleet.json");
const CONSUMER_DASHBOARD: &str = include_str!("../../../../deploy/grafana/kinesis-consumer.json");
const RUNBOOK: &str = include_str!("../../../../docs/runbook.md");

/// The names of metrics in a text that begin with these characters.
fn named(text: &str, beginning: &str) -> Vec<String> {
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let starts = text.match_indices(beginning).map(|(start, _)| &text[start..]);
    starts.map(|rest| rest.split(|character| !is_name(character)).next().unwrap().to_owned()).collect()
}

fn alerts() -> Vec<&'static str> {
    RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

#[test]
fn rules_and_dashboard_name_exported_metrics() {
    let documented = documented();
    for (file, text) in [("rules", RULES), ("tests of the rules", RULE_TESTS), ("dashboard", DASHBOARD)] {
        let names = named(text, "kinesis_fleet_");
        assert!(names.len() > 3, "{file}");
        for name in names {
            assert!(documented.contains(&name), "{file}: {name} is not exported");
        }
    }
}

#[test]
fn consumer_dashboard_names_exported_metrics() {
    let names = named(CONSUMER_DASHBOARD, "kinesis_consumer_");
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(METRICS.iter().any(|metric| metric.name == name), "{name} is not exported");
    }
}

#[test]
fn each_alert_has_a_section_in_the_runbook() {
    let alerts = alerts();
    assert!(alerts.len() > 5, "{alerts:?}");
    let sections: Vec<&str> = RUNBOOK.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let of_alerts: Vec<&str> = sections.into_iter().filter(|section| section.starts_with("Fleet")).collect();
    assert_eq!(of_alerts, alerts, "in the same order");
}

#[test]
fn each_alert_is_tested() {
    for alert in alerts() {
        assert!(RULE_TESTS.contains(&format!("alertname: {alert}\n")), "{alert}");
    }
}

#[test]
fn dashboards_are_json_with_queries() {
    for text in [DASHBOARD, CONSUMER_DASHBOARD] {
        let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let with_query = panels.iter().filter(|panel| panel["targets"][0]["expr"].is_string()).count();
        assert!(with_query >= 6, "{with_query}");
    }
}

#[test]
fn promtool_accepts_the_rules_where_it_is_installed() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus");
    let Ok(checked) =
        Command::new("promtool").args(["check", "rules"]).arg(rules.join("kinesis-fleet.rules.yml")).output()
    else {
        println!("left out: promtool is not installed (Debian: the package prometheus)");
        return;
    };
    assert!(checked.status.success(), "{checked:?}");
    let tested =
        Command::new("promtool").args(["test", "rules"]).arg(rules.join("kinesis-fleet.test.yml")).output();
    let tested = tested.unwrap();
    assert!(tested.status.success(), "{tested:?}");
}
