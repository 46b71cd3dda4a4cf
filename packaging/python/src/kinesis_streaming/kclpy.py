"""`kinesis-streaming-kclpy`: starts an application of `amazon_kclpy` on the daemon, with the options of `amazon_kclpy_helper.py`."""

import argparse
import importlib.util
import os
import shlex
import sys
import sysconfig
from pathlib import Path

from kinesis_streaming import program


def parser():
    parser = argparse.ArgumentParser(
        prog="kinesis-streaming-kclpy",
        description="Starts an unmodified application of amazon_kclpy on kinesis-streaming, without a JVM.",
        epilog="Other options are passed on to `kinesis-streaming daemon`, for example --check.",
        allow_abbrev=False,
    )
    parser.add_argument("-p", "--properties", "--props", "--prop", "--properties-file", metavar="FILE", help="the properties file")
    parser.add_argument(
        "--sample",
        "--sample-props",
        "--use-sample-properties",
        action="store_true",
        help="use the properties file of the samples of amazon_kclpy",
    )
    parser.add_argument("-l", "--log-configuration", metavar="FILE", help="a logback file, of which the level of the root logger is used")
    parser.add_argument("--print_command", action="store_true", help="print the command instead of running it")
    parser.add_argument("-j", "--java", metavar="PATH", help="accepted and ignored: no Java is started")
    parser.add_argument(
        "-c", "--classpath", "--path", action="append", metavar="PATH", help="accepted and ignored: there is no class path"
    )
    return parser


def sample_properties():
    """The properties file of the samples, which amazon_kclpy installs as a package of this name."""
    found = importlib.util.find_spec("samples")
    for folder in (found and found.submodule_search_locations) or []:
        path = Path(folder) / "sample.properties"
        if path.is_file():
            return str(path)
    return None


def environment():
    """The environment, with the scripts and the Python of this installation first in PATH: children find them as if the virtual
    environment were activated."""
    folders = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    path = os.environ.get("PATH", os.defpath)
    return {**os.environ, "PATH": os.pathsep.join([*dict.fromkeys(filter(None, folders)), path])}


def main():
    options, others = parser().parse_known_args()
    properties = options.properties
    if properties is None and options.sample:
        properties = sample_properties()
        if properties is None:
            sys.exit("kinesis-streaming-kclpy: amazon_kclpy has no sample here; install it, or name a file with --properties")
    if properties is None:
        sys.exit("kinesis-streaming-kclpy: no properties file; name it with --properties FILE")
    arguments = ["daemon", "--properties-file", properties]
    if options.log_configuration:
        arguments += ["--log-configuration", options.log_configuration]
    arguments += others
    if options.print_command:
        try:
            print(shlex.join([program.find(), *arguments]))
        except program.ProgramError as error:
            sys.exit(f"kinesis-streaming-kclpy: {error}")
    else:
        program.run(arguments, environment())


if __name__ == "__main__":
    main()
