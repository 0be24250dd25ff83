"""Here programs are compiled as users' are: that they are as exact as PyTorch's is what is tested."""

import os

from compiling import QUICK

from bert_jax import cpu_settings

flags = os.environ["XLA_FLAGS"].replace(QUICK, "").strip()  # a blank would name a file
os.environ["XLA_FLAGS"] = cpu_settings.wanted(["pretrain"], os.environ | {"XLA_FLAGS": flags}).get("XLA_FLAGS", flags)
