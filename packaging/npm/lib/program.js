// Finds the program of the package for this platform, and becomes it, or runs it and passes signals on.
'use strict';

const fs = require('fs');
const os = require('os');
const { spawn } = require('child_process');

/** Signals that end a process in order, and that this process must not end by before the program has. */
const PASSED_ON = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'];

/** The exit code for a program that cannot be started. */
const NOT_STARTED = 1;

class ProgramError extends Error {}

/** The packages that can hold the program here, the best first. */
function packages(platform = process.platform, arch = process.arch, glibc = glibcVersion) {
  const base = `@kinesis-streaming/${platform}-${arch}`;
  if (platform !== 'linux') {
    return [base];
  }
  const libraries = glibc() ? ['gnu', 'musl'] : ['musl', 'gnu'];
  return libraries.map((library) => `${base}-${library}`);
}

function glibcVersion() {
  // Without this the report looks up the names of all open connections.
  process.report.excludeNetwork = true;
  return process.report.getReport().header.glibcVersionRuntime;
}

/** The path of the program. */
function find() {
  const names = packages();
  for (const name of names) {
    let path;
    try {
      path = require.resolve(`${name}/bin/kinesis-streaming`);
    } catch {
      continue;
    }
    return executable(path);
  }
  throw new ProgramError(
    `no program for ${process.platform}-${process.arch}: the optional dependency ${names[0]} is not installed. ` +
      'Install without --omit=optional. If package-lock.json was written on another platform, or node_modules was copied ' +
      'from one, delete both and run npm install again.',
  );
}

/** Some tools unpack packages without the permissions of their files. */
function executable(path) {
  try {
    fs.accessSync(path, fs.constants.X_OK);
  } catch {
    try {
      fs.chmodSync(path, 0o755);
    } catch (error) {
      throw new ProgramError(`${path} is not executable (${error.message}); run: chmod +x '${path}'`);
    }
  }
  return path;
}

/** Becomes the program where Node.js can do that; otherwise runs it and ends as it ends. */
function run(args, env = process.env) {
  let program;
  try {
    program = find();
  } catch (error) {
    if (!(error instanceof ProgramError)) {
      throw error;
    }
    console.error(`kinesis-streaming: ${error.message}`);
    process.exitCode = NOT_STARTED;
    return;
  }
  if (typeof process.execve === 'function' && !process.env.KINESIS_STREAMING_NO_EXEC) {
    process.execve(program, [program, ...args], env);
  }
  runAsChild(program, args, env);
}

function runAsChild(program, args, env) {
  // The handlers come first: a signal while the program starts must not end this process and leave the program behind.
  const started = { child: null, waiting: [] };
  const handlers = PASSED_ON.map((signal) => {
    const handler = () => (started.child ? started.child.kill(signal) : started.waiting.push(signal));
    process.on(signal, handler);
    return [signal, handler];
  });
  const child = spawn(program, args, { stdio: 'inherit', env });
  child.on('error', (error) => {
    console.error(`kinesis-streaming: ${program} cannot be started: ${error.message}; is the package for this platform?`);
    process.exit(NOT_STARTED);
  });
  child.on('spawn', () => {
    started.child = child;
    started.waiting.forEach((signal) => child.kill(signal));
  });
  child.on('exit', (code, signal) => {
    // Without its handlers this process ends by the same signal as the program did.
    handlers.forEach(([passed, handler]) => process.off(passed, handler));
    if (signal === null) {
      process.exit(code);
    }
    process.kill(process.pid, signal);
    // Still here: the signal is ignored.
    setTimeout(() => process.exit(128 + os.constants.signals[signal]), 100);
  });
}

module.exports = { ProgramError, find, packages, run };
