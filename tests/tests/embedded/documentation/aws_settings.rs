//! The settings for AWS, as tables in `docs/configuration.md`.

use kinesis_streaming::prelude::*;

use super::check_part;
use super::settings::Documented;

fn aws() -> Documented {
    Documented {
        source: "crates/kinesis-asl/src/settings.rs",
        structure: "AwsSettings",
        debug: format!("{:#?}", AwsSettings::new("")),
        json: None,
    }
}

fn fan_out() -> Documented {
    Documented {
        source: "crates/kinesis-asl/src/fan_out/settings.rs",
        structure: "FanOutSettings",
        debug: format!("{:#?}", FanOutSettings::with_consumer_name("my-application")),
        json: None,
    }
}

/// The settings of this file.
pub(super) fn all() -> [Documented; 2] {
    [aws(), fan_out()]
}

#[test]
fn configuration_reference_of_aws_matches_the_code() {
    check_part("aws", &aws().table());
    check_part("fan-out", &fan_out().table());
}

#[test]
fn defaults_in_docs_of_aws_settings_are_the_real_ones() {
    let stated = aws().check_stated_defaults() + fan_out().check_stated_defaults();
    assert!(stated >= 12, "only {stated} stated defaults were found");
}
