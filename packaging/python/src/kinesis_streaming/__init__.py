"""The program kinesis-streaming, and what starts it."""
