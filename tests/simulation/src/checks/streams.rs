//! Promises about a stream that is deleted and created again: its workers stop, and nothing crosses to the new stream.

use super::facts::Checks;
use super::leases::Write;
use super::promise::{Promise, Verdict};
use crate::event::{Batch, Process, SHARDS_PER_LIFE, ShardNumber, Writer};

/// How long a worker with leases may take to notice that its stream was created again: a read fails, or the leader audits.
const NOTICED_MILLIS: u64 = 75_000;

fn life_of(shard: ShardNumber) -> u32 {
    shard / SHARDS_PER_LIFE
}

impl Checks {
    /// A receiver belongs to the stream that it sees first.
    pub(super) fn stream_described(&mut self, process: Process, life: u32) {
        let now = self.now;
        if let Some(facts) = self.processes.get_mut(process as usize) {
            facts.stream.get_or_insert((life, now));
        }
    }

    pub(super) fn check_stream_of_batch(&self, batch: &Batch) -> Verdict {
        let stream = self.process(batch.process).and_then(|facts| facts.stream);
        match stream {
            Some((life, _)) if life != life_of(batch.shard) => {
                let why = format!("s{}: process {} belongs to stream {life}", batch.shard, batch.process);
                self.broken(Promise::OneStream, why)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_stream_of_write(&self, write: &Write) -> Verdict {
        let Writer::Ours(process) = write.by else { return Ok(()) };
        let Some((life, since)) = self.process(process).and_then(|facts| facts.stream) else { return Ok(()) };
        // A write in flight belongs to the receiver before.
        if write.sent_at < since {
            return Ok(());
        }
        let Write { shard, kind, .. } = *write;
        if life != life_of(shard) {
            let why = format!("s{shard}: process {process} belongs to stream {life} and writes {kind}");
            return self.broken(Promise::OneStream, why);
        }
        let (newest, created_at) = self.streams.newest;
        let is_late = self.now > created_at + NOTICED_MILLIS;
        if life < newest && is_late && !self.is_disturbed(process, created_at, self.now) {
            let why = format!(
                "s{shard}: process {process} still writes {kind}, but its stream was replaced at {created_at} ms"
            );
            return self.broken(Promise::OneStream, why);
        }
        Ok(())
    }
}
