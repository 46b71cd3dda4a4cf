// Aggregates records with aws-kinesis-agg, as an application with Node.js does. `tests/tests/interop_aggregates.rs` runs it.
//
// Standard input: JSON lines {"key": partition key, "hash": explicit hash key or null, "data": text}.
// Argument: the number of records of an aggregate.
// Standard output: JSON lines {"key": ..., "hash": ... or null, "data": hexadecimal}.
'use strict';
const readline = require('readline');
const { RecordAggregator } = require('aws-kinesis-agg');

const perAggregate = Number(process.argv[2]);
const aggregator = new RecordAggregator();

function flush() {
  if (aggregator.length() === 0) return;
  const { partitionKey, ExplicitHashKey, data } = aggregator.build();
  const line = { key: partitionKey, hash: ExplicitHashKey === undefined ? null : ExplicitHashKey, data: data.toString('hex') };
  process.stdout.write(JSON.stringify(line) + '\n');
}

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const { key, hash, data } = JSON.parse(line);
  const record = { partitionKey: key, data: Buffer.from(data) };
  if (hash !== null) record.explicitHashKey = hash;
  aggregator.addUserRecord(record);
  if (aggregator.length() === perAggregate) flush();
});
lines.on('close', flush);
