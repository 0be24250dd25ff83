"""`bert-jax`, which is also `python -m bert_jax`."""

import os
import sys
from typing import NoReturn

from bert_jax import cpu_settings


def main() -> NoReturn:
    """Runs the command of this process's command line."""
    cpu_settings.take(cpu_settings.wanted(sys.argv[1:], os.environ))
    from bert_jax import cli

    cli.main()


if __name__ == "__main__":
    main()
