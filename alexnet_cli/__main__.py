"""`alexnet` and `python -m alexnet_cli`."""

import os
import sys

from alexnet_cli import cli


def main() -> None:
    try:
        cli.main()
    except SystemExit as ended:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and (ended.code is None or isinstance(ended.code, int)):
            # All is written. Left to itself a process of several is at times brought down by torch's threads.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code or 0)
        raise


if __name__ == "__main__":
    main()
