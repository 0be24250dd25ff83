"""A tiny tokenizer, input files and corpora for tests that need real ones."""

import json
import string
import subprocess
import sys
from pathlib import Path

WORDS = ["the", "house", "river", "stone", "bird", "walk", "##ed", "##s", "##ing", "old", "green", "and", "over"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_tokenizer(directory: Path) -> Path:
    """A WordPiece tokenizer of some words and all ASCII characters."""
    characters = string.ascii_letters + string.digits + string.punctuation
    directory.mkdir(parents=True, exist_ok=True)
    pieces = [*SPECIALS, *WORDS, *characters, *(f"##{c}" for c in characters)]
    (directory / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n")
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return directory


def write_jsonl(path: Path, texts: list[str], ids: list[str] | None = None) -> Path:
    names = ids or [f"d{i}" for i in range(len(texts))]
    lines = [json.dumps({"id": name, "text": text}) for name, text in zip(names, texts, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def many_texts(count: int, seed: int = 0) -> list[str]:
    """Documents of one to six sentences in two paragraphs, every one different."""
    plain = [word for word in WORDS if not word.startswith("#")]
    texts = []
    for i in range(count):
        state = (i + 1) * 2654435761 + seed
        sentences = []
        for j in range(1 + state % 6):
            picks = [plain[(state >> (3 * k + j)) % len(plain)] for k in range(3 + (state >> j) % 9)]
            sentences.append(f"The {' '.join(picks)} {i}.")
        half = len(sentences) // 2
        texts.append("\n".join(filter(None, [" ".join(sentences[:half]), " ".join(sentences[half:])])))
    return texts


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory and its bytes."""
    return {
        file.relative_to(directory).as_posix(): file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def start_script(path: Path, body: str, *arguments: object) -> subprocess.Popen:
    """A Python script of its own that can import the project, also in the processes that it spawns."""
    root = Path(__file__).resolve().parents[1]
    path.write_text(f"import sys\nsys.path.insert(0, {str(root)!r})\n{body}")
    command = [sys.executable, str(path), *map(str, arguments)]
    # A process group of its own, as a terminal gives it: a test may interrupt all of it.
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
