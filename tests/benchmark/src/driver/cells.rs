//! What is measured: shapes, numbers of shards, and who takes part.

use std::fmt;

use kinesis_streaming::kinesis_asl::GetRecordsFormat;

use crate::contender::Contender;
use crate::shape::Shape;

/// How often a run is repeated, in turn with the others; the least counts.
const ROUNDS: usize = 3;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// CPU time.
    Time,
    /// Allocations, and the heap.
    Count,
    /// The time from a put to the handler.
    Latency,
}

impl Kind {
    /// As the command line names it.
    pub(crate) fn part(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Count => "count",
            Self::Latency => "latency",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Time => "CPU time",
            Self::Count => "allocations",
            Self::Latency => "latency",
        })
    }
}

/// One comparison.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
    pub(crate) shards: u64,
    /// Answers with records for each shard.
    pub(crate) answers: u64,
    /// How long shards without such are looked at.
    pub(crate) seconds: u64,
    pub(crate) rounds: usize,
    pub(crate) contenders: Vec<Contender>,
}

impl Cell {
    fn time(shape: Shape, shards: u64, answers: u64) -> Self {
        Self {
            kind: Kind::Time,
            shape,
            shards,
            answers,
            seconds: 3,
            rounds: ROUNDS,
            contenders: Contender::ALL.to_vec(),
        }
    }

    fn once(self, kind: Kind) -> Self {
        Self { kind, rounds: 1, ..self }
    }

    fn of(self, contenders: &[Contender]) -> Self {
        Self { contenders: contenders.to_vec(), ..self }
    }
}

/// Who is looked at where not all are.
const CHOSEN: [Contender; 3] =
    [Contender::SdkLoop, Contender::Pipeline(GetRecordsFormat::Cbor), Contender::Limit { is_cbor: true }];

/// Everything.
pub(crate) fn full() -> Vec<Cell> {
    let pipeline = &CHOSEN[1..2];
    vec![
        Cell { rounds: 1, ..Cell::time(Shape::A, 1, 20) },
        Cell::time(Shape::A, 16, 8),
        Cell::time(Shape::A, 256, 2),
        Cell::time(Shape::A, 2048, 1).once(Kind::Time).of(&CHOSEN),
        Cell { rounds: 1, ..Cell::time(Shape::B, 1, 12) },
        Cell::time(Shape::B, 16, 6),
        Cell::time(Shape::B, 256, 2),
        Cell::time(Shape::B, 2048, 1).once(Kind::Time).of(&CHOSEN),
        Cell { rounds: 1, ..Cell::time(Shape::C, 1, 8) },
        Cell::time(Shape::C, 16, 4),
        Cell::time(Shape::C, 256, 1),
        Cell::time(Shape::C, 2048, 1).once(Kind::Time).of(&CHOSEN),
        Cell { rounds: 1, ..Cell::time(Shape::D, 1, 12) },
        Cell::time(Shape::D, 16, 6),
        Cell { rounds: 1, ..Cell::time(Shape::E, 1, 0).of(&CHOSEN) },
        Cell::time(Shape::E, 16, 0).of(&CHOSEN),
        Cell::time(Shape::E, 256, 0).of(&CHOSEN),
        Cell { rounds: 2, ..Cell::time(Shape::E, 2048, 0).of(&CHOSEN) },
        Cell::time(Shape::A, 16, 4).once(Kind::Count),
        Cell::time(Shape::B, 16, 4).once(Kind::Count),
        Cell::time(Shape::C, 16, 4).once(Kind::Count),
        Cell::time(Shape::D, 16, 4).once(Kind::Count),
        Cell::time(Shape::E, 16, 0).once(Kind::Count),
        Cell::time(Shape::E, 2048, 0).once(Kind::Count).of(&CHOSEN),
        Cell::time(Shape::A, 2048, 1).once(Kind::Count).of(pipeline),
        Cell::time(Shape::B, 2048, 1).once(Kind::Count).of(pipeline),
        Cell::time(Shape::Paced, 256, 0).once(Kind::Latency).of(&CHOSEN),
    ]
}

/// What fits into a minute.
pub(crate) fn short() -> Vec<Cell> {
    vec![
        Cell { rounds: 1, ..Cell::time(Shape::A, 16, 4) },
        Cell { rounds: 1, ..Cell::time(Shape::B, 16, 2) },
        Cell { rounds: 1, ..Cell::time(Shape::C, 16, 2).of(&CHOSEN) },
        Cell { rounds: 1, seconds: 2, ..Cell::time(Shape::E, 64, 0).of(&CHOSEN) },
        Cell::time(Shape::A, 4, 3).once(Kind::Count).of(&Contender::ALL[..3]),
        Cell::time(Shape::B, 4, 3).once(Kind::Count).of(&Contender::ALL[..3]),
        Cell::time(Shape::D, 4, 3).once(Kind::Count).of(&CHOSEN[1..2]),
        Cell { seconds: 2, ..Cell::time(Shape::E, 64, 0).once(Kind::Count).of(&CHOSEN) },
    ]
}
