"""Puts the program into the wheel, and tags the wheel with the platform of the program."""

import os

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROGRAM = "KINESIS_STREAMING_PROGRAM"
PLATFORM = "KINESIS_STREAMING_PLATFORM"


class ProgramHook(BuildHookInterface):
    def initialize(self, version, build_data):
        program, platform = os.environ.get(PROGRAM), os.environ.get(PLATFORM)
        if not program or not platform:
            raise RuntimeError(f"{PROGRAM} or {PLATFORM} is not set; build the wheel with `cargo xtask package`")
        build_data["pure_python"] = False
        # The program is no extension module, so any Python 3 can use it.
        build_data["tag"] = f"py3-none-{platform}"
        build_data["force_include"][program] = "kinesis_streaming/bin/kinesis-streaming"
