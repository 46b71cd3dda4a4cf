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
    /// CPU time of polling without TLS.
    Time,
    /// CPU time of polling over TLS.
    Tls,
    /// CPU time of enhanced fan-out, over TLS and HTTP/2.
    FanOut,
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
            Self::Tls => "tls",
            Self::FanOut => "fan-out",
            Self::Count => "count",
            Self::Latency => "latency",
        }
    }

    /// Whether it measures CPU time.
    pub(super) fn is_time(self) -> bool {
        matches!(self, Self::Time | Self::Tls | Self::FanOut)
    }

    /// Whether the contenders call the server over TLS.
    pub(super) fn is_over_tls(self) -> bool {
        matches!(self, Self::Tls | Self::FanOut)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Time => "CPU time",
            Self::Tls => "CPU time over TLS",
            Self::FanOut => "CPU time of fan-out",
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
            contenders: Contender::POLLING.to_vec(),
        }
    }

    fn tls(shape: Shape, shards: u64, answers: u64) -> Self {
        Self { kind: Kind::Tls, ..Self::time(shape, shards, answers).of(&CHOSEN) }
    }

    fn fan_out(shape: Shape, shards: u64, answers: u64) -> Self {
        Self { kind: Kind::FanOut, ..Self::time(shape, shards, answers).of(&Contender::FAN_OUT) }
    }

    /// Returns how often each contender runs. Only CPU time needs several rounds.
    pub(super) fn rounds_to_run(&self) -> usize {
        if self.kind.is_time() { self.rounds } else { 1 }
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
        Comparison::tls(Shape::A, 16, 8),
        Comparison::tls(Shape::A, 256, 2),
        Comparison::tls(Shape::B, 16, 6),
        Comparison::tls(Shape::C, 16, 4),
        Comparison::fan_out(Shape::A, 16, 8),
        Comparison::fan_out(Shape::A, 256, 2),
        Comparison::fan_out(Shape::B, 16, 6),
        Comparison::fan_out(Shape::C, 16, 4),
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
        Comparison { rounds: 1, ..Comparison::tls(Shape::A, 16, 2).of(&CHOSEN[..2]) },
        Comparison { rounds: 1, ..Comparison::fan_out(Shape::A, 16, 2) },
        Comparison::time(Shape::A, 4, 3).once(Kind::Count).of(&Contender::POLLING[..3]),
        Comparison::time(Shape::B, 4, 3).once(Kind::Count).of(&Contender::POLLING[..3]),
        Comparison::time(Shape::D, 4, 3).once(Kind::Count).of(&CHOSEN[1..2]),
        Comparison { seconds: 2, ..Comparison::time(Shape::E, 64, 0).once(Kind::Count).of(&CHOSEN) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_and_fan_out_are_compared_with_the_sdk() {
        for (comparisons, shapes) in
            [(full(), &[Shape::A, Shape::B, Shape::C][..]), (short(), &[Shape::A][..])]
        {
            for (kind, ours, the_sdks) in [
                (Kind::Tls, Contender::Pipeline(GetRecordsFormat::Cbor), Contender::SdkLoop),
                (Kind::FanOut, Contender::PipelineFanOut, Contender::SdkFanOut),
            ] {
                for shape in shapes {
                    let found = comparisons.iter().find(|comparison| {
                        (comparison.kind, comparison.shape, comparison.shards) == (kind, *shape, 16)
                    });
                    let contenders = &found.unwrap().contenders;
                    assert!(contenders.contains(&ours) && contenders.contains(&the_sdks), "{kind}, {shape}");
                }
            }
            for Comparison { kind, contenders, .. } in comparisons {
                let subscribe = contenders.iter().filter(|contender| Contender::FAN_OUT.contains(contender));
                assert_eq!(
                    subscribe.count(),
                    if kind == Kind::FanOut { contenders.len() } else { 0 },
                    "{kind}"
                );
            }
        }
    }
}
