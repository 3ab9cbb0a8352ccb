"""The front door: `python launch.py --help`."""

import sys

from experiments import cli

MAIN_JOB = ("shape_and_prove", "--mode=quick")


def main() -> int:
    """Runs the command line; returns the exit code."""
    return cli.leave(cli.front_door(sys.argv[1:], MAIN_JOB))


if __name__ == "__main__":
    sys.exit(main())
