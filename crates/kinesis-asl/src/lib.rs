//! kinesis-asl
