//! Carries one connection: the thin shell around what its fate says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until};

use super::fate::{Cut, Direction, Fate, Pace};
use super::plan::{Period, Plan};
use super::tally::Tally;

/// How much of a connection is held in each direction, in bytes.
const LANE_BYTES: usize = 16 * 1024;

/// In how many pieces a second's worth of a throttled connection is written.
const PIECES_PER_SECOND: u64 = 20;

/// How long a connection is kept whose client has nothing more to say.
const LINGER_TIME: Duration = Duration::from_secs(15);

/// What a connection is carried with.
pub(super) struct Relay {
    pub(super) number: u64,
    pub(super) server: SocketAddr,
    pub(super) plan: Arc<Plan>,
    pub(super) weather: watch::Receiver<Period>,
    pub(super) tally: Arc<Tally>,
}

/// How a connection ended.
enum End {
    /// By the fate.
    Cut(Cut),
    /// By its two ends.
    Over,
}

impl Relay {
    /// Carries a connection to its end. While nothing may pass, the server does not even hear of it.
    pub(super) async fn carry(mut self, client: TcpStream) {
        self.tally.note("connections");
        let mut fate = self.next_fate();
        while fate == Fate::Hold {
            self.tally.note("connections taken in and held");
            if self.weather.changed().await.is_err() {
                return;
            }
            fate = self.next_fate();
        }
        let Ok(server) = TcpStream::connect(self.server).await else {
            self.tally.note("connections without a server");
            return;
        };
        // Small pieces are sent as they come: it is the plan that delays.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (mut client, mut server) = (client, server);
        if let End::Cut(how) = self.relay(&mut client, &mut server, fate).await {
            self.tally.note(match how {
                Cut::Reset => "connections reset",
                Cut::Close => "connections closed",
            });
            if how == Cut::Reset {
                // Where the system refuses it the connection is closed instead.
                let _ = (client.set_zero_linger(), server.set_zero_linger());
            }
        }
    }

    fn next_fate(&mut self) -> Fate {
        let period = *self.weather.borrow_and_update();
        self.plan.fate(&period, self.number)
    }

    async fn relay(&mut self, client: &mut TcpStream, server: &mut TcpStream, mut fate: Fate) -> End {
        let (mut client_reads, mut client_writes) = client.split();
        let (mut server_reads, mut server_writes) = server.split();
        let tally = self.tally.clone();
        let mut up = Lane::new(Direction::Up, self.number);
        let mut down = Lane::new(Direction::Down, self.number);
        loop {
            match fate {
                Fate::Cut { how, fuse: None } => return End::Cut(how),
                Fate::SwallowAnswers if !down.discards => {
                    tally.note("connections whose answers are swallowed");
                    down.discards = true;
                }
                _ => {}
            }
            up.enter(&fate);
            down.enter(&fate);
            loop {
                let linger = up.finished_at.map(|at| at + LINGER_TIME);
                let stepped = tokio::select! {
                    biased;
                    changed = self.weather.changed() => {
                        if changed.is_err() {
                            return End::Over;
                        }
                        break;
                    }
                    step = up.carry(&mut client_reads, &mut server_writes, &tally), if !up.is_finished() => (Direction::Up, step),
                    step = down.carry(&mut server_reads, &mut client_writes, &tally), if !down.is_finished() => (Direction::Down, step),
                    () = sleep_until(linger.unwrap_or_else(Instant::now)), if linger.is_some() => return End::Over,
                };
                match stepped {
                    (_, Ok(Step::Finished)) if up.is_finished() && down.is_finished() => return End::Over,
                    (_, Ok(Step::Finished)) => {}
                    (_, Err(_)) => return End::Over,
                    (direction, Ok(Step::FuseBlown)) => {
                        if let Fate::Cut { how, .. } = fate {
                            return End::Cut(how);
                        }
                        tally.note("halves closed");
                        let closed = match direction {
                            Direction::Up => (server_writes.shutdown().await, &mut up),
                            Direction::Down => (client_writes.shutdown().await, &mut down),
                        };
                        closed.1.discards = true;
                        closed.1.fuse_bytes = None;
                    }
                }
            }
            fate = self.next_fate();
            if fate == Fate::Hold {
                tally.note("connections held");
            }
        }
    }
}

/// What one direction came to.
enum Step {
    /// Its sender has nothing more to say, and its receiver knows.
    Finished,
    /// So many bytes have passed.
    FuseBlown,
}

/// One direction of a connection. Carrying it on is safe to cancel: what was read and not written is kept.
struct Lane {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// What is in the buffer is not written before.
    held_until: Instant,
    pace: Pace,
    /// So many bytes pass before something happens.
    fuse_bytes: Option<u64>,
    /// Nothing passes at all.
    is_still: bool,
    /// What is read is thrown away.
    discards: bool,
    finished_at: Option<Instant>,
    direction: Direction,
    rng: Rng,
}

impl Lane {
    fn new(direction: Direction, number: u64) -> Self {
        Self {
            buffer: vec![0; LANE_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            held_until: Instant::now(),
            pace: Pace::default(),
            fuse_bytes: None,
            is_still: false,
            discards: false,
            finished_at: None,
            direction,
            rng: Rng::with_seed(number),
        }
    }

    fn is_finished(&self) -> bool {
        self.finished_at.is_some()
    }

    fn enter(&mut self, fate: &Fate) {
        self.pace = fate.pace(self.direction);
        self.fuse_bytes = fate.fuse_bytes(self.direction).filter(|_| !self.discards);
        self.is_still = *fate == Fate::Hold;
    }

    async fn carry(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        tally: &Tally,
    ) -> io::Result<Step> {
        if self.is_still {
            std::future::pending::<()>().await;
        }
        loop {
            if self.start == self.end {
                let read = from.read(&mut self.buffer).await?;
                if read == 0 {
                    self.finished_at = Some(Instant::now());
                    if !self.discards {
                        to.shutdown().await?;
                    }
                    return Ok(Step::Finished);
                }
                (self.start, self.end) = (0, read);
                let jitter = self.pace.jitter.mul_f64(self.rng.f64());
                self.held_until = Instant::now() + self.pace.delay + jitter;
                continue;
            }
            if self.discards {
                tally.add(self.thrown_away(), (self.end - self.start) as u64);
                self.start = self.end;
                continue;
            }
            if self.fuse_bytes == Some(0) {
                return Ok(Step::FuseBlown);
            }
            sleep_until(self.held_until).await;
            let most = self.most_at_once();
            let written = to.write(&self.buffer[self.start..self.start + most]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.start += written;
            tally.add(self.carried(), written as u64);
            if let Some(bytes_per_second) = self.pace.bytes_per_second {
                self.held_until =
                    Instant::now() + Duration::from_secs_f64(written as f64 / bytes_per_second as f64);
            }
            if let Some(left) = &mut self.fuse_bytes {
                *left = left.saturating_sub(written as u64);
                if *left == 0 {
                    return Ok(Step::FuseBlown);
                }
            }
        }
    }

    fn most_at_once(&self) -> usize {
        let there = self.end - self.start;
        let piece = self.pace.bytes_per_second.map(|bytes| (bytes / PIECES_PER_SECOND).max(1));
        let limits =
            piece.into_iter().chain(self.fuse_bytes).map(|most| usize::try_from(most).unwrap_or(there));
        limits.fold(there, usize::min)
    }

    /// What is counted of the bytes that pass.
    fn carried(&self) -> &'static str {
        match self.direction {
            Direction::Up => "bytes of requests carried",
            Direction::Down => "bytes of answers carried",
        }
    }

    /// What is counted of the bytes that do not.
    fn thrown_away(&self) -> &'static str {
        match self.direction {
            Direction::Up => "bytes of requests thrown away",
            Direction::Down => "bytes of answers thrown away",
        }
    }
}
