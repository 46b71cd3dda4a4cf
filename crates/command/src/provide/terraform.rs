//! A configuration for Terraform: the lease table, the policy, an alarm, and the fan-out consumer. Pure.

use std::fmt::Write as _;

use super::policy::Needs;

/// The iterator age at which the alarm fires, in milliseconds: one hour.
const ALARM_AGE_MILLIS: u64 = 3_600_000;

/// The configuration.
pub(crate) fn configuration(needs: &Needs) -> String {
    let application = text(&needs.application);
    let policy = serde_json::to_string_pretty(&needs.policy()).unwrap_or_default();
    let stream = needs.stream_arn.rsplit('/').next().unwrap_or_default();
    let mut configuration = format!(
        r#"# The lease table of the application {name}. The workers then need no dynamodb:CreateTable.
resource "aws_dynamodb_table" "leases" {{
  name         = {table}
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "leaseKey"

  attribute {{
    name = "leaseKey"
    type = "S"
  }}

  point_in_time_recovery {{
    enabled = true
  }}
}}

resource "aws_iam_policy" "application" {{
  name   = {application}
  policy = <<-POLICY
{policy}
  POLICY
}}

# The age of the oldest record that some consumer of the stream has not read. It mixes all consumers; alerts for each application
# are in deploy/prometheus.
resource "aws_cloudwatch_metric_alarm" "iterator_age" {{
  alarm_name          = {alarm}
  namespace           = "AWS/Kinesis"
  metric_name         = "GetRecords.IteratorAgeMilliseconds"
  dimensions          = {{ StreamName = {stream} }}
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  threshold           = {ALARM_AGE_MILLIS}
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
}}
"#,
        name = needs.application,
        table = text(&needs.table),
        alarm = text(&format!("{}-iterator-age", needs.application)),
        stream = text(stream),
    );
    if let Some(consumer) = &needs.fan_out {
        // Writing to a string cannot fail.
        let _ = write!(
            configuration,
            r#"
resource "aws_kinesis_stream_consumer" "application" {{
  name       = {}
  stream_arn = {}
}}
"#,
            text(consumer),
            text(&needs.stream_arn)
        );
    }
    format!("# Region {}.\n{configuration}", needs.region())
}

/// A text in the language of Terraform, in which `${{` and `%{{` begin a template.
fn text(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.replace("${", "$${").replace("%{", "%%{")
}

#[cfg(test)]
mod tests {
    use super::super::Subject;
    use super::super::policy::tests::needs;
    use super::*;

    #[test]
    fn the_table_has_the_key_of_the_kcl() {
        let plain = configuration(&needs(Subject::Worker));
        assert!(
            plain.contains("hash_key     = \"leaseKey\"") && plain.contains("name         = \"order-desk\"")
        );
        assert!(!plain.contains("aws_kinesis_stream_consumer"));
        let with_consumer = Needs { fan_out: Some("desk".to_owned()), ..needs(Subject::Worker) };
        assert!(configuration(&with_consumer).contains("aws_kinesis_stream_consumer"));
        // Braces are in pairs.
        assert_eq!(plain.matches('{').count(), plain.matches('}').count());
    }

    #[test]
    fn texts_begin_no_template() {
        assert_eq!(text("a${b}\"%{c}"), "\"a$${b}\\\"%%{c}\"");
    }
}
