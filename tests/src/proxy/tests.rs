//! Each mood does what it says, seen through sockets of this machine in front of a server that sends back what it gets.
//! Nothing is decided by how long something takes, except that a delay is at least as long as it says.

use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// How long anything may take before a test counts as hanging.
const LIMIT: Duration = Duration::from_secs(60);

/// Enough for what must not come to have come.
const NOTHING_COMES: Duration = Duration::from_millis(200);

/// A server that sends back what it gets, and keeps it.
struct Echo {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    _task: JoinSet<()>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (mut task, hears) = (JoinSet::new(), heard.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let hears = hears.clone();
                connections.spawn(async move {
                    let mut buffer = vec![0; 4096];
                    while let Ok(read @ 1..) = client.read(&mut buffer).await {
                        hears.lock().unwrap().extend_from_slice(&buffer[..read]);
                        if client.write_all(&buffer[..read]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, heard, _task: task }
    }

    fn heard(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    async fn wait_until_heard(&self, bytes: usize) {
        while self.heard() < bytes {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A seed with which the first connection in this mood comes to a fate of this kind.
fn seed_for(mood: Mood, is_wanted: impl Fn(&Fate) -> bool) -> u64 {
    let fate = |seed: &u64| {
        let plan = Plan::always(mood, *seed);
        plan.fate(&plan.first(), 0)
    };
    (0..10_000).find(|seed| is_wanted(&fate(seed))).unwrap()
}

async fn proxied(mood: Mood, is_wanted: impl Fn(&Fate) -> bool) -> (Echo, Proxy, TcpStream) {
    let echo = Echo::start().await;
    let proxy = Proxy::start(echo.address, Plan::always(mood, seed_for(mood, is_wanted))).unwrap();
    let client = TcpStream::connect(proxy.address()).await.unwrap();
    (echo, proxy, client)
}

/// What comes until the connection ends, and how it ends.
async fn read_to_the_end(client: &mut TcpStream) -> (usize, io::Result<()>) {
    let mut all = Vec::new();
    let ended = timeout(LIMIT, client.read_to_end(&mut all)).await.expect("it ends");
    (all.len(), ended.map(drop))
}

fn was_reset(ended: &io::Result<()>) -> bool {
    ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn clear_proxy_passes_both_directions_and_the_end() {
    let (echo, proxy, client) = proxied(Mood::Clear, |_| true).await;
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
    assert!(back == sent && echo.heard() == sent.len());
    assert_eq!(proxy.tally().of("connections"), 1);
    assert_eq!(proxy.tally().of("bytes of answers carried"), sent.len() as u64);
}

#[tokio::test]
async fn slow_connection_adds_its_drawn_delay() {
    let is_slow = |fate: &Fate| {
        fate.pace(Direction::Up).delay.as_millis() > 50 && fate.pace(Direction::Down).delay.as_millis() > 50
    };
    let (_echo, _proxy, mut client) = proxied(Mood::Slow, is_slow).await;
    let asked_at = Instant::now();
    client.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    timeout(LIMIT, client.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"hello");
    assert!(asked_at.elapsed() > Duration::from_millis(100), "{:?}", asked_at.elapsed());
}

#[tokio::test]
async fn throttled_connection_keeps_to_its_bytes_per_second() {
    let is_narrow = |fate: &Fate| {
        let rates = [Direction::Up, Direction::Down].map(|direction| fate.pace(direction).bytes_per_second);
        rates.iter().all(|rate| rate.is_some_and(|rate| (10_000..15_000).contains(&rate)))
    };
    let (_echo, _proxy, mut client) = proxied(Mood::Throttled, is_narrow).await;
    let asked_at = Instant::now();
    client.write_all(&[7; 6000]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_the_end(&mut client).await.0, 6000);
    // All but the last piece are paid for.
    assert!(asked_at.elapsed() > Duration::from_millis(350), "{:?}", asked_at.elapsed());
}

#[tokio::test]
async fn connection_cut_at_once_carries_no_byte() {
    for how in [Cut::Reset, Cut::Close] {
        let (echo, proxy, mut client) =
            proxied(Mood::CutAtOnce, |fate| *fate == Fate::Cut { how, fuse: None }).await;
        let (bytes, ended) = read_to_the_end(&mut client).await;
        assert_eq!((bytes, echo.heard()), (0, 0));
        assert_eq!(was_reset(&ended), how == Cut::Reset, "{ended:?}");
        assert_eq!(proxy.tally().of("connections reset"), u64::from(how == Cut::Reset));
    }
}

#[tokio::test]
async fn cut_request_arrives_in_part_and_gets_no_more_answer() {
    let is_short = |fate: &Fate| {
        matches!(fate, Fate::Cut { how: Cut::Close, .. }) && fate.fuse_bytes(Direction::Up).is_some()
    };
    let (echo, proxy, mut client) = proxied(Mood::CutInRequests, is_short).await;
    let plan = Plan::always(Mood::CutInRequests, seed_for(Mood::CutInRequests, is_short));
    let passes = plan.fate(&plan.first(), 0).fuse_bytes(Direction::Up).unwrap();
    let _ = client.write_all(&[7; 4000]).await;
    let _ = read_to_the_end(&mut client).await;
    timeout(LIMIT, echo.wait_until_heard(usize::try_from(passes).unwrap())).await.unwrap();
    assert_eq!(proxy.tally().of("bytes of requests carried"), passes);
    assert_eq!(proxy.tally().of("connections closed"), 1);
}

#[tokio::test]
async fn lost_answer_was_requested_in_full() {
    for mood in [Mood::LostAnswers, Mood::CutInAnswers] {
        let (echo, proxy, mut client) = proxied(mood, |fate| matches!(fate, Fate::Cut { .. })).await;
        let plan_bytes = {
            let plan = Plan::always(mood, seed_for(mood, |fate| matches!(fate, Fate::Cut { .. })));
            plan.fate(&plan.first(), 0).fuse_bytes(Direction::Down).unwrap()
        };
        client.write_all(&[7; 4000]).await.unwrap();
        let (bytes, _) = read_to_the_end(&mut client).await;
        assert!(bytes as u64 <= plan_bytes && plan_bytes < 4000, "{bytes} of {plan_bytes}");
        assert_eq!(proxy.tally().of("bytes of answers carried"), plan_bytes);
        assert!(echo.heard() > 0);
    }
}

#[tokio::test]
async fn swallowed_answers_never_arrive_though_requests_do() {
    let (echo, proxy, mut client) =
        proxied(Mood::SwallowedAnswers, |fate| *fate == Fate::SwallowAnswers).await;
    client.write_all(b"hello").await.unwrap();
    timeout(LIMIT, echo.wait_until_heard(5)).await.unwrap();
    let mut back = [0; 1];
    assert!(timeout(NOTHING_COMES, client.read(&mut back)).await.is_err(), "nothing comes, not even an end");
    assert_eq!(proxy.tally().of("bytes of answers carried"), 0);
}

#[tokio::test]
async fn half_closed_connection_is_reported_and_the_other_half_flows() {
    let closes = |wanted: Direction| move |fate: &Fate| matches!(fate, Fate::HalfClose(fuse) if fuse.direction == wanted && fuse.after_bytes < 5);
    // The server sees an end after a few bytes, answers these, and ends as well.
    let (echo, _proxy, mut client) = proxied(Mood::HalfClosedUp, closes(Direction::Up)).await;
    client.write_all(b"hello").await.unwrap();
    let (bytes, ended) = read_to_the_end(&mut client).await;
    assert!(bytes < 5 && ended.is_ok() && echo.heard() == bytes, "{bytes} {ended:?}");
    // The client sees an end after a few bytes, and the server hears more.
    let (echo, _proxy, mut client) = proxied(Mood::HalfClosedDown, closes(Direction::Down)).await;
    client.write_all(b"hello").await.unwrap();
    let (bytes, ended) = read_to_the_end(&mut client).await;
    assert!(bytes < 5 && ended.is_ok(), "{bytes} {ended:?}");
    client.write_all(b" world").await.unwrap();
    timeout(LIMIT, echo.wait_until_heard(11)).await.unwrap();
}

/// A proxy that is in these moods one after another, whenever the sender says so.
async fn in_turn(moods: &[Mood]) -> (Echo, Proxy, Plan, watch::Sender<Period>) {
    let echo = Echo::start().await;
    let moods: Vec<(Mood, Duration)> = moods.iter().map(|mood| (*mood, Duration::from_secs(1))).collect();
    let plan = Plan::in_turn(1, &moods);
    let (sender, weather) = watch::channel(plan.first());
    let proxy = Proxy::serve(echo.address, Arc::new(plan.clone()), weather).unwrap();
    (echo, proxy, plan, sender)
}

#[tokio::test]
async fn bytes_held_back_by_silence_arrive_after_it() {
    let (echo, proxy, plan, weather) = in_turn(&[Mood::Clear, Mood::Silent]).await;
    let mut before = TcpStream::connect(proxy.address()).await.unwrap();
    let silence = plan.after(&plan.first());
    weather.send_replace(silence);
    let mut during = TcpStream::connect(proxy.address()).await.unwrap();
    before.write_all(b"one").await.unwrap();
    during.write_all(b"two").await.unwrap();
    let mut back = [0; 3];
    assert!(timeout(NOTHING_COMES, before.read_exact(&mut back)).await.is_err());
    assert_eq!(echo.heard(), 0, "something passed in silence");
    weather.send_replace(plan.after(&silence));
    for (mut client, said) in [(before, b"one"), (during, b"two")] {
        timeout(LIMIT, client.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(&back, said);
    }
}

#[tokio::test]
async fn where_connections_are_refused_the_port_is_kept_for_later() {
    let (_echo, proxy, plan, weather) = in_turn(&[Mood::Clear, Mood::Refused]).await;
    let mut before = TcpStream::connect(proxy.address()).await.unwrap();
    let mut back = [0; 5];
    before.write_all(b"hello").await.unwrap();
    timeout(LIMIT, before.read_exact(&mut back)).await.unwrap().unwrap();
    let refusal = plan.after(&plan.first());
    weather.send_replace(refusal);
    assert!(was_reset(&read_to_the_end(&mut before).await.1), "what was connected is reset");
    // The port is closed a moment later.
    let refused = timeout(LIMIT, async {
        loop {
            if let Err(error) = TcpStream::connect(proxy.address()).await {
                break error.kind();
            }
        }
    });
    assert_eq!(refused.await.unwrap(), io::ErrorKind::ConnectionRefused);
    weather.send_replace(plan.after(&refusal));
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
    let plan = Plan::in_turn(1, &[(Mood::Clear, moment), (Mood::Slow, moment), (Mood::Silent, moment)]);
    let proxy = Proxy::start(echo.address, plan).unwrap();
    timeout(LIMIT, proxy.wait_until_over()).await.unwrap();
    assert!(proxy.weather().borrow().is_last());
    assert_eq!([Mood::Slow, Mood::Silent].map(|mood| proxy.tally().of(&format!("periods: {mood}"))), [1, 1]);
}
