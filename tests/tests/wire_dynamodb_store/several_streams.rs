//! Tables with rows of several streams.

use super::*;

#[tokio::test]
async fn one_stream_of_a_multi_stream_table_conforms() {
    let client = client_at(dynamodb().await);
    let mut tables = 0;
    lease_store::conformance::check_all(|| {
        tables += 1;
        let stream = MultiStreamKey::new("123456789012", "orders", 1_700_000_000).unwrap();
        let store = DynamoDbLeaseStore::new(client.clone(), format!("table-{tables}")).unwrap();
        store.with_multi_stream_key(stream)
    })
    .await;
}

#[tokio::test]
async fn the_dynamodb_store_of_several_streams_conforms() {
    let client = client_at(dynamodb().await);
    let mut tables = 0;
    lease_store::conformance::check_multi_stream(|| {
        tables += 1;
        let table = DynamoDbLeaseStore::new(client.clone(), format!("table-{tables}")).unwrap();
        DynamoDbMultiStreamLeaseStore::new(table)
    })
    .await;
}

/// The table of a multi-stream KCL application has the rows of all its streams.
#[tokio::test]
async fn other_streams_of_a_multi_stream_table_are_unchanged() {
    let client = client_at(dynamodb().await);
    let stream = |name: &str| MultiStreamKey::new("123456789012", name, 1_700_000_000).unwrap();
    let orders = prepared(&client).await.with_multi_stream_key(stream("orders"));
    let invoices = prepared(&client).await.with_multi_stream_key(stream("invoices"));
    applied(&orders, &LeaseWrite::Create(unowned(0))).await;
    applied(&invoices, &LeaseWrite::Create(unowned(0))).await;
    let take = applied(&orders, &update(&unowned(0), LeaseChange::take(worker("a")))).await;
    applied(&orders, &update(&take, checkpoint(7))).await;
    let listing = invoices.list(Consistency::Strong).await.unwrap();
    assert_eq!((listing.leases, listing.malformed), (vec![unowned(0)], vec![]));
    let row = client
        .get_item()
        .table_name(TABLE)
        .key("leaseKey", s("123456789012:orders:1700000000:shardId-000000000000"))
        .send()
        .await
        .unwrap()
        .item
        .unwrap();
    assert_eq!(row["streamName"], s("123456789012:orders:1700000000"));
    assert_eq!((&row["shardId"], &row["checkpoint"]), (&s("shardId-000000000000"), &s("7")));
    let single = prepared(&client).await.list(Consistency::Strong).await.unwrap();
    assert_eq!(
        (single.leases.len(), single.malformed.len()),
        (0, 2),
        "both rows are malformed for a single-stream store"
    );
}

async fn by_key(client: &Client, key: &str) -> Item {
    let answer = client.get_item().table_name(TABLE).key("leaseKey", s(key)).consistent_read(true);
    answer.send().await.unwrap().item.unwrap_or_default()
}

/// A consumer of several streams resumes from the rows of a multi-stream application of the KCL, among rows that are no leases
/// (awslabs/amazon-kinesis-client#1791), and writes such rows itself.
#[tokio::test]
async fn rows_of_several_streams_are_those_of_the_kcl() {
    let client = client_at(dynamodb().await);
    let [orders, bills] = ["orders", "bills"].map(|name| InMemoryStream::new(name, NonZeroUsize::MIN));
    let (_, first) = orders.put("a", "one").unwrap();
    for (stream, text) in [(&orders, "two"), (&bills, "three")] {
        stream.put("a", text).unwrap();
    }
    let identity = orders.describe().await.unwrap().identity;
    let (key, bills_key) = (
        format!("000000000000:orders:{}", identity.creation_epoch_seconds),
        // The key that the KCL application has chosen: not the creation time of the stream.
        "000000000000:bills:1".to_owned(),
    );
    let bills_arn = bills.describe().await.unwrap().identity.arn;
    let table = DynamoDbLeaseStore::new(client.clone(), TABLE).unwrap();
    let table = DynamoDbMultiStreamLeaseStore::new(table)
        .with_stream_key(bills_arn, MultiStreamKey::new("000000000000", "bills", 1).unwrap());
    table.prepare().await.unwrap();
    let row_key = format!("{key}:shardId-000000000000");
    let of_kcl = [
        ("streamName", s(&key)),
        ("shardId", s("shardId-000000000000")),
        ("checkpoint", s(&first.to_string())),
        ("leaseOwner", s("java")),
        ("startingHashKey", s("0")),
        ("endingHashKey", s("340282366920938463463374607431768211455")),
        ("throughputKBps", n("12.5")),
    ];
    put(&client, kcl_row(&row_key, &of_kcl)).await;
    put(&client, kcl_row("Leader", &[("entityType", s("LEADER"))])).await;
    put(
        &client,
        [("leaseKey", s("java")), ("entityType", s("WORKER_METRIC_STATS"))]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
    )
    .await;
    let of_stream = [("entityType", s("STREAM")), ("streamId", s("17"))];
    put(
        &client,
        of_stream
            .into_iter()
            .chain([("leaseKey", s(&key))])
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
    .await;

    let (seen, mut texts) = tokio::sync::mpsc::channel(16);
    let consumer = Consumer::builder()
        .application(TABLE)
        .worker_id("rust")
        .failover_time(Duration::from_secs(1))
        .checkpoint_interval(Duration::from_millis(50))
        .processors(batch_handler(move |shard: ShardContext, batch: RecordBatch| async move {
            for record in batch.iter() {
                let text = String::from_utf8_lossy(&record.data);
                seen.send(format!("{}: {text}", shard.stream)).await?;
            }
            Ok(())
        }))
        .with_streams([StreamConfig::new(orders), StreamConfig::new(bills)])
        .lease_store(table)
        .build()
        .unwrap();
    let handle = consumer.handle();
    let running = tokio::spawn(consumer.run());
    let texts: BTreeSet<String> = [texts.recv().await.unwrap(), texts.recv().await.unwrap()].into();
    let expected = ["bills: three", "orders: two"].map(str::to_owned);
    assert_eq!(texts, expected.into(), "the row of the KCL has the position after the first order");
    for (stream, shard_key) in [(&key, &row_key), (&bills_key, &format!("{bills_key}:shardId-000000000000"))]
    {
        let row = by_key(&client, shard_key).await;
        assert_eq!((&row["streamName"], &row["shardId"]), (&s(stream), &s("shardId-000000000000")));
        assert_eq!(row["leaseOwner"], s("rust"));
        assert!(row["leaseCounter"].as_n().is_ok() && row["ownerSwitchesSinceCheckpoint"].as_n().is_ok());
        assert!(row["checkpoint"].as_s().is_ok() && row["checkpointSubSequenceNumber"].as_n().is_ok());
        assert_eq!(row["endingHashKey"], s("340282366920938463463374607431768211455"));
    }
    handle.stop();
    assert!(running.await.unwrap().unwrap().is_drained());
    let row = by_key(&client, &row_key).await;
    assert!(!row.contains_key("leaseOwner"), "the lease is released");
    assert_ne!(row["checkpoint"], s(&first.to_string()));
    assert_eq!(row["throughputKBps"], n("12.5"), "attributes of the KCL are kept");
}
