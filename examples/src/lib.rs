//! Code that the examples share: reading and packing text, counting words, logging deliveries.

pub mod delivery_log;
pub mod journal;
pub mod log_output;
pub mod packer;
pub mod text_input;
pub mod word_totals;

pub use delivery_log::{DeliveryLog, DeliveryTotals};
pub use journal::{Journal, JournalLine};
pub use log_output::log_to_stderr;
pub use packer::{PackedRecord, Packer};
pub use text_input::TextInput;
pub use word_totals::WordTotals;
