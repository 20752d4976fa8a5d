"""torchrun that ends as the first of its ranks that failed: with its exit code, or by its signal.

torchrun itself ends with 1 and a page about itself, whatever a rank said and however it left. Run as a file, for
``python -I``: nothing of this package can be imported then.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run torchrun on this command line and leave the process."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as run

    try:
        run()
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code < 0:
            os.kill(os.getpid(), -code)
        sys.exit(code)


if __name__ == "__main__":
    main()
