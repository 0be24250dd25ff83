"""`python-docs`: real prose from what is installed, read without importing it."""

import ast
import subprocess
import sys
import warnings

import pytest

from data_prep import python_docs
from data_prep.docstrings import prose
from data_prep.documents import Document, Dropped
from data_prep.sources import expand, read, units

NUMPY_STYLE = """Return the mean of the values.

    The average is taken over the flattened
    array by default, see `numpy.mean` and :func:`~numpy.median`.

    Parameters
    ----------
    axis : int, optional
        Axis along which the means
        are computed.
    dtype : data-type
        Type to use in computing the mean.

    Returns
    -------
    m : ndarray
        A new array with **the** means.

    See [1]_ for the theory::

        x = mean(a)
        print(x)

    .. math:: x = y
        z = alpha beta gamma delta

    .. note::
        This note is worth reading.

    >>> mean([1, 2])
    1.5
    still output of the doctest

    ===== =====
    name  value of it here
    ===== =====

    - the first item of a list
      goes on here
    - the second item of it
    """


def test_prose_of_a_numpy_docstring():
    assert prose(NUMPY_STYLE).split("\n") == [
        "Return the mean of the values.",
        "The average is taken over the flattened array by default, see numpy.mean and numpy.median.",
        "Axis along which the means are computed.",
        "Type to use in computing the mean.",
        "A new array with the means.",
        "See for the theory:",
        "This note is worth reading.",
        "the first item of a list goes on here",
        "the second item of it",
    ]


def test_headings_and_dedents():
    docstring = (
        "A Heading of Several Words\n======================\nText under it.\n  Deeper text of its own\nand back again."
    )
    assert prose(docstring).split("\n") == ["Text under it. Deeper text of its own", "and back again."]


def test_prose_of_a_google_docstring():
    docstring = """Opens the file.

    ```python
    this code is not prose at all
    ```
    Args:
      path: Where the file
        lies on the disk.
      mode (str): How the file is opened.

    Returns:
      The file that was opened.
    """
    assert prose(docstring).split("\n") == [
        "Opens the file.",
        "path: Where the file lies on the disk.",
        "mode (str): How the file is opened.",
        "The file that was opened.",
    ]


@pytest.mark.parametrize(
    "docstring", ["", ">>> 1 + 1\n2", "x = f(a, b, c)\ny = g(a)", "+---+---+\n| a | b |\n+---+---+", "Two words"]
)
def test_no_prose(docstring):
    assert prose(docstring) == ""


def test_documents_of_a_module():
    long = "This is a sentence of the documentation. " * 12
    source = f'''
"""The module does something."""
class A:
    """{long}"""
    def short(self):
        """Says something short here."""
        def inner():
            """Deeper down is text too."""
if True:
    def f():
        """{long}Ends."""
try:
    pass
except ValueError:
    async def g():
        """One more short docstring."""
add_newdoc("pkg", "name", ("method", """
    {long}
    Written in C."""))
x = """no docstring, only a string"""
'''
    found = list(python_docs.documents("m.py", ast.parse(source)))
    assert [(d.id, d.text[-13:]) for d in found] == [
        ("m.py:A", "ocumentation."),
        ("m.py:f", "tation. Ends."),
        ("m.py:pkg.name", "Written in C."),
        ("m.py", found[-1].text[-13:]),
    ]
    assert found[-1].text == "\n".join(
        [
            "The module does something.",
            "Says something short here.",
            "Deeper down is text too.",
            "One more short docstring.",
        ]
    )


def test_inline_markup():
    text = "Use ``a b``, `c`, and `d' of :class:`~x.Y` or `the site <http://z>`_, **bold** and *light* as 2 * 3 * 4."
    assert prose(text) == "Use a b, c, and d of x.Y or the site, bold and light as 2 * 3 * 4."


def test_broken_modules_are_dropped_and_warnings_are_silent(tmp_path):
    (tmp_path / "a.py").write_text("def broken(:\n")
    (tmp_path / "b.py").write_text('"""An invalid escape \\d is silent here."""\n')
    (tmp_path / "c.py").write_bytes(b'"""NUL \x00 in a module is an error."""\n')
    (tmp_path / "d.py").write_bytes(b'# -*- coding: latin-1 -*-\n"""A caf\xe9 of another coding."""\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "e.py").write_text('"""Tests are not read at all."""\n')
    (tmp_path / "f_test.py").write_text('"""Tests are not read at all."""\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(python_docs.read("dist", tmp_path, 0, 99))
    assert found == [
        Dropped("dist/a.py", "syntax"),
        Document("dist/b.py", "An invalid escape \\d is silent here."),
        Dropped("dist/c.py", "syntax"),
        Document("dist/d.py", "A café of another coding."),
    ]


def test_sources_and_units():
    found = expand(["python-docs"])
    names = [source.name for source in found]
    assert len(set(names)) == len(names) and names[0].startswith("python-docs/python-3.")
    assert any(name.startswith("python-docs/numpy-") for name in names)
    numpy = next(source for source in found if source.name.startswith("python-docs/numpy-"))
    cut = units(numpy, 1 << 20)
    assert [unit.start for unit in cut[1:]] == [unit.end for unit in cut[:-1]] and cut[-1].end == len(numpy.files)
    assert all(numpy.path not in str(unit.describe()) for unit in cut)
    small = next(source for source in found if source.name.startswith("python-docs/absl-"))
    whole = [item for unit in units(small, 1 << 30) for item in read(unit)]
    assert whole == [item for unit in units(small, 1 << 14) for item in read(unit)] and len(whole) > 20
    assert all(isinstance(item, Document) and item.text for item in whole)


def test_there_is_enough_text_with_several_sentences():
    # A sample of the distributions stands for all: reading everything takes a while.
    found = [s for s in expand(["python-docs"]) if s.name.split("/")[1].split("-")[0] in ("optax", "absl", "numpy")]
    texts = [d.text for s in found for u in units(s, 1 << 24) for d in read(u) if isinstance(d, Document)]
    assert sum(map(len, texts)) > 1_000_000
    several = sum(len(text) for text in texts if text.count(". ") + text.count(".\n") >= 3)
    assert several > 0.8 * sum(map(len, texts))
    assert not any(">>>" in text or "-----" in text for text in texts)


def test_topics_of_the_language_reference():
    source = expand(["python-docs"])[0]
    place = [name for name, _ in source.files].index("pydoc_data/topics.py")
    found = list(python_docs.read(source.name, python_docs.Path(source.path), place, place + 1))
    assert len(found) > 50 and sum(len(d.text) for d in found) > 300_000
    assert any(d.id.endswith("topics.py:comparisons") for d in found)


def test_nothing_is_imported():
    code = (
        "import sys; from data_prep.sources import expand, units, read\n"
        "s = [s for s in expand(['python-docs']) if '/optax-' in s.name][0]\n"
        "assert list(read(units(s, 1 << 30)[0]))\n"
        "print([m for m in ('jax', 'optax', 'scipy', 'tensorflow_datasets', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"
