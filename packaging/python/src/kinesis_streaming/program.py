"""Finds the program of this package, and becomes it."""

import os
import stat
import sys
from pathlib import Path

# The program is beside this file and not in the folder of scripts, so it is found in each kind of environment.
PROGRAM = Path(__file__).resolve().parent / "bin" / "kinesis-streaming"

EXECUTABLE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class ProgramError(Exception):
    """The program cannot be started; the text names the remedy."""


def find():
    """The path of the program as text."""
    if not PROGRAM.is_file():
        raise ProgramError(
            f"{PROGRAM} is missing; the package was installed without its program. "
            "Install the wheel for this platform: pip install --force-reinstall --only-binary :all: kinesis-streaming"
        )
    if not os.access(PROGRAM, os.X_OK):
        # Some tools unpack wheels without the permissions of their files.
        try:
            PROGRAM.chmod(PROGRAM.stat().st_mode | EXECUTABLE)
        except OSError as error:
            raise ProgramError(f"{PROGRAM} is not executable ({error}); run: chmod +x '{PROGRAM}'") from error
    return str(PROGRAM)


def run(arguments, environment=None):
    """Replaces this process with the program: signals reach it directly, and its exit code is that of this process."""
    try:
        program = find()
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(program, [program, *arguments], dict(os.environ if environment is None else environment))
    except ProgramError as error:
        sys.exit(f"kinesis-streaming: {error}")
    except OSError as error:
        sys.exit(f"kinesis-streaming: {PROGRAM} cannot be started: {error}; is the wheel for this platform?")
