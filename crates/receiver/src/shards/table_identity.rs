//! Whether a lease table belongs to the stream: pure checks of stream identity and hash-key ranges.

use std::collections::HashMap;

use lease_store::{HashKeyRange, Lease, ShardId, StreamIdentity};
use shard_worker::Shard;

use crate::error::{ConsumerError, ConsumerErrorKind};

/// Refuses leases that were written for another stream, or for one of the same name that was deleted and created again.
///
/// # Errors
/// `WrongStream`, whose message names the table, the row, and both solutions.
pub(crate) fn check_identity(
    table: &str,
    leases: &[Lease],
    identity: &StreamIdentity,
) -> Result<(), ConsumerError> {
    let foreign = leases.iter().find_map(|lease| {
        let stream = lease.stream.as_ref().filter(|stream| *stream != identity)?;
        Some((lease, stream))
    });
    let Some((lease, stream)) = foreign else { return Ok(()) };
    let mismatch = if stream.arn == identity.arn {
        format!("{stream}, which has been deleted; this is another stream of the same name: {identity}")
    } else {
        format!("{stream}, but the stream to read is {identity}")
    };
    Err(wrong_stream(table, lease, &mismatch))
}

/// The names of an application in the rows of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApplicationNames {
    name: String,
    former: Option<String>,
}

impl ApplicationNames {
    /// An application of this name, which may have had another one when its table was made.
    pub(crate) fn new(name: &str, former: Option<&str>) -> Self {
        Self { name: name.to_owned(), former: former.map(str::to_owned) }
    }

    /// The name that rows record. It is the former one if there is one, so that workers under both names agree.
    pub(crate) fn recorded(&self) -> &str {
        self.former.as_deref().unwrap_or(&self.name)
    }

    /// Refuses leases of another application: it would get a part of the records.
    ///
    /// # Errors
    /// `WrongApplication`, whose message names the table, the row, both applications, and the solutions.
    pub(crate) fn check(&self, table: &str, leases: &[Lease]) -> Result<(), ConsumerError> {
        let is_own = |name: &str| name == self.name || Some(name) == self.former.as_deref();
        let foreign = leases.iter().find_map(|lease| {
            let application = lease.application.as_deref().filter(|name| !is_own(name))?;
            Some((lease, application))
        });
        let Some((lease, application)) = foreign else { return Ok(()) };
        let (shard_id, name) = (&lease.shard_id, &self.name);
        Err(ConsumerError::new(
            ConsumerErrorKind::WrongApplication,
            format!(
                "the lease table {table:?} belongs to the application {application:?}, which its row {shard_id} names, but \
                 this application is {name:?}. Two applications on one table would each get a part of the records. Give \
                 this application a lease table of its own; or, if {application:?} is its former name, set \
                 former_application to {application:?} in all its workers"
            ),
        ))
    }
}

/// Refuses leases whose hash-key ranges differ from those of the shards. The range of a shard never changes, so such rows
/// belong to another stream, even if no row names its stream.
///
/// # Errors
/// As [`check_identity`].
pub(crate) fn check_shards(
    table: &str,
    leases: &[Lease],
    shards: &[Shard],
    identity: &StreamIdentity,
) -> Result<(), ConsumerError> {
    let ranges: HashMap<&ShardId, HashKeyRange> =
        shards.iter().filter_map(|shard| Some((&shard.shard_id, shard.hash_key_range?))).collect();
    let foreign = leases.iter().find_map(|lease| {
        let (recorded, real) = (lease.hash_key_range?, *ranges.get(&lease.shard_id)?);
        (recorded != real).then_some((lease, recorded, real))
    });
    let Some((lease, recorded, real)) = foreign else { return Ok(()) };
    let mismatch = format!(
        "a shard of the hash keys {} to {}, but in the stream to read ({identity}) that shard covers {} to {}",
        recorded.start(),
        recorded.end(),
        real.start(),
        real.end()
    );
    Err(wrong_stream(table, lease, &mismatch))
}

/// The error of a worker whose stream was deleted and created again while it ran.
pub(crate) fn recreated_stream(table: &str, old: &StreamIdentity, new: &StreamIdentity) -> ConsumerError {
    ConsumerError::new(
        ConsumerErrorKind::WrongStream,
        format!(
            "the stream that this worker reads, and to which the lease table {table:?} belongs, is {old}, which has been \
             deleted; the stream of that name is {new} now. Positions of one stream are invalid in another. Either give the \
             application another name (and with it a table of its own), or, if its progress in the old stream is no longer \
             needed, stop all its workers and delete the table"
        ),
    )
}

fn wrong_stream(table: &str, lease: &Lease, mismatch: &str) -> ConsumerError {
    ConsumerError::new(
        ConsumerErrorKind::WrongStream,
        format!(
            "the lease table {table:?} belongs to another stream: its row {} is for {mismatch}. Positions of one stream are \
             invalid in another. Either give the application another name (and with it a table of its own), or, if its \
             progress in the old stream is no longer needed, stop all its workers, delete the table, and, if it keeps \
             state, move the snapshots of the old stream elsewhere: they are refused for this one, and never deleted",
            lease.shard_id
        ),
    )
}

#[cfg(test)]
mod tests {
    use lease_store::{HashKey, Position};

    use super::*;

    fn identity(name: &str, creation_epoch_seconds: u64) -> StreamIdentity {
        StreamIdentity { arn: format!("arn:aws:kinesis:eu-west-1:1:stream/{name}"), creation_epoch_seconds }
    }

    fn lease(stream: Option<StreamIdentity>) -> Lease {
        let mut lease = Lease::unowned(ShardId::numbered(7), Position::TrimHorizon);
        lease.stream = stream;
        lease
    }

    #[test]
    fn another_or_recreated_stream_is_refused_with_both_solutions() {
        let mine = identity("orders", 17);
        check_identity("orders-app", &[lease(None), lease(Some(mine.clone()))], &mine).unwrap();
        for (foreign, reason) in
            [(identity("invoices", 17), "stream/invoices"), (identity("orders", 16), "has been deleted")]
        {
            let error =
                check_identity("orders-app", &[lease(None), lease(Some(foreign))], &mine).unwrap_err();
            assert_eq!(error.kind(), ConsumerErrorKind::WrongStream);
            for part in ["\"orders-app\"", "shardId-000000000007", reason, "another name", "delete the table"]
            {
                assert!(error.to_string().contains(part), "{part} in {error}");
            }
        }
    }

    #[test]
    fn rows_of_another_application_are_refused_by_both_names() {
        let row =
            |application: Option<&str>| Lease { application: application.map(str::to_owned), ..lease(None) };
        let orders = ApplicationNames::new("orders", None);
        orders.check("t", &[row(None), row(Some("orders"))]).unwrap();
        let error = orders.check("t", &[row(None), row(Some("invoices"))]).unwrap_err();
        assert_eq!(error.kind(), ConsumerErrorKind::WrongApplication);
        for part in ["\"t\"", "\"invoices\"", "\"orders\"", "a lease table of its own", "former_application"]
        {
            assert!(error.to_string().contains(part), "{part} in {error}");
        }
        let renamed = ApplicationNames::new("orders", Some("invoices"));
        renamed.check("t", &[row(Some("orders")), row(Some("invoices"))]).unwrap();
        assert_eq!((orders.recorded(), renamed.recorded()), ("orders", "invoices"));
        assert!(renamed.check("t", &[row(Some("others"))]).is_err());
    }

    #[test]
    fn rows_without_a_stream_are_checked_by_their_hash_key_ranges() {
        let shard = |end: u128| {
            Shard::new(ShardId::numbered(7), false)
                .with_hash_key_range(Some(HashKeyRange::new(HashKey(0), HashKey(end)).unwrap()))
        };
        let mut lease = lease(None);
        let mine = identity("orders", 17);
        check_shards("t", std::slice::from_ref(&lease), &[shard(5)], &mine).unwrap();
        lease.hash_key_range = shard(5).hash_key_range;
        check_shards("t", std::slice::from_ref(&lease), &[shard(5)], &mine).unwrap();
        let error = check_shards("t", &[lease], &[shard(6)], &mine).unwrap_err();
        assert_eq!(error.kind(), ConsumerErrorKind::WrongStream);
        assert!(error.to_string().contains("0 to 5") && error.to_string().contains("0 to 6"), "{error}");
    }
}
