//! The proxies between one slot of the fleet and the servers: one in front of each server, so that a process can be cut off
//! from one of them while other processes are not.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use end_to_end_tests::local_servers::Endpoints;
use end_to_end_tests::proxy::{FaultMode, Plan, Proxy};
use fastrand::Rng;
use tokio::task::JoinSet;

use crate::RunSettings;
use crate::run_log::RunLog;

/// A proxy for each server.
pub(crate) struct ServerProxies {
    kinesis: Proxy,
    dynamodb: Proxy,
    _printers: [JoinSet<()>; 2],
}

impl ServerProxies {
    /// Starts the proxies. Their plans are drawn from the seed and the slot.
    pub(crate) fn open(slot: usize, servers: &Endpoints, settings: &RunSettings, run_log: &RunLog) -> Self {
        let mut rng = Rng::with_seed(settings.seed ^ (slot as u64 + 1).rotate_right(8));
        let mut proxy = |url: &str| {
            let server: SocketAddr = url.trim_start_matches("https://").parse().unwrap();
            Proxy::start(server, Plan::draw(rng.u64(..), settings.length)).unwrap()
        };
        let (kinesis, dynamodb) = (proxy(&servers.kinesis), proxy(&servers.dynamodb));
        let print_faults = |server: &str, proxy: &Proxy| {
            print_faults(format!("slot {}, {server}", slot + 1), proxy, run_log)
        };
        let printers = [print_faults("Kinesis", &kinesis), print_faults("DynamoDB", &dynamodb)];
        Self { kinesis, dynamodb, _printers: printers }
    }

    pub(crate) fn endpoints(&self) -> Endpoints {
        // The proxies relay what is encrypted. The certificate is valid for their addresses too.
        let url = |proxy: &Proxy| format!("https://{}", proxy.address());
        Endpoints { kinesis: url(&self.kinesis), dynamodb: url(&self.dynamodb) }
    }

    /// Waits until both plans have ended.
    pub(crate) async fn wait_until_over(&self) {
        self.kinesis.wait_until_over().await;
        self.dynamodb.wait_until_over().await;
    }

    /// The counts of all proxies, by server.
    pub(crate) fn totals(proxies: &[Self]) -> [(&'static str, String); 2] {
        let sum = |proxies: Vec<&Proxy>| {
            let mut sums: BTreeMap<String, u64> = BTreeMap::new();
            for (what, count) in proxies.iter().flat_map(|proxy| proxy.tally().all()) {
                *sums.entry(what).or_default() += count;
            }
            let words: Vec<String> = sums.iter().map(|(what, count)| format!("{what} {count}")).collect();
            words.join(", ")
        };
        [
            ("Kinesis", sum(proxies.iter().map(|server_proxies| &server_proxies.kinesis).collect())),
            ("DynamoDB", sum(proxies.iter().map(|server_proxies| &server_proxies.dynamodb).collect())),
        ]
    }
}

/// Prints each fault when it begins.
fn print_faults(which: String, proxy: &Proxy, run_log: &RunLog) -> JoinSet<()> {
    let (mut period_changes, run_log) = (proxy.period_changes(), run_log.clone());
    let mut printer = JoinSet::new();
    printer.spawn(async move {
        while period_changes.changed().await.is_ok() {
            let period = *period_changes.borrow_and_update();
            if period.mode != FaultMode::Clear {
                let lasts = (period.until - period.from).as_secs_f64();
                run_log.log(&format!("{which}: {} for {lasts:.1} s", period.mode));
            }
        }
    });
    printer
}
