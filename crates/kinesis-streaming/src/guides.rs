//! Compiles the examples of the guides in `docs`, as documentation tests.

#[doc = include_str!("../../../docs/configuration.md")]
#[cfg(feature = "kinesis-asl")]
mod configuration {}

#[doc = include_str!("../../../docs/deployment.md")]
mod deployment {}

#[doc = include_str!("../../../docs/from-a-loop.md")]
mod from_a_loop {}

#[doc = include_str!("../../../docs/from-spark.md")]
#[cfg(all(feature = "state", feature = "storage"))]
mod from_spark {}

#[doc = include_str!("../../../docs/from-the-kcl.md")]
mod from_the_kcl {}

#[doc = include_str!("../../../docs/getting-started.md")]
#[cfg(feature = "kinesis-asl")]
mod getting_started {}

#[doc = include_str!("../../../docs/semantics.md")]
mod semantics {}

#[doc = include_str!("../../../docs/several-streams.md")]
#[cfg(all(feature = "kinesis-asl", feature = "signal"))]
mod several_streams {}

#[doc = include_str!("../../../docs/testing-your-application.md")]
mod testing_your_application {}
