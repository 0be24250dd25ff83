"""What every test shares: the CPU, checked shapes, and reproducible property tests."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import hypothesis
from jaxtyping import install_import_hook

# Shapes and dtypes in the signatures of public functions are enforced while tests run.
_WITH_SHAPES = ("finetune", "losses", "masking", "model", "optimizer", "random_bits", "train_state", "train_step")
install_import_hook([f"bert_jax.{name}" for name in _WITH_SHAPES], "beartype.beartype")

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("long", parent=hypothesis.settings.get_profile("default"), max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
