//! How a fleet comes to balance and to rest: properties of the planner, and the table in the documentation.

mod fleet;
mod table;
