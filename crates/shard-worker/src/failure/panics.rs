//! Panics of the application's code as errors.

use std::any::Any;

use lease_store::BoxError;

/// An error with the name of the code that panicked, and the message of the panic.
pub(crate) fn panic_error(code: &str, panic: &(dyn Any + Send)) -> BoxError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned());
    format!("{code} panicked: {message}").into()
}
