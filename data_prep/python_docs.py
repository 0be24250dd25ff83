"""The input `python-docs`: the docstrings of the standard library and of the runtime dependencies, found where they
are installed.

Nothing is imported or downloaded: modules are read as text and parsed. The text differs as little between two
machines as their Python and package versions do.
"""

import ast
import gc
import importlib.util
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

from data_prep.docstrings import prose
from data_prep.documents import Document, Dropped, clean

# Import name and distribution of the runtime dependencies (direct ones and theirs) that carry documentation.
DISTRIBUTIONS = (
    ("absl", "absl-py"),
    ("aiofiles", "aiofiles"),
    ("anyio", "anyio"),
    ("array_record", "array-record"),
    ("attr", "attrs"),
    ("click", "click"),
    ("cloudpickle", "cloudpickle"),
    ("docstring_parser", "docstring_parser"),
    ("etils", "etils"),
    ("filelock", "filelock"),
    ("flax", "flax"),
    ("fsspec", "fsspec"),
    ("grain", "grain"),
    ("huggingface_hub", "huggingface_hub"),
    ("humanize", "humanize"),
    ("jax", "jax"),
    ("jaxlib", "jaxlib"),
    ("jaxtyping", "jaxtyping"),
    ("matplotlib", "matplotlib"),
    ("ml_collections", "ml_collections"),
    ("mpl_toolkits", "matplotlib"),
    ("numpy", "numpy"),
    ("opt_einsum", "opt_einsum"),
    ("optax", "optax"),
    ("orbax", "orbax-checkpoint"),
    ("packaging", "packaging"),
    ("prometheus_client", "prometheus-client"),
    ("promise", "promise"),
    ("psutil", "psutil"),
    ("pyarrow", "pyarrow"),
    ("requests", "requests"),
    ("rich", "rich"),
    ("safetensors", "safetensors"),
    ("scipy", "scipy"),
    ("simple_parsing", "simple-parsing"),
    ("simplejson", "simplejson"),
    ("tensorboardX", "tensorboardX"),
    ("tensorflow_datasets", "tensorflow-datasets"),
    ("tensorstore", "tensorstore"),
    ("tqdm", "tqdm"),
    ("tree", "dm-tree"),
    ("treescope", "treescope"),
    ("urllib3", "urllib3"),
    ("wrapt", "wrapt"),
)
# Folders without prose: tests, third-party copies, and what another distribution put into the standard library's
# folder.
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "_vendor", "vendored", "_bundled", "__pycache__"}
)
# A docstring with less text than this joins its module's document: a document should hold several sentences.
OWN_DOCUMENT = 400


@dataclass(frozen=True)
class Distribution:
    """An installed package: its modules lie under `root`."""

    name: str  # with its version
    root: Path

    @cached_property
    def files(self) -> list[tuple[str, int]]:
        """Modules that hold anything but tests, relative to root, sorted, with their sizes in bytes."""
        return list(_modules(self.root))


def distributions() -> list[Distribution]:
    """The standard library and every installed distribution of the list, in its order."""
    found = [Distribution(f"python-{platform.python_version()}", Path(sysconfig.get_path("stdlib")))]
    for module, dist in DISTRIBUTIONS:
        try:
            spec = importlib.util.find_spec(module)  # of a top-level name: looks for the file, runs nothing
            version = metadata.version(dist)
        except (ImportError, ValueError):
            continue
        for root in spec.submodule_search_locations or () if spec else ():
            found.append(Distribution(f"{module}-{version}", Path(root)))
    return found


def read(name: str, root: Path, start: int, end: int) -> Iterator[Document | Dropped]:
    """Documents of modules [start, end) of a distribution; `Dropped("syntax")` for a module that does not parse."""
    for relative, _ in list(_modules(root))[start:end]:
        module_id = f"{name}/{relative}"
        try:
            tree = parse((root / relative).read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            yield Dropped(module_id, "syntax")
            continue
        yield from topics(module_id, tree) if relative == "pydoc_data/topics.py" else documents(module_id, tree)


def parse(source: bytes) -> ast.Module:
    """A module's syntax tree; silent about invalid escapes in other people's strings."""
    collecting = gc.isenabled()
    gc.disable()  # a tree is all new objects: looking for garbage among them costs a fifth of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    finally:
        if collecting:
            gc.enable()


def documents(module_id: str, tree: ast.Module) -> Iterator[Document]:
    """A module's documents: one for every docstring long enough, and one of the module's own with all the short ones.

    Each follows the order of the source, and so does the document of the short ones, which comes last.
    """
    short: list[str] = []
    for qualified_name, docstring in docstrings(tree):
        text = clean(prose(docstring))
        if len(text) >= OWN_DOCUMENT and qualified_name:
            yield Document(f"{module_id}:{qualified_name}", text)
        elif text:
            short.append(text)
    if short:
        yield Document(module_id, "\n".join(short))


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) in source order: "" for the module's; classes and functions at any depth.

    NumPy and SciPy document what is written in C through calls of `add_newdoc`; their strings count as docstrings.
    """
    docstring = ast.get_docstring(tree, clean=False)
    if docstring:
        yield "", docstring
    yield from _inner(tree.body, "")


def _inner(body: Sequence[ast.AST], prefix: str) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield prefix + node.name, docstring
            yield from _inner(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _new_docs(node.value)
        else:
            for block in ("body", "handlers", "orelse", "finalbody", "cases"):
                inner = getattr(node, block, None)
                if isinstance(inner, list):
                    yield from _inner(inner, prefix)


def _new_docs(call: ast.Call) -> Iterator[tuple[str, str]]:
    function = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if not function.startswith("add_newdoc"):
        return
    names = [str(arg.value) for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    texts = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    name = ".".join(name for name in names if "\n" not in name) or function
    yield from ((name, text) for text in texts if "\n" in text)


def topics(module_id: str, tree: ast.Module) -> Iterator[Document]:
    """The language reference's topics: a module that holds one dictionary of name to text."""
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)):
            continue
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                text = clean(prose(value.value))
                if text:
                    yield Document(f"{module_id}:{key.value!s}", text)


def _modules(root: Path) -> Iterator[tuple[str, int]]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in files:
            is_test = name.startswith("test_") or name.endswith("_test.py")
            if name.endswith(".py") and not is_test and (size := os.path.getsize(os.path.join(folder, name))):
                found.append((name if inside == "." else f"{inside}/{name}", size))
    yield from sorted(found)
