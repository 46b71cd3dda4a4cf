//! A gate in the body of a subscription: what comes is noticed before it is let through.
//!
//! The SDK takes an event from its connection as soon as it is asked for one, and there is no other way to learn that one has
//! come. So the body that it reads stands behind a gate. While that is closed, one frame at the most is taken from the
//! connection (16 KB over HTTP/2, unless the client is told otherwise); the rest stays there until memory for it is set aside
//! and the gate is opened.

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

/// What a body gives: a frame, an error, or its end.
type Given = Option<Result<Frame<Bytes>, BoxError>>;

/// The gate of one subscription. Clones are the same gate. It is open at first, since accepting a subscription has a message
/// of its own.
#[derive(Clone)]
pub(super) struct Gate(Arc<Mutex<Behind>>);

struct Behind {
    body: SdkBody,
    /// What came while the gate was closed.
    held: Option<Given>,
    is_open: bool,
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let behind = self.behind();
        formatter
            .debug_struct("Gate")
            .field("is_open", &behind.is_open)
            .field("has_come", &behind.held.is_some())
            .finish_non_exhaustive()
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Behind { body: SdkBody::empty(), held: None, is_open: true })))
    }
}

impl Gate {
    fn behind(&self) -> MutexGuard<'_, Behind> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens it, or closes it.
    pub(super) fn set_open(&self, is_open: bool) {
        self.behind().is_open = is_open;
    }

    /// Waits until something has come, be it an error or the end, and leaves it where it is. Safe to cancel.
    pub(super) async fn has_come(&self) {
        poll_fn(|context| {
            let behind = &mut *self.behind();
            if behind.held.is_none() {
                match Pin::new(&mut behind.body).poll_frame(context) {
                    Poll::Ready(given) => behind.held = Some(given),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// What the SDK reads instead of the body.
struct GatedBody(Gate);

impl Body for GatedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let behind = &mut *self.0.behind();
        if !behind.is_open {
            // Whoever opens it asks again.
            return Poll::Pending;
        }
        match behind.held.take() {
            Some(given) => Poll::Ready(given),
            None => Pin::new(&mut behind.body).poll_frame(context),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Intercept for Gate {
    fn name(&self) -> &'static str {
        "SubscriptionGate"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        self.behind().body = response.take_body();
        *response.body_mut() = SdkBody::from_body_1_x(GatedBody(self.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Gives these pieces, and then nothing more for ever.
    struct Pieces(VecDeque<&'static str>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Given> {
            match self.0.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))),
                None => Poll::Pending,
            }
        }
    }

    /// What the SDK would get now; `None`: it has to wait.
    fn read(gate: &Gate) -> Option<String> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut GatedBody(gate.clone())).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => {
                Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
            }
            _ => None,
        }
    }

    fn has_come(gate: &Gate) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(&mut std::pin::pin!(gate.has_come())).as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn a_closed_gate_holds_one_piece_and_keeps_the_order() {
        let gate = Gate::default();
        gate.behind().body = SdkBody::from_body_1_x(Pieces(VecDeque::from(["a", "b", "c"])));
        assert_eq!(read(&gate).as_deref(), Some("a"));
        gate.set_open(false);
        assert_eq!(read(&gate), None);
        // Looking twice takes nothing more from the connection.
        assert!(has_come(&gate) && has_come(&gate));
        assert_eq!(read(&gate), None);
        gate.set_open(true);
        assert_eq!(read(&gate).as_deref(), Some("b"));
        assert_eq!(read(&gate).as_deref(), Some("c"));
        gate.set_open(false);
        assert!(!has_come(&gate));
    }
}
