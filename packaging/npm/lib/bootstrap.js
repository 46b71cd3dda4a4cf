// `kinesis-streaming-kcl`: starts an application of `aws-kcl` on the daemon, with the options of `kcl-bootstrap`.
'use strict';

const path = require('path');
const { parseArgs } = require('util');
const program = require('./program');

const OPTIONS = {
  properties: { type: 'string', short: 'p' },
  'log-configuration': { type: 'string', short: 'l' },
  execute: { type: 'boolean', short: 'e' },
  // Accepted and ignored: there is no Java and no jar.
  java: { type: 'string', short: 'j' },
  'jar-path': { type: 'string', short: 'c' },
  help: { type: 'boolean', short: 'h' },
};

const USAGE = `Usage: kinesis-streaming-kcl -p FILE [-l FILE] [-e] [-- OPTIONS]

Starts an unmodified application of aws-kcl on kinesis-streaming, without a JVM.

  -p, --properties FILE         the properties file
  -l, --log-configuration FILE  a logback file, of which the level of the root logger is used
  -e, --execute                 run the command; without it, it is printed
  -j, --java PATH               accepted and ignored: no Java is started
  -c, --jar-path PATH           accepted and ignored: there are no jars
  -- OPTIONS                    passed on to \`kinesis-streaming daemon\`, for example --check`;

/** The exit code for a command line that is not valid. */
const INVALID = 1;

/** The environment, with the programs of the packages that are installed beside this one first in PATH, as \`npm run\` does it. */
function environment() {
  const modules = path.resolve(__dirname, '..', '..');
  const folders = [path.join(modules, '.bin'), path.dirname(process.execPath), process.env.PATH];
  return { ...process.env, PATH: folders.filter(Boolean).join(path.delimiter) };
}

function main(args) {
  let options;
  let others;
  try {
    ({ values: options, positionals: others } = parseArgs({ args, options: OPTIONS, allowPositionals: true }));
  } catch (error) {
    return refuse(error.message);
  }
  if (options.help) {
    console.log(USAGE);
    return undefined;
  }
  if (!options.properties) {
    return refuse('no properties file; name it with --properties FILE');
  }
  const log = options['log-configuration'] ? ['--log-configuration', options['log-configuration']] : [];
  const command = ['daemon', '--properties-file', options.properties, ...log, ...others];
  if (options.execute) {
    return program.run(command, environment());
  }
  try {
    console.log([program.find(), ...command].map(quoted).join(' '));
  } catch (error) {
    return refuse(error.message);
  }
  return undefined;
}

function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function refuse(message) {
  console.error(`kinesis-streaming-kcl: ${message}`);
  process.exitCode = INVALID;
}

module.exports = { main };
