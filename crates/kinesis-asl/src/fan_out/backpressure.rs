//! Back-pressure on the body of a subscription: an event stays on its connection until memory for it is reserved.
//!
//! The SDK reads an event from its connection as soon as the event is awaited, and offers no other way to notice that one is
//! arriving. So the SDK reads from a gated body instead. While the gate is closed, at most one frame is read from the
//! connection (16 KB over HTTP/2 with the default client). The rest stays there until the caller has reserved memory and opens
//! the gate.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use lease_store::BoxError;

use super::framing::Framing;
use super::messages::Messages;
use crate::get_records::answer::Answer;
use crate::get_records::decode_error::DecodeError;

/// The result of polling a body: a frame, an error, or its end.
type PolledFrame = Option<Result<Frame<Bytes>, BoxError>>;

/// The body of one subscription, behind a gate. Clones share the body and the gate. The gate starts open, since the service
/// accepts a subscription with a message of its own.
#[derive(Clone)]
pub(super) struct GatedBody(Arc<Mutex<State>>);

struct State {
    body: SdkBody,
    /// The frame that arrived while the gate was closed.
    held: Option<PolledFrame>,
    is_open: bool,
    framing: Framing,
    messages: Messages,
}

impl State {
    /// Polls the connection for a frame.
    fn poll_connection(&mut self, context: &mut Context<'_>) -> Poll<PolledFrame> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.framing.push(data);
        }
        frame
    }
}

impl fmt::Debug for GatedBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        formatter
            .debug_struct("GatedBody")
            .field("is_open", &state.is_open)
            .field("has_frame", &state.held.is_some())
            .finish_non_exhaustive()
    }
}

impl Default for GatedBody {
    fn default() -> Self {
        let state = State {
            body: SdkBody::empty(),
            held: None,
            is_open: true,
            framing: Framing::default(),
            messages: Messages::default(),
        };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl GatedBody {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_open(&self, is_open: bool) {
        self.state().is_open = is_open;
    }

    /// The size of the message that has begun to arrive, in bytes; `None`: not known.
    pub(super) fn arriving_bytes(&self) -> Option<u32> {
        self.state().framing.arriving_bytes()
    }

    /// The event for which the SDK has read an empty one. `None`: the SDK has read an event itself.
    pub(super) fn take_event(&self) -> Option<Result<Answer, DecodeError>> {
        self.state().messages.take_event()
    }

    /// Waits until a frame, an error or the end of the body has arrived, and holds it for the SDK. Safe to cancel.
    pub(super) async fn wait_for_frame(&self) {
        poll_fn(|context| {
            let state = &mut *self.state();
            if state.held.is_none() {
                match state.poll_connection(context) {
                    Poll::Ready(frame) => state.held = Some(frame),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// The body that the SDK reads: pending while the gate is closed.
struct SdkSide(GatedBody);

impl Body for SdkSide {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let state = &mut *self.0.state();
        if !state.is_open {
            // No waker is needed: the caller that opens the gate polls again.
            return Poll::Pending;
        }
        loop {
            let frame = match state.held.take() {
                Some(frame) => frame,
                None => match state.poll_connection(context) {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => return Poll::Pending,
                },
            };
            let for_sdk = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match state.messages.push(&data) {
                        Ok(for_sdk) => for_sdk,
                        Err(too_long) => return Poll::Ready(Some(Err(too_long.into()))),
                    },
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                // The end, or an error.
                over => {
                    let rest = state.messages.rest();
                    if rest.is_empty() {
                        return Poll::Ready(over);
                    }
                    state.held = Some(over);
                    rest
                }
            };
            if !for_sdk.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(for_sdk.into()))));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Intercept for GatedBody {
    fn name(&self) -> &'static str {
        "GatedBody"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        if !response.status().is_success() {
            // The body of a refusal is no event stream.
            return Ok(());
        }
        self.state().body = response.take_body();
        *response.body_mut() = SdkBody::from_body_1_x(SdkSide(self.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::Message;

    use super::*;

    /// Yields these frames, then stays pending.
    struct Frames(VecDeque<Vec<u8>>);

    /// A message that is no event.
    fn message(text: &'static str) -> Vec<u8> {
        let message = Message::new(Bytes::from_static(text.as_bytes()));
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).unwrap();
        bytes
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<PolledFrame> {
            match self.0.pop_front() {
                Some(frame) => Poll::Ready(Some(Ok(Frame::data(Bytes::from(frame))))),
                None => Poll::Pending,
            }
        }
    }

    /// The frame that the SDK may read now; `None` while it has to wait.
    fn read(body: &GatedBody) -> Option<Vec<u8>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut SdkSide(body.clone())).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => Some(frame.into_data().unwrap().to_vec()),
            _ => None,
        }
    }

    fn has_frame(body: &GatedBody) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(&mut std::pin::pin!(body.wait_for_frame())).as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn closed_gate_holds_one_frame_and_keeps_the_order() {
        let body = GatedBody::default();
        body.state().body = SdkBody::from_body_1_x(Frames(["a", "b", "c"].map(message).into()));
        assert_eq!(read(&body), Some(message("a")));
        body.set_open(false);
        assert_eq!(read(&body), None);
        // A second wait reads no further frame from the connection.
        assert!(has_frame(&body) && has_frame(&body));
        assert_eq!(read(&body), None);
        body.set_open(true);
        assert_eq!(read(&body), Some(message("b")));
        assert_eq!(read(&body), Some(message("c")));
        body.set_open(false);
        assert!(!has_frame(&body));
    }

    #[test]
    fn message_that_is_too_long_ends_the_body_with_an_error() {
        let body = GatedBody::default();
        body.state().body = SdkBody::from_body_1_x(Frames([vec![0xff; 5]].into()));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let polled = Pin::new(&mut SdkSide(body)).poll_frame(&mut context);
        assert!(matches!(polled, Poll::Ready(Some(Err(_)))));
    }
}
