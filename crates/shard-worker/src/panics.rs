//! Panics of the application's code, which are errors like any other.

use std::any::Any;

use lease_store::BoxError;

/// An error that says who panicked, and with which message.
pub(crate) fn panic_error(who: &str, panic: &(dyn Any + Send)) -> BoxError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned());
    format!("{who} panicked: {message}").into()
}
