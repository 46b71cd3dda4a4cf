//! The parts of the tests of `kinesis-streaming daemon`: a scripted child with its journal, and a DynamoDB that fails on request.

pub mod dynamodb_front;
pub mod journal;
pub mod scene;
pub mod scripted_child;
