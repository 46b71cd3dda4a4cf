"""Aggregates records with aws_kinesis_agg, as an application in Python does. `tests/tests/interop_aggregates.rs` runs it.

Standard input: JSON lines {"key": partition key, "hash": explicit hash key or null, "data": text}.
Argument: the number of records of an aggregate.
Standard output: JSON lines {"key": ..., "hash": ... or null, "data": hexadecimal}.
"""

import json
import sys

from aws_kinesis_agg.aggregator import RecordAggregator


def flush(aggregate):
    if aggregate is not None:
        key, hash_key, data = aggregate.get_contents()
        print(json.dumps({"key": key, "hash": hash_key or None, "data": data.hex()}))


def main():
    per_aggregate = int(sys.argv[1])
    aggregator = RecordAggregator()
    for line in sys.stdin:
        record = json.loads(line)
        flush(aggregator.add_user_record(record["key"], record["data"], record["hash"]))
        if aggregator.get_num_user_records() == per_aggregate:
            flush(aggregator.clear_and_get())
    flush(aggregator.clear_and_get())


main()
