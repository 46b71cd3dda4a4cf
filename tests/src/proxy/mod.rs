//! A TCP proxy that does to connections what networks do: it delays and throttles them, cuts them at once or in the middle
//! of a request or an answer, closes one half, falls silent, swallows answers, and refuses to be connected to.
//!
//! What it does, and when, is a [`Plan`] drawn from a seed; what becomes of a connection while a mood lasts is a [`Fate`].
//! Both are pure ([`plan`], [`fate`]). The same seed gives the same plan; which request meets which mood is up to the clock
//! and the scheduler.
//!
//! | mood | what a client sees |
//! | --- | --- |
//! | clear | nothing |
//! | slow | each piece is late, by a fixed and a random time, in each direction on its own |
//! | throttled | so many bytes in a second, in each direction |
//! | cut at once | the connection is gone, used or not |
//! | cut in requests | the connection is gone after so many bytes of a request: the server has half of it |
//! | cut in answers | the connection is gone after so many bytes of an answer: what was asked for is done |
//! | lost answers | the connection is gone instead of an answer: what was asked for is done, and the client cannot know |
//! | swallowed answers | what was asked for is done, no answer ever comes, and the connection stays open for good |
//! | half closed up | the server thinks that the client has nothing more to say, and nothing more reaches it |
//! | half closed down | the client thinks that the server has nothing more to say, and nothing more reaches it |
//! | silent | nothing moves in either direction; when it is over what was held arrives, late |
//! | refused | connections that there are are reset, and new ones are refused |

pub mod fate;
pub mod plan;
mod relay;
mod tally;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use self::fate::{Cut, Direction, Fate, Fuse, Pace};
pub use self::plan::{Mood, Period, Plan};
use self::relay::Relay;
pub use self::tally::Tally;

/// How many connections are carried at the same time; others wait until one is over.
const MAX_CONNECTIONS: usize = 512;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 128;

/// A proxy in front of one server. It ends, and with it all its connections, when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Receiver<Period>,
    tally: Arc<Tally>,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a port of its own and begins with the plan.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(server: SocketAddr, plan: Plan) -> io::Result<Self> {
        let plan = Arc::new(plan);
        let (sender, weather) = watch::channel(plan.first());
        let mut proxy = Self::serve(server, plan.clone(), weather)?;
        let tally = proxy.tally.clone();
        proxy.tasks.spawn(async move { change_weather(&plan, &sender, &tally).await });
        Ok(proxy)
    }

    /// One whose periods are told by somebody else.
    fn serve(server: SocketAddr, plan: Arc<Plan>, weather: watch::Receiver<Period>) -> io::Result<Self> {
        // Bound and never listening: it keeps the port while connections are refused.
        let anchor = TcpSocket::new_v4()?;
        anchor.set_reuseaddr(true)?;
        anchor.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = anchor.local_addr()?;
        let listener = listen(address)?;
        let tally = Arc::new(Tally::default());
        let mut tasks = JoinSet::new();
        let door = Door { server, plan, weather: weather.clone(), tally: tally.clone(), _anchor: anchor };
        tasks.spawn(async move {
            if let Err(error) = door.keep(listener, address).await {
                eprintln!("the proxy at {address} ended: {error}");
            }
        });
        Ok(Self { address, weather, tally, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The mood now, and each that follows.
    pub fn weather(&self) -> watch::Receiver<Period> {
        self.weather.clone()
    }

    /// What was done so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Waits until the plan is carried out: from then on it is clear.
    pub async fn wait_until_over(&self) {
        // An error means that the task is gone, which happens at the end of the plan too.
        let _ = self.weather().wait_for(Period::is_last).await;
    }
}

async fn change_weather(plan: &Plan, weather: &watch::Sender<Period>, tally: &Tally) {
    let started_at = Instant::now();
    let mut period = plan.first();
    while !period.is_last() {
        sleep_until(started_at + period.until).await;
        period = plan.after(&period);
        tally.note(&format!("periods: {}", period.mood));
        weather.send_replace(period);
    }
    // The connections wait for changes until the proxy is dropped.
    std::future::pending::<()>().await;
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections in.
struct Door {
    server: SocketAddr,
    plan: Arc<Plan>,
    weather: watch::Receiver<Period>,
    tally: Arc<Tally>,
    _anchor: TcpSocket,
}

impl Door {
    async fn keep(mut self, listener: TcpListener, address: SocketAddr) -> io::Result<()> {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut open = Some(listener);
        let mut next_number = 0;
        loop {
            let mood = self.weather.borrow_and_update().mood;
            if mood == Mood::Refused {
                open = None;
                if self.weather.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            let listener = match open.take() {
                Some(listener) => listener,
                None => listen(address)?,
            };
            while connections.try_join_next().is_some() {}
            let Ok(place) = room.clone().acquire_owned().await else { return Ok(()) };
            let accepted = tokio::select! {
                biased;
                changed = self.weather.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => return Ok(()),
                },
                accepted = listener.accept() => Some(accepted),
            };
            open = Some(listener);
            // A client may be gone before it is let in.
            if let Some(Ok((client, _))) = accepted {
                let relay = Relay {
                    number: next_number,
                    server: self.server,
                    plan: self.plan.clone(),
                    weather: self.weather.clone(),
                    tally: self.tally.clone(),
                };
                next_number += 1;
                connections.spawn(async move {
                    relay.carry(client).await;
                    drop(place);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
