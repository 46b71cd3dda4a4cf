//! The permissions in `docs/getting-started.md` are those that the code needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{file, read};

/// Operations of the services that a consumer could call, as the methods of the SDK name them.
const OPERATIONS: [(&str, &str); 34] = [
    ("describe_stream_summary", "kinesis:DescribeStreamSummary"),
    ("describe_stream", "kinesis:DescribeStream"),
    ("describe_limits", "kinesis:DescribeLimits"),
    ("describe_stream_consumer", "kinesis:DescribeStreamConsumer"),
    ("register_stream_consumer", "kinesis:RegisterStreamConsumer"),
    ("deregister_stream_consumer", "kinesis:DeregisterStreamConsumer"),
    ("list_stream_consumers", "kinesis:ListStreamConsumers"),
    ("list_streams", "kinesis:ListStreams"),
    ("list_shards", "kinesis:ListShards"),
    ("get_shard_iterator", "kinesis:GetShardIterator"),
    ("get_records", "kinesis:GetRecords"),
    ("subscribe_to_shard", "kinesis:SubscribeToShard"),
    ("put_record", "kinesis:PutRecord"),
    ("put_records", "kinesis:PutRecords"),
    ("create_stream", "kinesis:CreateStream"),
    ("update_shard_count", "kinesis:UpdateShardCount"),
    ("describe_table", "dynamodb:DescribeTable"),
    ("create_table", "dynamodb:CreateTable"),
    ("update_table", "dynamodb:UpdateTable"),
    ("delete_table", "dynamodb:DeleteTable"),
    ("describe_time_to_live", "dynamodb:DescribeTimeToLive"),
    ("update_continuous_backups", "dynamodb:UpdateContinuousBackups"),
    ("tag_resource", "dynamodb:TagResource"),
    ("scan", "dynamodb:Scan"),
    ("query", "dynamodb:Query"),
    ("get_item", "dynamodb:GetItem"),
    ("batch_get_item", "dynamodb:BatchGetItem"),
    ("put_item", "dynamodb:PutItem"),
    ("update_item", "dynamodb:UpdateItem"),
    ("delete_item", "dynamodb:DeleteItem"),
    ("batch_write_item", "dynamodb:BatchWriteItem"),
    ("transact_write_items", "dynamodb:TransactWriteItems"),
    ("put_metric_data", "cloudwatch:PutMetricData"),
    ("get_metric_data", "cloudwatch:GetMetricData"),
];

/// Permissions that no operation of this library is named after.
const OF_PARAMETERS: [&str; 3] = ["dynamodb:TagResource", "kinesis:TagResource", "kms:Decrypt"];

fn called(folder: &Path, called_operations: &mut BTreeSet<&'static str>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            called(&path, called_operations);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        // The tests in a file may call more.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (method, action) in OPERATIONS {
            if code.contains(&format!(".{method}()")) {
                called_operations.insert(action);
            }
        }
    }
}

#[test]
fn permissions_in_the_docs_are_those_the_code_needs() {
    let mut needed = BTreeSet::new();
    called(&file("crates/kinesis-asl/src"), &mut needed);
    called(&file("crates/lease-store/src/dynamodb"), &mut needed);
    needed.extend(OF_PARAMETERS);
    let guide = read("docs/getting-started.md");
    let words = guide.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':'));
    let services = ["kinesis:", "dynamodb:", "cloudwatch:", "kms:"];
    // An action begins with a capital letter, a key of a condition does not.
    let is_action = |word: &&str| {
        let action = services.iter().find_map(|service| word.strip_prefix(service));
        action.is_some_and(|action| action.starts_with(|first: char| first.is_ascii_uppercase()))
    };
    let named: BTreeSet<&str> = words.filter(is_action).collect();
    assert_eq!(named, needed, "left: docs/getting-started.md, right: the code");
}
