"""Places that are no local path: URLs of object stores (gs://, s3://, whatever fsspec knows), read and written whole.

An object store has no folders, no rename and no locks: an object appears when its upload ends, and objects are listed
by the beginning of their names. `file://` URLs go the same way on a local disk, for file systems without locks and for
tests.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from data_prep.errors import InputError
from data_prep.files import create_file, whole_file

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
# What a store answers one by one, it answers to as many at once.
_AT_ONCE = 32
_EXTRAS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}


def is_url(path: object) -> bool:
    """Whether a path names a place in a store and not on this machine."""
    return bool(_URL.match(str(path)))


class Folder:
    """Everything in a store whose name begins with a URL. May be pickled; safe for threads.

    Whatever the store refuses (no such bucket, no permission, no network) is an InputError with the URL in it.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.url}/{name}")

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.url,)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def partial(self) -> "Folder":
        """Where a build of this output works."""
        return Folder(self.url + ".partial")

    def sizes(self) -> dict[str, int]:
        """The names of all objects, relative to this folder, and their bytes: one listing, not from any cache."""
        with self._refusals():
            self._fs.invalidate_cache()
            found = self._fs.find(self._root, detail=True)
        prefix = self._root.rstrip("/") + "/"
        return {name[len(prefix) :]: entry["size"] for name, entry in found.items() if name.startswith(prefix)}

    def read(self, name: str) -> bytes | None:
        """An object's content; None when there is none."""
        with self._refusals():
            try:
                return self._fs.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Bytes [start, stop) of objects, for every (name, start, stop), asked for at once."""
        with self._refusals():
            names, starts, stops = zip(*((f"{self._root}/{name}", *span) for name, *span in ranges), strict=True)
            found = self._fs.cat_ranges(list(names), list(starts), list(stops), on_error="raise")
        for (name, start, stop), content in zip(ranges, found, strict=True):
            if len(content) != stop - start:
                raise InputError(f"{self.url}/{name}: the object is shorter than its index says; check the corpus")
        return found

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces an object."""
        with self._refusals():
            self._make_parent(name)
            path = f"{self._root}/{name}"
            if isinstance(self._fs, LocalFileSystem):
                # Where a store makes an object appear whole, a disk needs a rename.
                with whole_file(Path(path)) as scratch:
                    scratch.write_bytes(content)
            else:
                self._fs.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        """Makes an object unless it is there; whether this call made it. The store decides between two at once."""
        path = f"{self._root}/{name}"
        with self._refusals():
            self._make_parent(name)
            try:
                if isinstance(self._fs, LocalFileSystem):
                    return create_file(Path(path), content)
                self._fs.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
        return True

    def upload(self, files: Sequence[tuple[Path, str]]) -> None:
        """Puts local files there under the names given, in no order."""
        for _, name in files:
            self._make_parent(name)
        self._all(lambda item: self._fs.put_file(str(item[0]), f"{self._root}/{item[1]}"), files)

    def download(self, files: Sequence[tuple[str, Path]], verify: Callable[[str, Path], None] | None = None) -> None:
        """Gets objects as local files, each whole or not at all, and not when `verify` of name and file raises."""

        def get(item: tuple[str, Path]) -> None:
            name, target = item
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as scratch:
                self._fs.get_file(f"{self._root}/{name}", str(scratch))
                if verify is not None:
                    verify(name, scratch)

        self._all(get, files)

    def copy(self, files: Sequence[tuple[str, "Folder", str]]) -> None:
        """Copies objects to a name in another folder of the same store, on the store's side."""
        for _, folder, name in files:
            folder._make_parent(name)
        self._all(lambda item: self._fs.cp_file(f"{self._root}/{item[0]}", f"{item[1]._root}/{item[2]}"), files)

    def remove(self, names: Iterable[str] | None = None) -> None:
        """Removes these objects, by default all; those that are not there are no error."""
        with self._refusals():
            if names is None:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm(self._root, recursive=True)
                return
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(f"{self._root}/{name}")

    def open(self, name: str) -> BinaryIO:
        """An object as a stream that can seek."""
        with self._refusals():
            return self._fs.open(f"{self._root}/{name}", "rb")

    @cached_property
    def _place(self) -> tuple[Any, str]:
        with self._refusals():
            return fsspec.core.url_to_fs(self.url)

    @property
    def _fs(self) -> Any:
        return self._place[0]

    @property
    def _root(self) -> str:
        return self._place[1]

    def _make_parent(self, name: str) -> None:
        if isinstance(self._fs, LocalFileSystem):
            os.makedirs(os.path.dirname(f"{self._root}/{name}"), exist_ok=True)

    def _all(self, work: Callable[[Any], None], items: Sequence[Any]) -> None:
        with self._refusals(), ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(work, items):
                pass

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        scheme = self.url.partition(":")[0]
        try:
            yield
        except ImportError:
            package = _EXTRAS.get(scheme, f"the fsspec package for {scheme}://")
            raise InputError(f"{self.url}: this kind of store needs another package; pip install {package}") from None
        except FileNotFoundError:
            raise InputError(f"{self.url}: no such object; check the address") from None
        except FileExistsError:
            raise
        except InputError:
            raise
        except Exception as error:  # every store has its own errors, of no common kind
            detail = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise InputError(f"{self.url}: the store refused ({detail}); check the address and the access") from None


def split_url(url: str) -> tuple[Folder, str]:
    """A URL as the folder that it lies in and its name there."""
    parent, _, name = url.rpartition("/")
    return Folder(parent), name


class StoreFile:
    """An input file in a store, with as much of pathlib.Path as reading one takes; with its size, if it is known."""

    def __init__(self, url: str, size: int | None = None):
        self._url, self._size = url, size
        self._folder, self.name = split_url(url)

    def __str__(self) -> str:
        return self._url

    def __fspath__(self) -> str:
        return self._url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreFile) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(self._url)

    def absolute(self) -> "StoreFile":
        """Itself."""
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """Scheme, folders and name."""
        return tuple(self._url.split("/"))

    def open(self, mode: str = "rb") -> BinaryIO:
        """Its bytes, as a stream that can seek."""
        assert mode == "rb"
        return io.BufferedReader(self._folder.open(self.name))  # type: ignore[type-var,return-value]

    def spans(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes [start, stop) for each, asked for at once."""
        return self._folder.read_ranges([(self.name, *span) for span in spans])

    def size(self) -> int:
        """Bytes."""
        if self._size is None:
            with self._folder._refusals():
                self._size = int(self._folder._fs.size(f"{self._folder._root}/{self.name}"))
        return self._size


def matches(pattern: str) -> list[StoreFile]:
    """The objects that a glob in a URL names, sorted, with their sizes: one listing."""
    folder = Folder(pattern)
    with folder._refusals():
        found = folder._fs.glob(folder._root, detail=True)
    scheme = _URL.match(pattern)
    assert scheme is not None
    files = {
        scheme[0] + name.removeprefix(scheme[0]): entry["size"]
        for name, entry in found.items()
        if entry["type"] == "file"
    }
    return [StoreFile(url, size) for url, size in sorted(files.items())]


def input_path(text: str) -> Path:
    """An input file by its path or URL. A StoreFile has as much of a path as reading it takes."""
    return cast(Path, StoreFile(text)) if is_url(text) else Path(text)


def file_size(path: Path) -> int:
    """Bytes of an input file."""
    return path.size() if isinstance(path, StoreFile) else path.stat().st_size


def file_spans(path: Path, spans: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Bytes [start, stop) of an input file, for each. Raises InputError when it cannot be read."""
    if isinstance(path, StoreFile):
        yield from path.spans(spans)
        return
    try:
        with path.open("rb") as stream:
            for start, stop in spans:
                stream.seek(start)
                yield stream.read(stop - start)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def local_folder(folder: str | Path | Folder) -> Iterator[Path]:
    """A folder of this machine with the same files: itself, or for a URL a copy while the block lasts."""
    if not is_url(folder):
        yield Path(str(folder))
        return
    origin = Folder(str(folder))
    with tempfile.TemporaryDirectory(prefix="bert-jax-") as scratch:
        copy = Path(scratch) / (origin.name or "folder")
        copy.mkdir()
        origin.download([(name, copy / name) for name in origin.sizes()])
        yield copy
