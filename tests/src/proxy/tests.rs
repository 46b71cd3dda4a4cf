//! Each mode has its effect on real sockets in front of an echo server. No test depends on timing, except that a delay has a
//! minimum.

use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// The limit after which a test counts as hanging.
const LIMIT: Duration = Duration::from_secs(60);

/// The time in which bytes that must not arrive would arrive.
const QUIET_TIME: Duration = Duration::from_millis(200);

/// A server that echoes the bytes it receives, and keeps them.
struct Echo {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    _task: JoinSet<()>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (mut task, receives) = (JoinSet::new(), received.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let receives = receives.clone();
                connections.spawn(async move {
                    let mut buffer = vec![0; 4096];
                    while let Ok(read @ 1..) = client.read(&mut buffer).await {
                        receives.lock().unwrap().extend_from_slice(&buffer[..read]);
                        if client.write_all(&buffer[..read]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, received, _task: task }
    }

    fn received(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    async fn wait_until_received(&self, bytes: usize) {
        while self.received() < bytes {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A seed with which the first connection in this mode gets such a treatment.
fn seed_for(mode: FaultMode, is_wanted: impl Fn(&Treatment) -> bool) -> u64 {
    let treatment = |seed: &u64| {
        let plan = Plan::always(mode, *seed);
        plan.treatment(&plan.first(), 0)
    };
    (0..10_000).find(|seed| is_wanted(&treatment(seed))).unwrap()
}

async fn proxied(mode: FaultMode, is_wanted: impl Fn(&Treatment) -> bool) -> (Echo, Proxy, TcpStream) {
    let echo = Echo::start().await;
    let proxy = Proxy::start(echo.address, Plan::always(mode, seed_for(mode, is_wanted))).unwrap();
    let client = TcpStream::connect(proxy.address()).await.unwrap();
    (echo, proxy, client)
}

/// Reads until the connection ends. Returns the number of bytes, and how it ended.
async fn read_to_the_end(client: &mut TcpStream) -> (usize, io::Result<()>) {
    let mut all = Vec::new();
    let ended = timeout(LIMIT, client.read_to_end(&mut all)).await.expect("the connection ends");
    (all.len(), ended.map(drop))
}

fn was_reset(ended: &io::Result<()>) -> bool {
    ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn clear_proxy_passes_both_directions_and_the_end() {
    let (echo, proxy, client) = proxied(FaultMode::Clear, |_| true).await;
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| number.to_le_bytes()[0]).collect();
    let (mut reads, mut writes) = client.into_split();
    let to_send = sent.clone();
    let sending = tokio::spawn(async move {
        writes.write_all(&to_send).await.unwrap();
        writes.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    timeout(LIMIT, reads.read_to_end(&mut back)).await.unwrap().unwrap();
    sending.await.unwrap();
    assert!(back == sent && echo.received() == sent.len());
    assert_eq!(proxy.tally().of("connections"), 1);
    assert_eq!(proxy.tally().of("bytes of answers carried"), sent.len() as u64);
}

#[tokio::test]
async fn slow_connection_adds_its_drawn_delay() {
    let is_slow = |treatment: &Treatment| {
        treatment.pace(Direction::Up).delay.as_millis() > 50
            && treatment.pace(Direction::Down).delay.as_millis() > 50
    };
    let (_echo, _proxy, mut client) = proxied(FaultMode::Slow, is_slow).await;
    let sent_at = Instant::now();
    client.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    timeout(LIMIT, client.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"hello");
    assert!(sent_at.elapsed() > Duration::from_millis(100), "{:?}", sent_at.elapsed());
}

#[tokio::test]
async fn throttled_connection_keeps_to_its_bytes_per_second() {
    let is_narrow = |treatment: &Treatment| {
        let rates =
            [Direction::Up, Direction::Down].map(|direction| treatment.pace(direction).bytes_per_second);
        rates.iter().all(|rate| rate.is_some_and(|rate| (10_000..15_000).contains(&rate)))
    };
    let (_echo, _proxy, mut client) = proxied(FaultMode::Throttled, is_narrow).await;
    let sent_at = Instant::now();
    client.write_all(&[7; 6000]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_the_end(&mut client).await.0, 6000);
    // The throttle delays all but the last piece.
    assert!(sent_at.elapsed() > Duration::from_millis(350), "{:?}", sent_at.elapsed());
}

#[tokio::test]
async fn connection_cut_at_once_carries_no_byte() {
    for how in [Cut::Reset, Cut::Close] {
        let (echo, proxy, mut client) =
            proxied(FaultMode::CutAtOnce, |treatment| *treatment == Treatment::Cut { how, trigger: None })
                .await;
        let (bytes, ended) = read_to_the_end(&mut client).await;
        assert_eq!((bytes, echo.received()), (0, 0));
        assert_eq!(was_reset(&ended), how == Cut::Reset, "{ended:?}");
        assert_eq!(proxy.tally().of("connections reset"), u64::from(how == Cut::Reset));
    }
}

#[tokio::test]
async fn cut_request_arrives_in_part_and_gets_no_more_answer() {
    let is_short = |treatment: &Treatment| {
        matches!(treatment, Treatment::Cut { how: Cut::Close, .. })
            && treatment.bytes_until_trigger(Direction::Up).is_some()
    };
    let (echo, proxy, mut client) = proxied(FaultMode::CutInRequests, is_short).await;
    let plan = Plan::always(FaultMode::CutInRequests, seed_for(FaultMode::CutInRequests, is_short));
    let passes = plan.treatment(&plan.first(), 0).bytes_until_trigger(Direction::Up).unwrap();
    let _ = client.write_all(&[7; 4000]).await;
    let _ = read_to_the_end(&mut client).await;
    timeout(LIMIT, echo.wait_until_received(usize::try_from(passes).unwrap())).await.unwrap();
    assert_eq!(proxy.tally().of("bytes of requests carried"), passes);
    assert_eq!(proxy.tally().of("connections closed"), 1);
}

#[tokio::test]
async fn lost_answer_was_requested_in_full() {
    for mode in [FaultMode::LostAnswers, FaultMode::CutInAnswers] {
        let (echo, proxy, mut client) =
            proxied(mode, |treatment| matches!(treatment, Treatment::Cut { .. })).await;
        let plan_bytes = {
            let plan =
                Plan::always(mode, seed_for(mode, |treatment| matches!(treatment, Treatment::Cut { .. })));
            plan.treatment(&plan.first(), 0).bytes_until_trigger(Direction::Down).unwrap()
        };
        client.write_all(&[7; 4000]).await.unwrap();
        let (bytes, _) = read_to_the_end(&mut client).await;
        assert!(bytes as u64 <= plan_bytes && plan_bytes < 4000, "{bytes} of {plan_bytes}");
        assert_eq!(proxy.tally().of("bytes of answers carried"), plan_bytes);
        assert!(echo.received() > 0);
    }
}

#[tokio::test]
async fn swallowed_answers_never_arrive_though_requests_do() {
    let (echo, proxy, mut client) =
        proxied(FaultMode::SwallowedAnswers, |treatment| *treatment == Treatment::SwallowAnswers).await;
    client.write_all(b"hello").await.unwrap();
    timeout(LIMIT, echo.wait_until_received(5)).await.unwrap();
    let mut back = [0; 1];
    assert!(timeout(QUIET_TIME, client.read(&mut back)).await.is_err(), "neither bytes nor an end arrive");
    assert_eq!(proxy.tally().of("bytes of answers carried"), 0);
}

#[tokio::test]
async fn half_closed_connection_is_reported_and_the_other_half_flows() {
    let closes = |wanted: Direction| move |treatment: &Treatment| matches!(treatment, Treatment::HalfClose(trigger) if trigger.direction == wanted && trigger.after_bytes < 5);
    // The server sees an end after a few bytes, echoes them, and closes too.
    let (echo, _proxy, mut client) = proxied(FaultMode::HalfClosedUp, closes(Direction::Up)).await;
    client.write_all(b"hello").await.unwrap();
    let (bytes, ended) = read_to_the_end(&mut client).await;
    assert!(bytes < 5 && ended.is_ok() && echo.received() == bytes, "{bytes} {ended:?}");
    // The client sees an end after a few bytes, and the server still receives bytes.
    let (echo, _proxy, mut client) = proxied(FaultMode::HalfClosedDown, closes(Direction::Down)).await;
    client.write_all(b"hello").await.unwrap();
    let (bytes, ended) = read_to_the_end(&mut client).await;
    assert!(bytes < 5 && ended.is_ok(), "{bytes} {ended:?}");
    client.write_all(b" world").await.unwrap();
    timeout(LIMIT, echo.wait_until_received(11)).await.unwrap();
}

/// A proxy with these modes in turn; the sender advances them.
async fn in_turn(modes: &[FaultMode]) -> (Echo, Proxy, Plan, watch::Sender<Period>) {
    let echo = Echo::start().await;
    let modes: Vec<(FaultMode, Duration)> =
        modes.iter().map(|mode| (*mode, Duration::from_secs(1))).collect();
    let plan = Plan::in_turn(1, &modes);
    let (sender, period_changes) = watch::channel(plan.first());
    let proxy = Proxy::serve(echo.address, Arc::new(plan.clone()), period_changes).unwrap();
    (echo, proxy, plan, sender)
}

#[tokio::test]
async fn bytes_held_back_by_silence_arrive_after_it() {
    let (echo, proxy, plan, period_changes) = in_turn(&[FaultMode::Clear, FaultMode::Silent]).await;
    let mut before = TcpStream::connect(proxy.address()).await.unwrap();
    let silence = plan.after(&plan.first());
    period_changes.send_replace(silence);
    let mut during = TcpStream::connect(proxy.address()).await.unwrap();
    before.write_all(b"one").await.unwrap();
    during.write_all(b"two").await.unwrap();
    let mut back = [0; 3];
    assert!(timeout(QUIET_TIME, before.read_exact(&mut back)).await.is_err());
    assert_eq!(echo.received(), 0, "bytes passed in silence");
    period_changes.send_replace(plan.after(&silence));
    for (mut client, expected) in [(before, b"one"), (during, b"two")] {
        timeout(LIMIT, client.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(&back, expected);
    }
}

#[tokio::test]
async fn black_hole_swallows_existing_connections_for_good() {
    let (echo, proxy, plan, period_changes) = in_turn(&[FaultMode::Clear, FaultMode::BlackHole]).await;
    let mut before = TcpStream::connect(proxy.address()).await.unwrap();
    let mut back = [0; 3];
    before.write_all(b"one").await.unwrap();
    timeout(LIMIT, before.read_exact(&mut back)).await.unwrap().unwrap();
    let black_hole = plan.after(&plan.first());
    period_changes.send_replace(black_hole);
    while proxy.tally().of("connections turned into black holes") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut during = TcpStream::connect(proxy.address()).await.unwrap();
    before.write_all(b"two").await.unwrap();
    during.write_all(b"six").await.unwrap();
    timeout(LIMIT, during.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"six", "a new connection works");
    period_changes.send_replace(plan.after(&black_hole));
    assert!(
        timeout(QUIET_TIME, before.read_exact(&mut back)).await.is_err(),
        "neither bytes nor an end arrive"
    );
    assert_eq!(echo.received(), 6);
}

#[tokio::test]
async fn where_connections_are_refused_the_port_is_kept_for_later() {
    let (_echo, proxy, plan, period_changes) = in_turn(&[FaultMode::Clear, FaultMode::Refused]).await;
    let mut before = TcpStream::connect(proxy.address()).await.unwrap();
    let mut back = [0; 5];
    before.write_all(b"hello").await.unwrap();
    timeout(LIMIT, before.read_exact(&mut back)).await.unwrap().unwrap();
    let refusal = plan.after(&plan.first());
    period_changes.send_replace(refusal);
    assert!(was_reset(&read_to_the_end(&mut before).await.1), "existing connections are reset");
    // The port is closed a moment later.
    let refused = timeout(LIMIT, async {
        loop {
            if let Err(error) = TcpStream::connect(proxy.address()).await {
                break error.kind();
            }
        }
    });
    assert_eq!(refused.await.unwrap(), io::ErrorKind::ConnectionRefused);
    period_changes.send_replace(plan.after(&refusal));
    let answered = timeout(LIMIT, async {
        loop {
            if let Ok(mut after) = TcpStream::connect(proxy.address()).await {
                after.write_all(b"hello").await.unwrap();
                break after.read_exact(&mut back).await.unwrap();
            }
        }
    });
    assert_eq!(answered.await.unwrap(), back.len());
}

#[tokio::test]
async fn plan_runs_to_its_end() {
    let echo = Echo::start().await;
    let moment = Duration::from_millis(20);
    let plan = Plan::in_turn(
        1,
        &[(FaultMode::Clear, moment), (FaultMode::Slow, moment), (FaultMode::Silent, moment)],
    );
    let proxy = Proxy::start(echo.address, plan).unwrap();
    timeout(LIMIT, proxy.wait_until_over()).await.unwrap();
    assert!(proxy.period_changes().borrow().is_last());
    assert_eq!(
        [FaultMode::Slow, FaultMode::Silent].map(|mode| proxy.tally().of(&format!("periods: {mode}"))),
        [1, 1]
    );
}
