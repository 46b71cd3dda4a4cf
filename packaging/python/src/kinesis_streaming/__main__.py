"""`kinesis-streaming`, also as `python -m kinesis_streaming`."""

import sys

from kinesis_streaming import program


def main():
    program.run(sys.argv[1:])


if __name__ == "__main__":
    main()
