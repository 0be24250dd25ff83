"""Entries of the compile cache that a kill cut short do not stay, and whole ones do."""

import jax
import pytest

from bert_jax.compile_cache import CompileCache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path / "compile_cache"
    jax.config.update("jax_compilation_cache_dir", before)


def test_what_was_not_sealed_or_has_changed_is_removed(folder):
    cache = CompileCache(folder)
    cache.sweep()  # nothing there yet
    folder.mkdir()
    for name in ("a-cache", "b-cache"):
        (folder / name).write_bytes(name.encode() * 100)
    cache.seal()
    (folder / "b-cache").write_bytes(b"b-ca")
    (folder / "c-cache").write_bytes(b"written after the last seal, or half")
    CompileCache(folder).sweep()
    assert sorted(path.name for path in folder.iterdir()) == ["a-cache", "checksums.json"]


def test_without_seal_nothing_is_believed(folder):
    folder.mkdir()
    (folder / "a-cache").write_bytes(b"half")
    CompileCache(folder).sweep()
    assert list(folder.iterdir()) == []


def test_somebody_elses_cache_is_left_alone(folder, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    folder.mkdir()
    (folder / "a-cache").write_bytes(b"another program's")
    cache = CompileCache(folder)
    cache.sweep()
    cache.seal()
    assert [path.name for path in folder.iterdir()] == ["a-cache"]
