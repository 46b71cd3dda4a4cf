//! Calls whose answer is lost, late or odd.

use super::*;

#[tokio::test]
async fn a_dropped_connection_leaves_the_outcome_unknown() {
    let (listener, address) = listener().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let store = DynamoDbLeaseStore::new(client_at(address), TABLE).unwrap();
    let error = unknown(&store, &creation()).await;
    assert_error(&error, StoreErrorKind::Unavailable, &[TABLE, "read the row again"]);
    assert_eq!(connections.load(Ordering::SeqCst), 1, "a conditional write is sent once");
    let read = store.get(&shard(0)).await.unwrap_err();
    assert_eq!(read.kind(), StoreErrorKind::Unavailable);
    assert_eq!(connections.load(Ordering::SeqCst), 4, "a read is retried as the client is configured");
}

/// A proxy drops the first answer. If the SDK retried on its own, the retry would fail because of the first attempt and
/// the write would be reported as lost.
#[tokio::test]
async fn a_write_without_an_answer_is_not_reported_as_lost() {
    let table = dynamodb().await;
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(table).await.unwrap();
        let mut request = [0; 4096];
        let mut answer = [0; 1];
        loop {
            tokio::select! {
                _ = far.read(&mut answer) => break,
                length = near.read(&mut request) => {
                    far.write_all(&request[..length.unwrap()]).await.unwrap();
                }
            }
        }
        drop(near);
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(table).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let direct = prepared(&client_at(table)).await;
    let store = DynamoDbLeaseStore::new(client_at(address), TABLE).unwrap();
    let error = unknown(&store, &creation()).await;
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert_eq!(direct.get(&shard(0)).await.unwrap(), Some(unowned(0)), "the write was applied");
    assert!(matches!(store.write(&creation()).await.unwrap(), WriteOutcome::Lost { lease: Some(_) }));
}

#[tokio::test]
async fn a_connection_that_was_never_established_is_an_error() {
    // Bound, so that no other process gets the port, but not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let store = DynamoDbLeaseStore::new(client_at(address), TABLE).unwrap();
    let refused = store.write(&creation()).await.unwrap_err();
    assert_error(
        &refused,
        StoreErrorKind::Unavailable,
        &[TABLE, &address.to_string(), "nothing was written"],
    );
    assert_eq!(store.get(&shard(0)).await.unwrap_err().kind(), StoreErrorKind::Unavailable);

    // A server that closes each connection before the TLS handshake completes.
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    let store = DynamoDbLeaseStore::new(client(&format!("https://{address}")), TABLE).unwrap();
    let refused = store.write(&creation()).await.unwrap_err();
    assert_error(&refused, StoreErrorKind::Unavailable, &["nothing was written"]);
}

#[tokio::test]
async fn missing_credentials_are_reported_and_nothing_is_sent() {
    let (listener, address) = listener().await;
    let client = Client::from_conf(anonymous(&format!("http://{address}")).build());
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap();
    let error = store.write(&creation()).await.unwrap_err();
    assert_error(&error, StoreErrorKind::Denied, &[TABLE, "credentials", "nothing was written"]);
    assert_eq!(store.get(&shard(0)).await.unwrap_err().kind(), StoreErrorKind::Denied);
    let accepted = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(accepted.is_err(), "a client connected");
}

#[tokio::test]
async fn the_answer_decides_between_error_and_unknown_outcome() {
    for (status, code, kind) in [
        (400, "ProvisionedThroughputExceededException", StoreErrorKind::Throttled),
        (400, "com.amazonaws.dynamodb.v20120810#RequestLimitExceeded", StoreErrorKind::Throttled),
        (400, "com.amazon.coral.availability#ThrottlingException", StoreErrorKind::Throttled),
        (400, "AccessDeniedException", StoreErrorKind::Denied),
        (400, "com.amazon.coral.service#UnrecognizedClientException", StoreErrorKind::Denied),
        (400, "com.amazon.coral.service#ExpiredTokenException", StoreErrorKind::Denied),
        (400, "com.amazon.coral.validate#ValidationException", StoreErrorKind::Invalid),
    ] {
        let (store, seen) = failing(status, code).await;
        let error = store.write(&creation()).await.unwrap_err();
        assert_error(&error, kind, &[TABLE, "because", "nothing was written"]);
        assert_eq!(seen.lock().unwrap().len(), 1, "{code}: a conditional write is sent once");
        assert_eq!(store.get(&shard(0)).await.unwrap_err().kind(), kind, "{code}");
    }
    for (status, code) in [(500, "InternalServerError"), (503, "ServiceUnavailable")] {
        let (store, seen) = failing(status, code).await;
        assert_eq!(unknown(&store, &creation()).await.kind(), StoreErrorKind::Unavailable);
        assert_eq!(seen.lock().unwrap().len(), 1, "{code}: a conditional write is sent once");
        let read = store.list(Consistency::Eventual).await.unwrap_err();
        assert_eq!(read.kind(), StoreErrorKind::Unavailable);
        assert_eq!(seen.lock().unwrap().len(), 4, "{code}: a read is retried as the client is configured");
    }
}

#[tokio::test]
async fn an_unreadable_answer_leaves_the_outcome_unknown() {
    let (client, _) = answering(|_, _| (200, json!("no object"))).await;
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap();
    assert_eq!(unknown(&store, &creation()).await.kind(), StoreErrorKind::Unavailable);
    let (client, _) = answering(|_, _| (200, json!({}))).await;
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap();
    let error = unknown(&store, &update(&unowned(0), LeaseChange::Renew)).await;
    assert_error(&error, StoreErrorKind::Unavailable, &[TABLE, "lacks the row"]);
}
