//! The least policy for an application, by its settings. Pure.

use serde_json::{Value, json};

use super::Subject;

/// The table in which KCL 3.0 to 3.4 stores the mode of a fleet.
const COORDINATOR_TABLE_SUFFIX: &str = "-CoordinatorState";

/// The table in which the workers of KCL 3.0 to 3.4 report about themselves.
const WORKER_TABLE_SUFFIX: &str = "-WorkerMetricStats";

/// What an application uses.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    pub(crate) application: String,
    pub(crate) stream_arn: String,
    pub(crate) table: String,
    pub(crate) subject: Subject,
    pub(crate) creates_table: bool,
    /// The name of the consumer that the workers register.
    pub(crate) fan_out: Option<String>,
    pub(crate) metrics: bool,
    pub(crate) dead_letters: Option<String>,
    pub(crate) key: Option<String>,
    /// Partition, region and account of the stream, as in its ARN.
    pub(super) place: [String; 3],
}

impl Needs {
    /// The needs without options.
    ///
    /// # Errors
    /// A text when that is not the ARN of a stream.
    pub(crate) fn new(
        application: String,
        stream_arn: String,
        table: String,
        subject: Subject,
    ) -> Result<Self, String> {
        let parts: Vec<&str> = stream_arn.split(':').collect();
        let place = match parts.as_slice() {
            ["arn", partition, "kinesis", region, account, resource]
                if resource
                    .strip_prefix("stream/")
                    .is_some_and(|name| !name.is_empty() && !name.contains('/')) =>
            {
                [partition, region, account].map(|part| (*part).to_owned())
            }
            _ => {
                return Err(format!(
                    "--stream-arn {stream_arn:?} must be like arn:aws:kinesis:eu-west-1:111122223333:stream/orders"
                ));
            }
        };
        Ok(Self {
            application,
            stream_arn,
            table,
            subject,
            creates_table: false,
            fan_out: None,
            metrics: false,
            dead_letters: None,
            key: None,
            place,
        })
    }

    /// The region of the stream.
    pub(crate) fn region(&self) -> &str {
        &self.place[1]
    }

    fn table_arn(&self, table: &str) -> String {
        let [partition, region, account] = &self.place;
        format!("arn:{partition}:dynamodb:{region}:{account}:table/{table}")
    }

    /// The policy document.
    pub(crate) fn policy(&self) -> Value {
        let is_worker = self.subject == Subject::Worker;
        let mut statements = vec![
            statement(
                "Stream",
                &json!([
                    "kinesis:DescribeStreamSummary",
                    "kinesis:ListShards",
                    "kinesis:GetShardIterator",
                    "kinesis:GetRecords"
                ]),
                &json!(self.stream_arn),
            ),
            statement("LeaseTable", &json!(self.table_actions()), &json!(self.table_arn(&self.table))),
            statement(
                "FleetMode",
                &json!("dynamodb:GetItem"),
                &json!(self.table_arn(&format!("{}{COORDINATOR_TABLE_SUFFIX}", self.application))),
            ),
        ];
        if !is_worker {
            let table = self.table_arn(&format!("{}{WORKER_TABLE_SUFFIX}", self.application));
            statements.push(statement("WorkerReports", &json!("dynamodb:Scan"), &json!(table)));
        }
        if is_worker && self.fan_out.is_some() {
            let consumers = json!([self.stream_arn, format!("{}/consumer/*", self.stream_arn)]);
            let read = json!(["kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard"]);
            statements.push(statement("Consumer", &read, &consumers));
            let register = json!(["kinesis:RegisterStreamConsumer", "kinesis:TagResource"]);
            statements.push(statement("RegisterConsumer", &register, &consumers));
        }
        if is_worker && self.metrics {
            let mut metrics = statement("Metrics", &json!("cloudwatch:PutMetricData"), &json!("*"));
            metrics["Condition"] = json!({ "StringEquals": { "cloudwatch:namespace": self.application } });
            statements.push(metrics);
        }
        if let Some(stream) = self.dead_letters.as_ref().filter(|_| is_worker) {
            statements.push(statement("DeadLetters", &json!("kinesis:PutRecord"), &json!(stream)));
        }
        if let Some(key) = &self.key {
            statements.push(statement("Key", &json!("kms:Decrypt"), &json!(key)));
        }
        json!({ "Version": "2012-10-17", "Statement": statements })
    }

    fn table_actions(&self) -> Vec<&'static str> {
        let mut actions = vec!["dynamodb:DescribeTable", "dynamodb:Scan", "dynamodb:GetItem"];
        if self.subject == Subject::Worker {
            actions.extend(["dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"]);
            if self.creates_table {
                actions.insert(0, "dynamodb:CreateTable");
            }
        }
        actions
    }
}

fn statement(id: &str, actions: &Value, resources: &Value) -> Value {
    json!({ "Sid": id, "Effect": "Allow", "Action": actions, "Resource": resources })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn needs(subject: Subject) -> Needs {
        let stream = "arn:aws:kinesis:eu-west-1:111122223333:stream/orders".to_owned();
        Needs::new("order-desk".to_owned(), stream, "order-desk".to_owned(), subject).unwrap()
    }

    fn statements(policy: &Value) -> Vec<Value> {
        policy["Statement"].as_array().unwrap().clone()
    }

    /// Each statement is the one that the guide explains.
    #[test]
    fn statements_are_those_of_the_guide() {
        let guide = include_str!("../../../../docs/getting-started.md");
        let json = guide.split("```json\n").find(|block| block.contains("\"Sid\": \"Stream\"")).unwrap();
        let guide: Value = serde_json::from_str(json.split("```").next().unwrap()).unwrap();
        let needs = Needs {
            creates_table: true,
            fan_out: Some("order-desk".to_owned()),
            metrics: true,
            dead_letters: Some("arn:aws:kinesis:eu-west-1:111122223333:stream/orders-rejected".to_owned()),
            key: Some("arn:aws:kms:eu-west-1:111122223333:key/your-key".to_owned()),
            ..needs(Subject::Worker)
        };
        let printed = statements(&needs.policy());
        assert_eq!(printed.len(), 8);
        for statement in printed {
            let same = statements(&guide).into_iter().find(|of_guide| of_guide["Sid"] == statement["Sid"]);
            assert_eq!(Some(statement), same);
        }
    }

    #[test]
    fn a_watcher_may_write_nothing() {
        let text = Needs { metrics: true, creates_table: true, ..needs(Subject::Watch) }.policy().to_string();
        for word in ["Put", "Update", "Delete", "Create", "Register", "Subscribe"] {
            assert!(!text.contains(word), "{word} is in {text}");
        }
    }

    #[test]
    fn names_are_no_arns() {
        for arn in [
            "orders",
            "arn:aws:kinesis:eu-west-1:1:stream/",
            "arn:aws:kinesis:eu-west-1:1:stream/a/consumer/b:7",
        ] {
            assert!(
                Needs::new("a".to_owned(), arn.to_owned(), "a".to_owned(), Subject::Worker).is_err(),
                "{arn}"
            );
        }
    }
}
