//! The HTTP clients of the subscriptions of a stream: one TLS state for all shards, and a connection for each.
//!
//! On a shared HTTP/2 connection, a few shards whose events are not read would use up the flow-control window of all others. So
//! each shard has a connection of its own. A default client for each shard would also have its own copy of the system's
//! certificates, which is larger than the rest of its state.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{SharedHttpClient, StalledStreamProtectionConfig};
use aws_smithy_http_client::pool::{
    self, ConnectionPool, ConnectionReuseScope, DriverSpawner, Partition, PartitionId,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext};
use tokio::runtime::Handle;

/// The most connections for the subscriptions of a stream. Further shards share them.
const MAX_CONNECTIONS: usize = 512;

/// Creates the clients for the subscriptions of one stream.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    /// The certificates that replace the system's.
    trusted: OnceLock<TlsContext>,
    /// `None` inside: the pool cannot be built, and each shard has a default client.
    pool: OnceLock<Option<ConnectionPool>>,
    places: Places,
}

/// A client for the subscriptions of one shard.
#[derive(Debug)]
pub(crate) struct SubscriptionClient {
    pub(super) sdk: Client,
    _place: Option<Place>,
}

impl Connections {
    /// Trusts these certificates instead of the system's. The HTTP client of the SDK client must do the same.
    pub(crate) fn trust(&self, certificates: TlsContext) {
        // Set once, before the first shard is opened.
        let _ = self.trusted.set(certificates);
    }

    /// Trusts the certificates that another stream's subscriptions trust.
    pub(crate) fn trust_as(&self, other: &Self) {
        if let Some(certificates) = other.trusted.get() {
            self.trust(certificates.clone());
        }
    }

    /// A client for the subscriptions of one shard, like the given one. It has a connection of its own, unless the given client has
    /// an HTTP client of the user's.
    ///
    /// SDK retries are off: the service refuses the repeat of a call that succeeded, and
    /// [`SubscriptionPolicy`](super::policy::SubscriptionPolicy) keeps subscriptions apart. The SDK's stalled-stream protection is
    /// off as well, because a quiet shard is slow; the inactivity time-out replaces it.
    pub(super) fn client(&self, like: &Client) -> SubscriptionClient {
        let mut config = like
            .config()
            .to_builder()
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let is_ours = like.config().http_client().is_none() || self.trusted.get().is_some();
        let place = is_ours.then(|| self.places.take());
        if let Some(place) = &place
            && let Some(http_client) = self.http_client(place.index)
        {
            config.set_http_client(Some(http_client));
        }
        SubscriptionClient { sdk: Client::from_conf(config.build()), _place: place }
    }

    fn http_client(&self, index: usize) -> Option<SharedHttpClient> {
        let pool = self.pool.get_or_init(|| pool(self.trusted.get())).as_ref()?;
        let client = pool::Client::from_partition(pool, PartitionId::from_index(index)).ok()?;
        Some(SharedHttpClient::new(client))
    }
}

/// A pool with a part for each connection, and otherwise like the default client of the SDK.
fn pool(trusted: Option<&TlsContext>) -> Option<ConnectionPool> {
    // A stream may be used in one runtime after another, as the default client may: each connection belongs to the runtime of the
    // call that opens it.
    let spawner = DriverSpawner::from_fn(|driver| match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(driver)),
        Err(_) => tracing::warn!("a connection is closed, since it was opened outside of a tokio runtime"),
    });
    let parts =
        (0..MAX_CONNECTIONS).map(|index| Partition::new(PartitionId::from_index(index), spawner.clone()));
    let builder = ConnectionPool::builder()
        .connection_reuse_scope(ConnectionReuseScope::Partition)
        .partitions(parts)
        .proxy_config(ProxyConfig::from_env())
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(trusted.cloned().unwrap_or_default());
    match builder.build_https() {
        Ok(pool) => Some(pool),
        Err(error) => {
            tracing::warn!(%error, "the subscriptions of this stream share no TLS state");
            None
        }
    }
}

/// How many shards use each connection.
#[derive(Debug, Clone)]
struct Places(Arc<Mutex<Vec<u32>>>);

/// The use of a connection by a shard; it ends when this is dropped.
#[derive(Debug)]
struct Place {
    index: usize,
    places: Places,
}

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(vec![0; MAX_CONNECTIONS])))
    }
}

impl Places {
    /// Takes the connection with the fewest shards, the first of several.
    fn take(&self) -> Place {
        let mut users = self.users();
        let fewest = users.iter().enumerate().min_by_key(|(_, users)| **users);
        let index = fewest.map_or(0, |(index, _)| index);
        if let Some(users) = users.get_mut(index) {
            *users = users.saturating_add(1);
        }
        Place { index, places: self.clone() }
    }

    fn users(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(users) = self.places.users().get_mut(self.index) {
            *users = users.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_a_connection_only_if_all_are_used() {
        let places = Places::default();
        let mut taken: Vec<Place> = (0..MAX_CONNECTIONS).map(|_| places.take()).collect();
        let mut indices: Vec<usize> = taken.iter().map(|place| place.index).collect();
        indices.dedup();
        assert_eq!(indices.len(), MAX_CONNECTIONS, "each shard has its own");
        let shared = places.take();
        assert_eq!(shared.index, 0);
        drop(taken.remove(7));
        assert_eq!(places.take().index, 7, "a connection without shards is used first");
    }
}
