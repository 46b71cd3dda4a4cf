//! The comparisons: shapes, numbers of shards, and contenders.

use std::fmt;

use kinesis_streaming::kinesis_asl::GetRecordsFormat;

use crate::contender::Contender;
use crate::shape::Shape;

/// Number of rounds, in which the contenders take turns; the least value counts.
const ROUNDS: usize = 3;

/// What a comparison measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// CPU time.
    Time,
    /// Allocations and heap size.
    Count,
    /// Time from a put to the handler.
    Latency,
}

impl Kind {
    /// Its name on the command line.
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
pub(crate) struct Comparison {
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
    pub(crate) shards: u64,
    /// Number of answers with records of each shard.
    pub(crate) answers: u64,
    /// How long shards without prepared answers are measured.
    pub(crate) seconds: u64,
    pub(crate) rounds: usize,
    pub(crate) contenders: Vec<Contender>,
}

impl Comparison {
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

    /// Returns how often each contender runs. Only CPU time needs several rounds.
    pub(super) fn rounds_to_run(&self) -> usize {
        if self.kind == Kind::Time { self.rounds } else { 1 }
    }

    /// Returns the number of runs of all contenders.
    pub(super) fn runs(&self) -> usize {
        self.rounds_to_run() * self.contenders.len()
    }

    fn once(self, kind: Kind) -> Self {
        Self { kind, rounds: 1, ..self }
    }

    fn of(self, contenders: &[Contender]) -> Self {
        Self { contenders: contenders.to_vec(), ..self }
    }
}

/// The contenders of the smaller comparisons.
const CHOSEN: [Contender; 3] =
    [Contender::SdkLoop, Contender::Pipeline(GetRecordsFormat::Cbor), Contender::Limit { is_cbor: true }];

/// Returns all comparisons.
pub(crate) fn full() -> Vec<Comparison> {
    let pipeline = &CHOSEN[1..2];
    vec![
        Comparison { rounds: 1, ..Comparison::time(Shape::A, 1, 20) },
        Comparison::time(Shape::A, 16, 8),
        Comparison::time(Shape::A, 256, 2),
        Comparison::time(Shape::A, 2048, 1).once(Kind::Time).of(&CHOSEN),
        Comparison { rounds: 1, ..Comparison::time(Shape::B, 1, 12) },
        Comparison::time(Shape::B, 16, 6),
        Comparison::time(Shape::B, 256, 2),
        Comparison::time(Shape::B, 2048, 1).once(Kind::Time).of(&CHOSEN),
        Comparison { rounds: 1, ..Comparison::time(Shape::C, 1, 8) },
        Comparison::time(Shape::C, 16, 4),
        Comparison::time(Shape::C, 256, 1),
        Comparison::time(Shape::C, 2048, 1).once(Kind::Time).of(&CHOSEN),
        Comparison { rounds: 1, ..Comparison::time(Shape::D, 1, 12) },
        Comparison::time(Shape::D, 16, 6),
        Comparison { rounds: 1, ..Comparison::time(Shape::E, 1, 0).of(&CHOSEN) },
        Comparison::time(Shape::E, 16, 0).of(&CHOSEN),
        Comparison::time(Shape::E, 256, 0).of(&CHOSEN),
        Comparison { rounds: 2, ..Comparison::time(Shape::E, 2048, 0).of(&CHOSEN) },
        Comparison::time(Shape::A, 16, 4).once(Kind::Count),
        Comparison::time(Shape::B, 16, 4).once(Kind::Count),
        Comparison::time(Shape::C, 16, 4).once(Kind::Count),
        Comparison::time(Shape::D, 16, 4).once(Kind::Count),
        Comparison::time(Shape::E, 16, 0).once(Kind::Count),
        Comparison::time(Shape::E, 2048, 0).once(Kind::Count).of(&CHOSEN),
        Comparison::time(Shape::A, 2048, 1).once(Kind::Count).of(pipeline),
        Comparison::time(Shape::B, 2048, 1).once(Kind::Count).of(pipeline),
        Comparison::time(Shape::Paced, 256, 0).once(Kind::Latency).of(&CHOSEN),
    ]
}

/// Returns the comparisons that fit into a minute.
pub(crate) fn short() -> Vec<Comparison> {
    vec![
        Comparison { rounds: 1, ..Comparison::time(Shape::A, 16, 4) },
        Comparison { rounds: 1, ..Comparison::time(Shape::B, 16, 2) },
        Comparison { rounds: 1, ..Comparison::time(Shape::C, 16, 2).of(&CHOSEN) },
        Comparison { rounds: 1, seconds: 2, ..Comparison::time(Shape::E, 64, 0).of(&CHOSEN) },
        Comparison::time(Shape::A, 4, 3).once(Kind::Count).of(&Contender::ALL[..3]),
        Comparison::time(Shape::B, 4, 3).once(Kind::Count).of(&Contender::ALL[..3]),
        Comparison::time(Shape::D, 4, 3).once(Kind::Count).of(&CHOSEN[1..2]),
        Comparison { seconds: 2, ..Comparison::time(Shape::E, 64, 0).once(Kind::Count).of(&CHOSEN) },
    ]
}
