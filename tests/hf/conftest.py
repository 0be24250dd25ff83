"""Here programs are compiled as users' are: that they are as exact as PyTorch's is what is tested."""

import os

from compiling import QUICK

from bert_jax import cpu_settings

# Without QUICK what is left may be blank, and a blank alone would name a file.
os.environ["XLA_FLAGS"] = cpu_settings.with_fusion(os.environ["XLA_FLAGS"].replace(QUICK, "").strip())
