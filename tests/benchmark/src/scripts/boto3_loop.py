"""The usual loop over boto3: one thread per shard, five reads per second.

Arguments: Kinesis URL, shards, records of each shard.
"""

import sys
import threading
import time

import boto3
from botocore.config import Config

url, shards, expected = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = boto3.client(
    "kinesis",
    endpoint_url=url,
    region_name="us-east-1",
    aws_access_key_id="key",
    aws_secret_access_key="secret",
    config=Config(max_pool_connections=shards),
)
total = [0] * shards


def read(shard):
    iterator = client.get_shard_iterator(
        StreamName="words", ShardId=f"shardId-{shard:012}", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    while total[shard] < expected:
        due = time.monotonic() + 0.2
        answer = client.get_records(ShardIterator=iterator)
        total[shard] += len(answer["Records"])
        iterator = answer["NextShardIterator"]
        time.sleep(max(0, due - time.monotonic()))


threads = [threading.Thread(target=read, args=(shard,)) for shard in range(shards)]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done", sum(total), flush=True)
sys.stdin.readline()
