// A record processor on the package aws-kcl: it prints the number of each record to its standard error, checkpoints each batch, and
// logs to its standard output, as applications do.

const kcl = require('aws-kcl');

const checkpointed = (input, sequenceNumber, done) =>
  input.checkpointer.checkpoint(sequenceNumber, (error) => {
    if (error) console.error(`checkpoint refused: ${error}`);
    done();
  });

kcl({
  initialize: (input, done) => done(),
  processRecords: (input, done) => {
    if (!input || !input.records || input.records.length === 0) return done();
    console.log(`batch of ${input.records.length}`);
    for (const record of input.records) {
      const number = Buffer.from(record.data, 'base64').toString();
      process.stderr.write(`Record (Partition Key: ${number}, Sequence Number: ${record.sequenceNumber},\n`);
    }
    checkpointed(input, input.records[input.records.length - 1].sequenceNumber, done);
  },
  leaseLost: (input, done) => {
    process.stderr.write('Lease has been lost\n');
    done();
  },
  shardEnded: (input, done) => checkpointed(input, undefined, done),
  shutdownRequested: (input, done) => {
    process.stderr.write('Shutdown has been requested, checkpointing.\n');
    checkpointed(input, undefined, done);
  },
}).run();
