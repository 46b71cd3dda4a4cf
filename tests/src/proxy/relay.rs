//! Relays one connection as its treatment demands.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until};

use super::plan::{Period, Plan};
use super::tally::Tally;
use super::treatment::{Cut, Direction, Pace, Treatment};

/// The buffer of a connection in each direction, in bytes.
const LANE_BYTES: usize = 16 * 1024;

/// The number of writes per second of a throttled connection.
const PIECES_PER_SECOND: u64 = 20;

/// How long a connection is kept after its client has closed its half.
const LINGER_TIME: Duration = Duration::from_secs(15);

/// One connection and its surroundings.
pub(super) struct Relay {
    pub(super) number: u64,
    pub(super) server: SocketAddr,
    pub(super) plan: Arc<Plan>,
    pub(super) period_changes: watch::Receiver<Period>,
    pub(super) tally: Arc<Tally>,
}

/// How a connection ended.
enum End {
    /// By its treatment.
    Cut(Cut),
    /// By the client and the server.
    Over,
}

impl Relay {
    /// Relays a connection to its end. While bytes are held, the server is not even connected.
    pub(super) async fn carry(mut self, client: TcpStream) {
        self.tally.count("connections");
        let mut treatment = self.next_treatment();
        while treatment == Treatment::Hold {
            self.tally.count("connections accepted and held");
            if self.period_changes.changed().await.is_err() {
                return;
            }
            treatment = self.next_treatment();
        }
        if treatment == Treatment::BlackHole {
            // Only connections that exist when the mode begins are affected.
            treatment = Treatment::UNTOUCHED;
        }
        let Ok(server) = TcpStream::connect(self.server).await else {
            self.tally.count("connections without a server");
            return;
        };
        // Small pieces are sent at once: only the plan may delay them.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (mut client, mut server) = (client, server);
        if let End::Cut(how) = self.relay(&mut client, &mut server, treatment).await {
            self.tally.count(match how {
                Cut::Reset => "connections reset",
                Cut::Close => "connections closed",
            });
            if how == Cut::Reset {
                // Where the system refuses this, the connection is closed instead.
                let _ = (client.set_zero_linger(), server.set_zero_linger());
            }
        }
    }

    fn next_treatment(&mut self) -> Treatment {
        let period = *self.period_changes.borrow_and_update();
        self.plan.treatment(&period, self.number)
    }

    async fn relay(
        &mut self,
        client: &mut TcpStream,
        server: &mut TcpStream,
        mut treatment: Treatment,
    ) -> End {
        let (mut client_reads, mut client_writes) = client.split();
        let (mut server_reads, mut server_writes) = server.split();
        let tally = self.tally.clone();
        let mut up = Lane::new(Direction::Up, self.number);
        let mut down = Lane::new(Direction::Down, self.number);
        loop {
            match treatment {
                Treatment::Cut { how, trigger: None } => return End::Cut(how),
                Treatment::SwallowAnswers if !down.discards => {
                    tally.count("connections whose answers are swallowed");
                    down.discards = true;
                }
                Treatment::BlackHole if !up.is_dead => {
                    tally.count("connections turned into black holes");
                    (up.is_dead, down.is_dead) = (true, true);
                }
                _ => {}
            }
            up.enter(&treatment);
            down.enter(&treatment);
            loop {
                let linger = up.finished_at.map(|at| at + LINGER_TIME);
                let stepped = tokio::select! {
                    biased;
                    changed = self.period_changes.changed() => {
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
                    (direction, Ok(Step::Triggered)) => {
                        if let Treatment::Cut { how, .. } = treatment {
                            return End::Cut(how);
                        }
                        tally.count("halves closed");
                        let closed = match direction {
                            Direction::Up => (server_writes.shutdown().await, &mut up),
                            Direction::Down => (client_writes.shutdown().await, &mut down),
                        };
                        closed.1.discards = true;
                        closed.1.bytes_until_trigger = None;
                    }
                }
            }
            treatment = self.next_treatment();
            if treatment == Treatment::Hold {
                tally.count("connections held");
            }
        }
    }
}

/// The outcome of relaying one direction.
enum Step {
    /// Its sender has closed it, and its receiver knows.
    Finished,
    /// The bytes before the trigger have passed.
    Triggered,
}

/// One direction of a connection. Relaying is safe to cancel: bytes that were read and not written are kept.
struct Lane {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The buffered bytes are not written before this time.
    held_until: Instant,
    pace: Pace,
    /// The bytes that pass before the trigger.
    bytes_until_trigger: Option<u64>,
    /// No bytes pass.
    is_held: bool,
    /// No bytes pass any more.
    is_dead: bool,
    /// Bytes that are read are discarded.
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
            bytes_until_trigger: None,
            is_held: false,
            is_dead: false,
            discards: false,
            finished_at: None,
            direction,
            rng: Rng::with_seed(number),
        }
    }

    fn is_finished(&self) -> bool {
        self.finished_at.is_some()
    }

    fn enter(&mut self, treatment: &Treatment) {
        self.pace = treatment.pace(self.direction);
        self.bytes_until_trigger = treatment.bytes_until_trigger(self.direction).filter(|_| !self.discards);
        self.is_held = *treatment == Treatment::Hold;
    }

    async fn carry(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        tally: &Tally,
    ) -> io::Result<Step> {
        if self.is_held || self.is_dead {
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
                tally.add(self.discarded(), (self.end - self.start) as u64);
                self.start = self.end;
                continue;
            }
            if self.bytes_until_trigger == Some(0) {
                return Ok(Step::Triggered);
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
            if let Some(left) = &mut self.bytes_until_trigger {
                *left = left.saturating_sub(written as u64);
                if *left == 0 {
                    return Ok(Step::Triggered);
                }
            }
        }
    }

    fn most_at_once(&self) -> usize {
        let there = self.end - self.start;
        let piece = self.pace.bytes_per_second.map(|bytes| (bytes / PIECES_PER_SECOND).max(1));
        let limits = piece
            .into_iter()
            .chain(self.bytes_until_trigger)
            .map(|most| usize::try_from(most).unwrap_or(there));
        limits.fold(there, usize::min)
    }

    /// The name under which relayed bytes are counted.
    fn carried(&self) -> &'static str {
        match self.direction {
            Direction::Up => "bytes of requests carried",
            Direction::Down => "bytes of answers carried",
        }
    }

    /// The name under which discarded bytes are counted.
    fn discarded(&self) -> &'static str {
        match self.direction {
            Direction::Up => "bytes of requests thrown away",
            Direction::Down => "bytes of answers thrown away",
        }
    }
}
