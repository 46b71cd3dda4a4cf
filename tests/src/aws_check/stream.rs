//! The checks of `DescribeStreamSummary` and `ListShards`.

use std::collections::BTreeSet;

use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{
    RecordDistributionStrategy, ShardFilter, ShardFilterType, StreamDescriptionSummary,
};

use super::assumption::Findings;
use super::calls::{Calls, Refusal, record_refusal};
use super::listing::{self, ListedShard};

/// The most pages of a listing that are read.
const MAX_PAGES: usize = 100;

/// In how many pages the shards are listed for the check of pages, about.
const PAGES: usize = 3;

/// The most shards that one page may hold (API).
const SHARDS_PER_PAGE: usize = 1000;

/// How long ago the time of the filter `FROM_TIMESTAMP` is, in seconds.
const RECENTLY_SECONDS: i64 = 300;

/// The stream as later checks need it.
#[derive(Debug)]
pub(super) struct StreamFacts {
    pub(super) arn: String,
    pub(super) shards: Vec<ListedShard>,
}

/// Describes and lists the stream. `None`: it cannot be read at all, and the findings say why.
pub(super) async fn check(calls: &Calls, findings: &mut Findings) -> Option<StreamFacts> {
    let summary = match describe(calls, calls.name(), calls.arn()).await {
        Ok(summary) => summary,
        Err(refusal) => {
            findings.skip(&["stream.description"], &format!("refused: {refusal}"));
            return None;
        }
    };
    let retention = summary.retention_period_hours;
    let is_complete = summary.stream_arn.starts_with("arn:")
        && summary.stream_creation_timestamp.secs() > 0
        && retention > 0;
    findings.check(
        "stream.description",
        is_complete,
        format!("{} open shards, retention {retention} h", summary.open_shard_count),
    );
    check_distribution(&summary, findings);
    let shards = match all_shards(calls, SHARDS_PER_PAGE).await {
        Ok(shards) => shards,
        Err(refusal) => {
            record_refusal("list.pages", &refusal, findings);
            return None;
        }
    };
    check_arn(calls, &summary, findings).await;
    check_pages(calls, &shards, findings).await;
    check_filters(calls, &summary, &shards, findings).await;
    Some(StreamFacts { arn: summary.stream_arn, shards })
}

async fn describe(
    calls: &Calls,
    name: Option<String>,
    arn: Option<String>,
) -> Result<StreamDescriptionSummary, Refusal> {
    let request = calls.client.describe_stream_summary().set_stream_name(name).set_stream_arn(arn);
    let answer = request.send().await.map_err(|error| Refusal::of(&error))?;
    let no_summary = Refusal { status: Some(200), code: "no summary".to_owned() };
    answer.stream_description_summary.ok_or(no_summary)
}

fn check_distribution(summary: &StreamDescriptionSummary, findings: &mut Findings) {
    let (is_known, seen) = match &summary.record_distribution_strategy {
        None => (true, "absent"),
        Some(RecordDistributionStrategy::Auto) => (true, "AUTO"),
        Some(RecordDistributionStrategy::UserPartitionKey) => (true, "USER_PARTITION_KEY"),
        Some(_) => (false, "another value"),
    };
    findings.check("stream.distribution", is_known, seen);
}

async fn check_arn(calls: &Calls, summary: &StreamDescriptionSummary, findings: &mut Findings) {
    match describe(calls, None, Some(summary.stream_arn.clone())).await {
        Ok(by_arn) => {
            let is_same = by_arn.stream_arn == summary.stream_arn
                && by_arn.stream_creation_timestamp == summary.stream_creation_timestamp;
            findings.check("stream.arn", is_same, if is_same { "the same stream" } else { "another stream" });
        }
        Err(refusal) => record_refusal("stream.arn", &refusal, findings),
    }
}

/// All shards, in pages of this size.
async fn all_shards(calls: &Calls, page_size: usize) -> Result<Vec<ListedShard>, Refusal> {
    let mut shards = Vec::new();
    let mut token: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let request = calls.client.list_shards();
        let request = match &token {
            Some(token) => request.next_token(token),
            None => request
                .set_stream_name(calls.name())
                .set_stream_arn(calls.arn())
                .max_results(i32::try_from(page_size).unwrap_or(i32::MAX)),
        };
        let page = request.send().await.map_err(|error| Refusal::of(&error))?;
        shards.extend(page.shards().iter().map(ListedShard::of));
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(shards);
        }
    }
    Err(Refusal { status: Some(200), code: format!("more than {MAX_PAGES} pages") })
}

async fn check_pages(calls: &Calls, all: &[ListedShard], findings: &mut Findings) {
    if all.len() < 2 {
        findings.skip(&["list.pages"], "the stream has one shard");
        return;
    }
    let page_size = all.len().div_ceil(PAGES).min(SHARDS_PER_PAGE);
    match all_shards(calls, page_size).await {
        Ok(paged) => {
            let is_same = paged.len() == all.len() && listing::ids(&paged) == listing::ids(all);
            let seen = format!("{} shards in pages of {page_size}, of {}", paged.len(), all.len());
            findings.check("list.pages", is_same, seen);
        }
        Err(refusal) => record_refusal("list.pages", &refusal, findings),
    }
}

async fn check_filters(
    calls: &Calls,
    summary: &StreamDescriptionSummary,
    shards: &[ListedShard],
    findings: &mut Findings,
) {
    // The first page is enough for all but streams of more than a thousand shards, which are left out.
    if shards.len() > SHARDS_PER_PAGE {
        let ids = ["list.open", "list.trim-horizon", "list.after", "list.since"];
        findings.skip(&ids, "the stream has more shards than one page");
        return;
    }
    let filter = |filter: ShardFilterType| ShardFilter::builder().r#type(filter);
    let counted = |listed: usize, expected: usize| format!("{listed} shards, {expected} expected");

    let open = listing::open(shards);
    let listed = filtered(calls, filter(ShardFilterType::AtLatest)).await;
    judge("list.open", listed, findings, |listed| {
        (listing::ids(listed) == open, counted(listed.len(), open.len()))
    });

    let listed = filtered(calls, filter(ShardFilterType::AtTrimHorizon)).await;
    judge("list.trim-horizon", listed, findings, |listed| {
        let covers = listing::cover_each_key_once(listed);
        (covers, format!("{} shards{}", listed.len(), if covers { "" } else { ", with overlaps or gaps" }))
    });

    match shards.iter().map(|shard| shard.id.as_str()).collect::<BTreeSet<_>>().first() {
        Some(first) if shards.len() > 1 => {
            let after = listing::after(shards, first);
            let listed = filtered(calls, filter(ShardFilterType::AfterShardId).shard_id(*first)).await;
            judge("list.after", listed, findings, |listed| {
                (listing::ids(listed) == after, counted(listed.len(), after.len()))
            });
        }
        _ => findings.skip(&["list.after"], "the stream has one shard"),
    }

    // By the clock of the service; a stream may be younger.
    let recently = calls.headers.counts().last_date.map_or(0, |now| now - RECENTLY_SECONDS);
    let since = DateTime::from_secs(recently.max(summary.stream_creation_timestamp.secs()));
    let listed = filtered(calls, filter(ShardFilterType::FromTimestamp).timestamp(since)).await;
    judge("list.since", listed, findings, |listed| {
        let contains = open.is_subset(&listing::ids(listed));
        (contains, format!("{} shards for {} open ones", listed.len(), open.len()))
    });
}

async fn filtered(
    calls: &Calls,
    filter: aws_sdk_kinesis::types::builders::ShardFilterBuilder,
) -> Result<Vec<ListedShard>, Refusal> {
    let no_filter = |_| Refusal { status: None, code: "no request could be built".to_owned() };
    let filter = filter.build().map_err(no_filter)?;
    let request = calls.client.list_shards().shard_filter(filter);
    let request = request.set_stream_name(calls.name()).set_stream_arn(calls.arn());
    let page: ListShardsOutput = request.send().await.map_err(|error| Refusal::of(&error))?;
    Ok(page.shards().iter().map(ListedShard::of).collect())
}

fn judge(
    id: &'static str,
    listed: Result<Vec<ListedShard>, Refusal>,
    findings: &mut Findings,
    judgement: impl FnOnce(&[ListedShard]) -> (bool, String),
) {
    match listed {
        Ok(listed) => {
            let (holds, seen) = judgement(&listed);
            findings.check(id, holds, seen);
        }
        Err(refusal) => record_refusal(id, &refusal, findings),
    }
}
