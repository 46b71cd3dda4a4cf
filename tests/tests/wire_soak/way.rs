//! The way of one place in the fleet to the servers: a proxy in front of each, so that a process can be cut off from one of
//! them while the others are not.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use end_to_end_tests::local_servers::Endpoints;
use end_to_end_tests::proxy::{Mood, Plan, Proxy};
use fastrand::Rng;
use tokio::task::JoinSet;

use crate::Form;
use crate::chronicle::Chronicle;

/// Two proxies.
pub(crate) struct Way {
    kinesis: Proxy,
    dynamodb: Proxy,
    _narrators: [JoinSet<()>; 2],
}

impl Way {
    /// Opens it. What the proxies do is drawn from the seed and the place.
    pub(crate) fn open(place: usize, servers: &Endpoints, form: &Form, chronicle: &Chronicle) -> Self {
        let mut rng = Rng::with_seed(form.seed ^ (place as u64 + 1).rotate_right(8));
        let mut proxy = |url: &str| {
            let server: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
            Proxy::start(server, Plan::draw(rng.u64(..), form.length)).unwrap()
        };
        let (kinesis, dynamodb) = (proxy(&servers.kinesis), proxy(&servers.dynamodb));
        let narrate =
            |server: &str, proxy: &Proxy| narrate(format!("place {}, {server}", place + 1), proxy, chronicle);
        let narrators = [narrate("Kinesis", &kinesis), narrate("DynamoDB", &dynamodb)];
        Self { kinesis, dynamodb, _narrators: narrators }
    }

    pub(crate) fn endpoints(&self) -> Endpoints {
        let url = |proxy: &Proxy| format!("http://{}", proxy.address());
        Endpoints { kinesis: url(&self.kinesis), dynamodb: url(&self.dynamodb) }
    }

    /// Waits until both plans are carried out.
    pub(crate) async fn wait_until_over(&self) {
        self.kinesis.wait_until_over().await;
        self.dynamodb.wait_until_over().await;
    }

    /// What all of these did, by server.
    pub(crate) fn totals(ways: &[Self]) -> [(&'static str, String); 2] {
        let sum = |proxies: Vec<&Proxy>| {
            let mut sums: BTreeMap<String, u64> = BTreeMap::new();
            for (what, count) in proxies.iter().flat_map(|proxy| proxy.tally().all()) {
                *sums.entry(what).or_default() += count;
            }
            let words: Vec<String> = sums.iter().map(|(what, count)| format!("{what} {count}")).collect();
            words.join(", ")
        };
        [
            ("Kinesis", sum(ways.iter().map(|way| &way.kinesis).collect())),
            ("DynamoDB", sum(ways.iter().map(|way| &way.dynamodb).collect())),
        ]
    }
}

/// Says each fault when it begins.
fn narrate(which: String, proxy: &Proxy, chronicle: &Chronicle) -> JoinSet<()> {
    let (mut weather, chronicle) = (proxy.weather(), chronicle.clone());
    let mut narrator = JoinSet::new();
    narrator.spawn(async move {
        while weather.changed().await.is_ok() {
            let period = *weather.borrow_and_update();
            if period.mood != Mood::Clear {
                let lasts = (period.until - period.from).as_secs_f64();
                chronicle.say(&format!("{which}: {} for {lasts:.1} s", period.mood));
            }
        }
    });
    narrator
}
