//! Fleets in this process, over the in-memory stream and lease store, in virtual time: one program with a module for each
//! subject. `embedded_heap` is a program of its own, since its allocator counts every allocation in the process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod acknowledgement;
mod aggregates;
mod border;
mod changing_streams;
mod clones;
mod cost;
mod cut_off;
mod delivery;
mod documentation;
mod fleet;
mod hand_over;
mod kcl_mode;
mod lag;
mod latest;
mod list_races;
mod memory;
mod mixed_fleet;
mod operations;
mod polling;
mod positions;
mod rewound;
mod slow_calls;
mod start;
mod state;
mod status;
mod storage_buffer;
mod store;
mod streams;
mod table;
mod watchdog;
