//! A TCP proxy with the faults of real networks: it delays and throttles connections, cuts them at once or within a request
//! or an answer, closes one half, falls silent, swallows answers, refuses connections, and turns them into black holes.
//!
//! A [`Plan`] drawn from a seed decides the fault mode at each time, and a [`Treatment`] what a connection suffers in that
//! mode. Both are pure ([`plan`], [`treatment`]). The same seed gives the same plan; the clock and the scheduler decide
//! which request meets which mode.
//!
//! | mode | what a client sees |
//! | --- | --- |
//! | clear | nothing |
//! | slow | each piece is late by a fixed and a random time, separately in each direction |
//! | throttled | a limit of bytes per second in each direction |
//! | cut at once | the connection is gone, used or not |
//! | cut in requests | the connection is gone after some bytes of a request: the server has a part of it |
//! | cut in answers | the connection is gone after some bytes of an answer: the request was carried out |
//! | lost answers | the connection is gone instead of an answer: the request was carried out, and the client cannot know |
//! | swallowed answers | the request was carried out, no answer ever comes, and the connection stays open |
//! | half closed up | the server sees the end of the client's stream, and no more bytes from it |
//! | half closed down | the client sees the end of the server's stream, and no more bytes from it |
//! | silent | no bytes pass in either direction; held bytes arrive after the mode has ended |
//! | refused | existing connections are reset, and new ones are refused |
//! | black hole | existing connections stay open and never carry a byte again, and new ones work |
//! | slow link | a limit of bytes per second for answers |

pub mod fault_mode;
pub mod plan;
mod relay;
mod tally;
pub mod treatment;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use self::fault_mode::FaultMode;
pub use self::plan::{Period, Plan};
use self::relay::Relay;
pub use self::tally::Tally;
pub use self::treatment::{Cut, Direction, Pace, Treatment, Trigger};

/// The most connections at the same time. Further clients wait.
const MAX_CONNECTIONS: usize = 512;

/// The backlog of the listener.
const BACKLOG: u32 = 128;

/// A proxy in front of one server. It ends with all its connections when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    period_changes: watch::Receiver<Period>,
    tally: Arc<Tally>,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port and starts the plan.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(server: SocketAddr, plan: Plan) -> io::Result<Self> {
        let plan = Arc::new(plan);
        let (sender, period_changes) = watch::channel(plan.first());
        let mut proxy = Self::serve(server, plan.clone(), period_changes)?;
        let tally = proxy.tally.clone();
        proxy.tasks.spawn(async move { run_plan(&plan, &sender, &tally).await });
        Ok(proxy)
    }

    /// A proxy whose periods come from the given channel.
    fn serve(
        server: SocketAddr,
        plan: Arc<Plan>,
        period_changes: watch::Receiver<Period>,
    ) -> io::Result<Self> {
        // Bound but never listening: it reserves the port while connections are refused.
        let anchor = TcpSocket::new_v4()?;
        anchor.set_reuseaddr(true)?;
        anchor.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = anchor.local_addr()?;
        let listener = listen(address)?;
        let tally = Arc::new(Tally::default());
        let mut tasks = JoinSet::new();
        let acceptor = Acceptor {
            server,
            plan,
            period_changes: period_changes.clone(),
            tally: tally.clone(),
            _anchor: anchor,
        };
        tasks.spawn(async move {
            if let Err(error) = acceptor.run(listener, address).await {
                eprintln!("the proxy at {address} ended: {error}");
            }
        });
        Ok(Self { address, period_changes, tally, tasks })
    }

    /// The address at which the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The current period, and each that follows.
    pub fn period_changes(&self) -> watch::Receiver<Period> {
        self.period_changes.clone()
    }

    /// The counts so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Waits for the last period of the plan, which causes no faults and never ends.
    pub async fn wait_until_over(&self) {
        // An error means that the task has ended, which also happens at the end of the plan.
        let _ = self.period_changes().wait_for(Period::is_last).await;
    }
}

async fn run_plan(plan: &Plan, period_changes: &watch::Sender<Period>, tally: &Tally) {
    let started_at = Instant::now();
    let mut period = plan.first();
    while !period.is_last() {
        sleep_until(started_at + period.until).await;
        period = plan.after(&period);
        tally.count(&format!("periods: {}", period.mode));
        period_changes.send_replace(period);
    }
    // The connections watch the channel until the proxy is dropped, so it must stay open.
    std::future::pending::<()>().await;
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections.
struct Acceptor {
    server: SocketAddr,
    plan: Arc<Plan>,
    period_changes: watch::Receiver<Period>,
    tally: Arc<Tally>,
    _anchor: TcpSocket,
}

impl Acceptor {
    async fn run(mut self, listener: TcpListener, address: SocketAddr) -> io::Result<()> {
        let capacity = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut open = Some(listener);
        let mut next_number = 0;
        loop {
            let mode = self.period_changes.borrow_and_update().mode;
            if mode == FaultMode::Refused {
                open = None;
                if self.period_changes.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            let listener = match open.take() {
                Some(listener) => listener,
                None => listen(address)?,
            };
            while connections.try_join_next().is_some() {}
            let Ok(permit) = capacity.clone().acquire_owned().await else { return Ok(()) };
            let accepted = tokio::select! {
                biased;
                changed = self.period_changes.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => return Ok(()),
                },
                accepted = listener.accept() => Some(accepted),
            };
            open = Some(listener);
            // A client may have disconnected before it is accepted.
            if let Some(Ok((client, _))) = accepted {
                let relay = Relay {
                    number: next_number,
                    server: self.server,
                    plan: self.plan.clone(),
                    period_changes: self.period_changes.clone(),
                    tally: self.tally.clone(),
                };
                next_number += 1;
                connections.spawn(async move {
                    relay.carry(client).await;
                    drop(permit);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
