"""`bert-jax`, which is also `python -m bert_jax`."""

import os
import sys
from typing import NoReturn

from bert_jax import huge_pages


def main() -> NoReturn:
    """Runs the command of this process's command line."""
    if huge_pages.wanted(sys.argv[1:], os.environ):
        huge_pages.start_again()
    from bert_jax import cli

    cli.main()


if __name__ == "__main__":
    main()
