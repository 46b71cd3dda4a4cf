//! How a fleet becomes balanced and stays so: properties of the planner, and the table in `docs/balancing.md`.

mod fleet;
mod properties;
mod table;
