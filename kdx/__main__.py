"""The ``kdx`` command, also as ``python -m kdx``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line.

    Standard output and standard error may be closed, as in a service or under ``pythonw``. What is
    written there is dropped then; verdicts, files and the exit status are as with them.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Until the process ends; the first one also takes the place of the closed descriptor.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    try:
        from kdx.cli.app import run  # which takes a second, in which Ctrl-C must not be a traceback
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything began\n")
        sys.exit(130)  # as every command does, see kdx.cli.error_output
    run()


if __name__ == "__main__":
    main()
