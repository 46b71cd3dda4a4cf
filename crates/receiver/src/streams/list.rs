//! The streams of a worker: a list that may change while it runs.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::{ConsumerError, ConsumerErrorKind};
use crate::handle::ConsumerHandle;
use crate::receiver::Consumer;
use crate::streams::config::StreamConfig;
use crate::streams::factory::StreamFactory;
use crate::streams::former::{AddedAgain, FormerLeases, FormerStream};
use crate::streams::seat::StreamStore;

/// The most streams of one consumer, with those that are being removed.
pub const MAX_STREAMS: usize = 1_000;

/// The streams of a worker, shared by its handles and its `run`.
pub(super) struct StreamList {
    state: Mutex<State>,
    changed: Notify,
    /// Cancelled when `run` has ended.
    ended: CancellationToken,
}

impl fmt::Debug for StreamList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StreamList").field("streams", &self.state().streams).finish_non_exhaustive()
    }
}

struct State {
    streams: Vec<ListedStream>,
    next_id: u64,
    /// Streams that `run` has not started yet.
    added: Vec<AddedStream>,
    /// Removed streams that have ended, and whose leases are to be deleted.
    former: Vec<FormerStream>,
    is_stopping: bool,
    /// Builds the consumers of added streams. `None`: the worker has ended.
    factory: Option<StreamFactory>,
}

/// A stream of the list.
#[derive(Debug, Clone)]
pub(super) struct ListedStream {
    /// Unique in this worker, also when the stream is removed and added again.
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    pub(super) handle: ConsumerHandle,
    pub(super) leases: Arc<StreamStore>,
    /// Why it is not read any more.
    pub(super) failure: Option<String>,
    has_ended: bool,
    /// Set once the stream is removed: it stays in the list until its shards are released.
    removed: Option<FormerLeases>,
}

/// A stream to start.
pub(super) struct AddedStream {
    pub(super) id: u64,
    pub(super) consumer: Consumer,
    /// Streams of the same name that are being removed: the new one starts when they have ended.
    pub(super) after: Vec<ConsumerHandle>,
}

impl StreamList {
    pub(super) fn new(factory: StreamFactory) -> Arc<Self> {
        let state = State {
            streams: Vec::new(),
            next_id: 0,
            added: Vec::new(),
            former: Vec::new(),
            is_stopping: false,
            factory: Some(factory),
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), ended: CancellationToken::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a stream of the builder, whose faults were checked.
    pub(super) fn push(&self, config: &StreamConfig) {
        self.state().push(config);
    }

    /// Adds a stream to a worker that has not been stopped.
    ///
    /// # Errors
    /// `Stopped`, and `InvalidSettings` with all faults of the stream.
    pub(super) fn add(&self, config: &StreamConfig) -> Result<ConsumerHandle, ConsumerError> {
        let mut state = self.state();
        let name = config.name();
        let Some(factory) = state.factory.as_ref().filter(|_| !state.is_stopping) else {
            let message = format!(
                "the stream {name:?} cannot be added, because the consumer was stopped or has ended; build a new consumer \
                 with it"
            );
            return Err(ConsumerError::new(ConsumerErrorKind::Stopped, message));
        };
        let mut faults = factory.faults(config);
        if state.streams.iter().any(|stream| stream.is_read_as(name)) {
            faults.push(format!(
                "the consumer has a stream with the name {name:?} already; remove that one, or give this one another name \
                 with named()"
            ));
        }
        // A stream that has ended gives its place to the new one of its name.
        let others = state.streams.iter().filter(|stream| !stream.is_replaced_by(name));
        if others.count() >= MAX_STREAMS {
            faults.push(format!("the consumer has {MAX_STREAMS} streams, the most there may be; remove one"));
        }
        if !faults.is_empty() {
            let message = format!("the stream {name:?} cannot be added:\n- {}", faults.join("\n- "));
            return Err(ConsumerError::new(ConsumerErrorKind::InvalidSettings, message));
        }
        state.streams.retain(|stream| !stream.is_replaced_by(name));
        let added = state.push(config);
        drop(state);
        self.changed.notify_one();
        added.ok_or_else(|| {
            let message = format!("the stream {name:?} has no record processors; call processors()");
            ConsumerError::new(ConsumerErrorKind::InvalidSettings, message)
        })
    }

    /// Stops a stream, and removes it when it has ended. `None`: there is none of this name.
    pub(super) fn remove(&self, name: &str, leases: FormerLeases) -> Option<ConsumerHandle> {
        let mut state = self.state();
        let index =
            state.streams.iter().position(|stream| stream.removed.is_none() && &*stream.name == name)?;
        let stream = &mut state.streams[index];
        stream.removed = Some(leases);
        if !stream.has_ended {
            stream.leases.leave_soon();
        }
        let handle = stream.handle.clone();
        if stream.has_ended {
            state.end_removal(index);
        }
        drop(state);
        handle.stop();
        self.changed.notify_one();
        Some(handle)
    }

    /// Requests a stop of all streams.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.is_stopping = true;
        state.streams.iter().for_each(|stream| stream.handle.stop());
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until the worker has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// The streams, in the order in which they were given. A stream that is being removed gives its place to a new one of its
    /// name.
    pub(super) fn streams(&self) -> Vec<ListedStream> {
        let state = self.state();
        let replaces = |old: &ListedStream, new: &ListedStream| new.id > old.id && new.name == old.name;
        let is_shown = |stream: &&ListedStream| {
            stream.removed.is_none() || !state.streams.iter().any(|other| replaces(stream, other))
        };
        state.streams.iter().filter(is_shown).cloned().collect()
    }

    /// All streams, also those that are being removed and have given their place to a new one of their name.
    pub(super) fn all(&self) -> Vec<ListedStream> {
        self.state().streams.clone()
    }

    /// Whether a removed stream of this name, whose leases have this key, is in the list again.
    pub(super) fn is_added_again(&self, name: &str, key: &str) -> AddedAgain {
        let state = self.state();
        let is_of_name = |stream: &&ListedStream| stream.removed.is_none() && &*stream.name == name;
        match state.streams.iter().find(is_of_name).map(|stream| stream.leases.identified()) {
            None => AddedAgain::No,
            Some(None) => AddedAgain::Unknown,
            Some(Some(leases)) if leases.key == key => AddedAgain::Yes,
            Some(Some(_)) => AddedAgain::No,
        }
    }

    /// The handle of the first stream of this name that is not being removed.
    pub(super) fn handle_of(&self, name: &str) -> Option<ConsumerHandle> {
        let state = self.state();
        let mut streams = state.streams.iter().filter(|stream| &*stream.name == name);
        let found = streams.clone().find(|stream| stream.removed.is_none()).or_else(|| streams.next());
        found.map(|stream| stream.handle.clone())
    }

    /// The streams to start, and those whose leases are to be deleted.
    pub(super) fn take_work(&self) -> (Vec<AddedStream>, Vec<FormerStream>) {
        let mut state = self.state();
        (std::mem::take(&mut state.added), std::mem::take(&mut state.former))
    }

    /// Waits for a change of the list.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Records the end of a stream. Returns the streams that are still in the list.
    pub(super) fn record_end(&self, id: u64, failure: Option<&ConsumerError>) -> BTreeSet<u64> {
        let mut state = self.state();
        if let Some(index) = state.streams.iter().position(|stream| stream.id == id) {
            let stream = &mut state.streams[index];
            stream.has_ended = true;
            stream.failure = failure.map(ToString::to_string);
            if stream.removed.is_some() {
                state.end_removal(index);
            }
        }
        state.streams.iter().map(|stream| stream.id).collect()
    }

    /// Whether a worker without a running stream has ended: it was stopped, or all its streams have ended by themselves. An
    /// empty list waits for a stream. No stream can be added from then on.
    pub(super) fn end_if_over(&self) -> bool {
        let mut state = self.state();
        let all_ended = !state.streams.is_empty() && state.streams.iter().all(|stream| stream.has_ended);
        let is_over = state.added.is_empty() && (state.is_stopping || all_ended);
        state.is_stopping |= is_over;
        is_over
    }
}

impl State {
    fn push(&mut self, config: &StreamConfig) -> Option<ConsumerHandle> {
        let (consumer, leases) = self.factory.as_mut()?.consumer(config)?;
        let (id, name, handle) = (self.next_id, config.name(), consumer.handle());
        self.next_id += 1;
        let is_leaving = |stream: &&ListedStream| stream.removed.is_some() && &*stream.name == name;
        let leaving = self.streams.iter().filter(is_leaving);
        let after = leaving.map(|stream| stream.handle.clone()).collect();
        self.added.push(AddedStream { id, consumer, after });
        self.streams.push(ListedStream {
            id,
            name: name.into(),
            handle: handle.clone(),
            leases,
            failure: None,
            has_ended: false,
            removed: None,
        });
        Some(handle)
    }

    /// Ends the removal of a stream that has ended: plans the deletion of its leases, if that was asked for and the stream was
    /// ever described. During a stop it stays in the list, so that the report has it.
    fn end_removal(&mut self, index: usize) {
        let stream = if self.is_stopping { self.streams[index].clone() } else { self.streams.remove(index) };
        let Some(FormerLeases::DeleteAfter(wait)) = stream.removed else { return };
        let clock = stream.leases.clock();
        match stream.leases.identified() {
            Some(leases) => self.former.push(FormerStream::new(stream.name, leases, wait, clock)),
            None => tracing::warn!(
                stream = &*stream.name,
                "the stream was removed before it was described, so its leases are not known and stay"
            ),
        }
    }
}

impl ListedStream {
    /// Whether it is read, or about to be, under this name.
    fn is_read_as(&self, name: &str) -> bool {
        !self.has_ended && self.removed.is_none() && &*self.name == name
    }

    /// Whether it has ended, and a new stream of this name takes its place.
    fn is_replaced_by(&self, name: &str) -> bool {
        self.has_ended && self.removed.is_none() && &*self.name == name
    }
}

/// Ends the list of a worker, also when the future of its `run` is dropped.
#[derive(Debug)]
pub(super) struct EndOfList(pub(super) Arc<StreamList>);

impl Drop for EndOfList {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let rest =
            (state.factory.take(), std::mem::take(&mut state.added), std::mem::take(&mut state.former));
        // Not under the lock, since the end of a consumer is reported to its handles.
        drop(state);
        drop(rest);
        self.0.ended.cancel();
    }
}
