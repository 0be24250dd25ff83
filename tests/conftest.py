"""What every test shares: the CPU, checked shapes, and reproducible property tests."""

import os

from compiling import QUICK

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"

import hypothesis
import property_tests
import pytest
from jaxtyping import install_import_hook

# Shapes and dtypes in the signatures of public functions are enforced while tests run.
_WITH_SHAPES = ("finetune", "losses", "masking", "model", "optimizer", "random_bits", "train_state", "train_step")
install_import_hook([f"bert_jax.{name}" for name in _WITH_SHAPES], "beartype.beartype")

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "long", parent=hypothesis.settings.get_profile("default"), max_examples=property_tests.examples()
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def full_recipe(tmp_path_factory):
    """The recipe of everything at once (`training_runs.FULL_RECIPE`), with its corpora."""
    import training_runs

    return training_runs.make_full_recipe(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="session")
def full_run(full_recipe):
    """The uninterrupted run of that recipe, and what it said."""
    import training_runs

    workdir = full_recipe.parent / "whole"
    code, said = training_runs.train(full_recipe, workdir, JAX_LOG_COMPILES="1")
    assert code == 0, said
    return workdir, said


def pytest_configure(config):
    config.addinivalue_line("markers", "long: runs where HYPOTHESIS_PROFILE=long, as in make test-long")


def pytest_collection_modifyitems(items):
    if not property_tests.LONG:
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="make test-long"))
