"""Writes the curves of runs of one recipe with different seeds as a reference for `bert-jax compare`.

    python benchmarks/reference_curve.py seed0 seed1 seed2 --what "configs/quickstart.py on python-docs" \
        --output bert_jax/curves/quickstart.json
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bert_jax.compare import write_curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--what", required=True, help="a sentence about the runs")
    parser.add_argument("--output", required=True, type=Path)
    options = parser.parse_args()
    write_curves(options.runs, options.output, options.what)


if __name__ == "__main__":
    main()
