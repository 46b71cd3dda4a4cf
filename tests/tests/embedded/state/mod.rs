//! Processor state in fleets: every record is in the totals once, whatever was interrupted.

mod cut_short;
mod damage;
mod kills;
mod objects;
mod scene;
mod table_lives;
mod two_checkpoints;
