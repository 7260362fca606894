"""``python -m supervisor``. Exit status: 0 all was well, 1 something was not, 2 wrong usage."""

from __future__ import annotations

import argparse
import sys

from supervisor.tree import add_command


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m supervisor", description="Actors and supervision on processes."
    )
    add_command(parser.add_subparsers(required=True, metavar="COMMAND"))
    options = parser.parse_args()
    try:
        return int(options.run(options))
    except BrokenPipeError:  # of a pipe into head(1), say
        sys.stderr.close()
        return 1
    except OSError as error:
        sys.stderr.write(f"supervisor: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
