"""jax's persistent compile cache, kept in the run directory, so that a restart compiles nothing.

jax does not write its entries at one stroke and never replaces one, so an entry that a kill cut short would be read in
vain at every start from then on. Entries are therefore under checksums, and what has none is removed.
"""

import os
from pathlib import Path

import jax

from bert_jax import checksums


class CompileCache:
    """The cache of a run, or the one that JAX_COMPILATION_CACHE_DIR names, which is left to its owner.

    Args:
      folder: `RUN/compile_cache`.
    """

    def __init__(self, folder: Path):
        self._folder = folder.absolute()
        self._ours = "JAX_COMPILATION_CACHE_DIR" not in os.environ
        if self._ours:
            jax.config.update("jax_compilation_cache_dir", str(self._folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    def sweep(self) -> None:
        """Removes entries that are not known to be whole. Called by one process, before anything compiles."""
        if not self._ours or not self._folder.is_dir():
            return
        whole = checksums.sound(self._folder)
        for path in self._folder.iterdir():
            if path.is_file() and path.name not in (checksums.FILE, *whole):
                path.unlink()

    def seal(self) -> None:
        """Takes the entries that are there for whole. Called by one process, after something has compiled."""
        if self._ours and self._folder.is_dir():
            checksums.write(self._folder)
