//! A switch that a test turns on to make a hook fail or hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that is off at first. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    /// Turns it on.
    pub fn turn_on(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Turns it off. A call that already hangs keeps hanging.
    pub fn turn_off(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Turns it on or off.
    pub fn set(&self, is_on: bool) {
        self.0.store(is_on, Ordering::Relaxed);
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Turns it off and returns whether it was on: for a fault that strikes once.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// Never returns when the switch is on, as a call without an answer.
    pub async fn hang_if_on(&self) {
        if self.is_on() {
            std::future::pending::<()>().await;
        }
    }
}
