"""How many examples a property test draws: more in `make test-long`."""

import os

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
USUAL, TIMES = 100, 20


def examples(usual: int = USUAL) -> int:
    """Examples of a test that draws `usual` ones in `make test`."""
    return usual * TIMES if LONG else usual
