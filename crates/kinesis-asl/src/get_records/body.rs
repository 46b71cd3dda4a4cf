//! Reads the body of an answer: for as long as bytes arrive, but not for ever.
//!
//! A slow link needs longer for 10 MB than a call may take without an answer. So the time-out of an attempt applies to the wait
//! for the answer, and then to each wait for further bytes.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_kinesis::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::SdkError;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use lease_store::BoxError;
use memchr::memmem;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::answer::MAX_BODY_BYTES;
use super::decode_error::Malformed;
use crate::connections;

/// The longest time for the body of one answer. Its next iterator expires five minutes after it was made. A link slower than
/// 10 MB in this time gets smaller answers.
pub(crate) const MAX_BODY_TIME: Duration = Duration::from_secs(4 * 60);

/// The member that each record of an answer has once, in either encoding.
const RECORD_MARK: &[u8] = b"SequenceNumber";

/// An answer that ended before its end: no further bytes arrived, or they took too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CutOff {
    /// The bytes that arrived.
    pub(crate) bytes: u64,
    /// The number of records that begin in these bytes, approximately.
    pub(crate) records: usize,
    /// The limit that was exceeded.
    pub(crate) limit: Duration,
}

impl fmt::Display for CutOff {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, limit, .. } = self;
        if *limit == MAX_BODY_TIME {
            write!(formatter, "the answer took longer than {limit:?}, {bytes} bytes of it arrived")
        } else {
            write!(formatter, "no byte of the answer arrived for {limit:?}, after {bytes} bytes")
        }
    }
}

impl StdError for CutOff {}

/// The time-out within an answer, if it is the cause of an error.
pub(crate) fn cut_off<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a CutOff> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|cause| cause.downcast_ref())
}

/// The number of records that begin in these bytes of an answer.
fn records_in(bytes: &[u8]) -> usize {
    memmem::find_iter(bytes, RECORD_MARK).count()
}

/// The timer of the waits for bytes. It is set only when a wait begins, since most frames have already arrived.
#[derive(Debug)]
struct Silence {
    limit: Duration,
    is_waiting: bool,
}

/// A frame of a body; `None` at its end.
type NextFrame = Option<Result<Frame<Bytes>, BoxError>>;

impl Silence {
    /// The next frame; `Err`: no frame arrived within the limit.
    fn poll_frame(
        &mut self,
        mut timer: Pin<&mut Sleep>,
        body: &mut SdkBody,
        context: &mut Context<'_>,
    ) -> Poll<Result<NextFrame, ()>> {
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            self.is_waiting = false;
            return Poll::Ready(Ok(frame));
        }
        if !self.is_waiting {
            self.is_waiting = true;
            timer.as_mut().reset(Instant::now() + self.limit);
        }
        timer.poll(context).map(Err)
    }
}

/// Appends the body to a buffer. Each byte is copied once, from the connection's buffer.
///
/// # Errors
/// [`CutOff`], a body that is too long, or a broken connection.
pub(super) async fn read_whole(
    mut body: SdkBody,
    limit: Duration,
    whole: &mut Vec<u8>,
) -> Result<(), BoxError> {
    let mut timer = pin!(sleep(limit));
    let mut silence = Silence { limit, is_waiting: false };
    let read = timeout(MAX_BODY_TIME, async {
        while let Some(frame) = poll_fn(|context| silence.poll_frame(timer.as_mut(), &mut body, context))
            .await
            .map_err(|()| None)?
        {
            let Ok(data) = frame.map_err(Some)?.into_data() else { continue };
            if data.len() > MAX_BODY_BYTES - whole.len() {
                let fault = "the body is too long";
                return Err(Some(Malformed { encoding: None, offset: MAX_BODY_BYTES, fault }.into()));
            }
            whole.extend_from_slice(&data);
        }
        Ok(())
    });
    let limit = match read.await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(Some(error))) => return Err(error),
        Ok(Err(None)) => limit,
        Err(_) => MAX_BODY_TIME,
    };
    Err(CutOff { bytes: whole.len() as u64, records: records_in(whole), limit }.into())
}

/// Bounds the waits for an answer and its bytes in a call through the SDK, as its interceptor. Clones share the state
/// of the call.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    limit: Duration,
    call: Arc<Call>,
}

#[derive(Debug, Default)]
struct Call {
    is_answered: AtomicBool,
    connection: Mutex<Option<CaptureSmithyConnection>>,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, call: Arc::default() }
    }

    /// Waits for a call with this interceptor, within the limits. The call needs no time-out for an attempt.
    pub(super) async fn wait<T, E>(
        &self,
        call: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, SdkError<E>> {
        let mut call = pin!(call);
        match timeout(self.limit, &mut call).await {
            Ok(result) => result,
            Err(_) if self.call.is_answered.load(Ordering::Acquire) => call.await,
            Err(elapsed) => {
                self.retire_connection();
                Err(SdkError::timeout_error(elapsed))
            }
        }
    }

    fn retire_connection(&self) {
        if let Some(connection) = &*self.call.connection.lock().unwrap_or_else(PoisonError::into_inner) {
            connections::retire(connection);
        }
    }
}

impl Intercept for Patience {
    fn name(&self) -> &'static str {
        "Patience"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.call.connection.lock().unwrap_or_else(PoisonError::into_inner) =
            connections::of_attempt(config);
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.call.is_answered.store(true, Ordering::Release);
        let response = context.response_mut();
        let body = PatientBody {
            body: response.take_body(),
            timer: Box::pin(sleep(self.limit)),
            silence: Silence { limit: self.limit, is_waiting: false },
            until: Instant::now() + MAX_BODY_TIME,
            bytes: 0,
            records: 0,
            patience: self.clone(),
        };
        *response.body_mut() = SdkBody::from_body_1_x(body);
        Ok(())
    }
}

/// A body whose time-outs end it with [`CutOff`].
struct PatientBody {
    body: SdkBody,
    timer: Pin<Box<Sleep>>,
    silence: Silence,
    /// When the whole body must have arrived.
    until: Instant,
    bytes: u64,
    records: usize,
    patience: Patience,
}

impl Body for PatientBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let limit = match this.silence.poll_frame(this.timer.as_mut(), &mut this.body, context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(frame)) => {
                if let Some(Ok(Some(data))) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref))
                {
                    this.bytes += data.len() as u64;
                    this.records += records_in(data);
                }
                if frame.is_none() || Instant::now() < this.until {
                    return Poll::Ready(frame);
                }
                MAX_BODY_TIME
            }
            Poll::Ready(Err(())) => this.silence.limit,
        };
        this.patience.retire_connection();
        Poll::Ready(Some(Err(CutOff { bytes: this.bytes, records: this.records, limit }.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}
