//! The time from which durations such as `5m` count back: by the clock of the stream, since the records have its times.

use kinesis_asl::KinesisStream;
use shard_worker::{SourceErrorKind, StreamSource as _};
use tokio::time::Instant;

use crate::exit_code::{CommandError, stream_error};
use crate::look::clock::StreamTime;
use crate::read::start::Start;
use crate::wall_clock::now_millis;

/// The time at a stream, in milliseconds since 1970. The stream is asked only if one of the texts is a time. If none is, or the call is
/// denied, it is the time of this machine.
pub(crate) async fn now_for(
    stream: &KinesisStream,
    mut texts: impl Iterator<Item = &str>,
) -> Result<u64, CommandError> {
    let own_millis = now_millis();
    if !texts.any(|text| matches!(Start::parse(text, own_millis), Ok(Start::Time(_)))) {
        return Ok(own_millis);
    }
    match stream.describe().await {
        Ok(description) => {
            let time = description.now.map(|now| StreamTime::new(now, Instant::now()));
            Ok(time.map_or(own_millis, |time| time.correct(now_millis(), Instant::now())))
        }
        Err(error) if error.kind() == SourceErrorKind::Denied => {
            eprintln!(
                "kinesis-streaming: times count by the clock of this machine; allow kinesis:DescribeStreamSummary ({error})"
            );
            Ok(own_millis)
        }
        Err(error) => Err(stream_error(error)),
    }
}
