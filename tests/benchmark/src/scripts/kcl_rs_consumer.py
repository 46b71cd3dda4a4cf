"""kcl-rs as in its documentation: counts records, and prints a line when all have arrived.

Arguments: Kinesis URL, DynamoDB URL, application, records.
"""

import sys
import threading

from kcl_rs import RecordProcessorBase, Scheduler

kinesis, dynamodb, application, expected = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
lock = threading.Lock()
total = 0


class Counting(RecordProcessorBase):
    def initialize(self, initialize_input):
        pass

    def process_records(self, process_records_input):
        global total
        count = len(process_records_input.records)
        process_records_input.checkpointer.checkpoint()
        with lock:
            total += count
            is_done = count > 0 and total >= expected > 0
        if is_done:
            print("done", total, flush=True)

    def lease_lost(self, lease_lost_input):
        print("lease lost", file=sys.stderr)

    def shard_ended(self, shard_ended_input):
        shard_ended_input.checkpointer.checkpoint()

    def shutdown_requested(self, shutdown_requested_input):
        pass


Scheduler(
    stream_name="words",
    application_name=application,
    record_processor_factory=Counting,
    region="us-east-1",
    access_key_id="key",
    secret_access_key="secret",
    initial_position="TRIM_HORIZON",
    retrieval_mode="POLLING",
).run()
