"""The commands' names, options and help."""

import argparse
import sys
from typing import Any, NoReturn

from data_prep.gates import GATES


class _Parser(argparse.ArgumentParser):
    """One-line errors, examples as they were typed."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message}; see {self.prog} --help\n")
        raise SystemExit(2)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` in what it gives is the command's name."""
    parser = _Parser(
        prog="bert-jax",
        description="Pretrain BERT-style encoders in JAX: build a corpus, train, convert, fine-tune.",
        epilog="Example:\n  bert-jax build --input 'text/*.txt' --tokenizer tokenizer --output corpus",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, example: str) -> _Parser:
        return commands.add_parser(name, help=text, description=text, epilog=f"Example:\n  bert-jax {example}")

    vocab = add(
        "vocab",
        "Train a tokenizer on raw text.",
        "vocab --input 'text/*.txt' --output tokenizer --kind wordpiece --size 30000 --lowercase",
    )
    _add_inputs(vocab)
    vocab.add_argument("--output", required=True, help="directory to write, or gs://..., s3://...")
    vocab.add_argument(
        "--kind",
        choices=("wordpiece", "unigram", "bpe", "char"),
        default="wordpiece",
        help="char, a token a character, is for proteins and DNA",
    )
    vocab.add_argument("--size", type=int, default=30522, help="entries, specials included; at most, of characters")
    vocab.add_argument("--lowercase", action="store_true", help="fold case and strip accents, as BERT uncased does")
    vocab.add_argument("--seed", type=int, default=0, help="of the sample of text, where there is more than is read")

    build = add(
        "build",
        "Build a corpus from raw text, once for every sequence length and objective.",
        "build --input 'text/*.txt' --tokenizer tokenizer --output corpus --workers 8",
    )
    _add_inputs(build)
    build.add_argument("--tokenizer", required=True, help="directory of the tokenizer, here or in a store")
    build.add_argument("--output", required=True, help="corpus directory to write, or gs://..., s3://...")
    build.add_argument("--workers", type=int, default=None, help="processes; all cores unless given")
    build.add_argument(
        "--part", default=None, metavar="I/N", help="build part I (from 0) of N, as one task of an array job"
    )
    build.add_argument(
        "--engine",
        choices=("local", "beam"),
        default="local",
        help="who runs the work: processes here, or Apache Beam, whose own options stand after --",
    )
    build.add_argument(
        "--validation-share",
        type=float,
        default=None,
        help="share of documents held out, 0 to 0.5; about 2 MB of the input unless given",
    )
    build.add_argument(
        "--encoder",
        choices=("auto", "tokenizers"),
        default="auto",
        help="auto: the fast one of the extra `fast`, where it gives the same ids as the tokenizers library",
    )
    build.add_argument("--keep-duplicates", action="store_true", help="keep documents that occur twice")
    build.add_argument(
        "--near-duplicates",
        type=float,
        default=None,
        metavar="SIMILARITY",
        help="drop documents whose word n-grams are as similar as this to an earlier one's, e.g. 0.8",
    )
    build.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="FILE",
        help="drop documents that hold 13 words in a row of these evaluation files, globs or URLs "
        "(.txt, .jsonl, .json, .tsv, .csv)",
    )

    check = add(
        "check",
        "Verify every byte of a corpus, print its audit as JSON, and hold it against limits.",
        "check corpus --max-unknown 0.01 --max-duplicates 0.1",
    )
    check.add_argument("corpus", help="directory, or gs://..., s3://...")
    for gate in GATES:
        kind = float if gate.name.startswith("max") else int
        check.add_argument(f"--{gate.name}", type=kind, default=None, metavar="LIMIT", help=f"exit 1: {gate.what}")

    pretrain = add(
        "pretrain",
        "Train; the same command again goes on where it stopped.",
        "pretrain --config configs/bert_tiny.py --config.data.corpus=corpus --workdir runs/tiny",
    )
    pretrain.add_argument("--config", required=True, help="recipe; fields are overridden by --config.a.b=value")
    pretrain.add_argument(
        "--workdir", help="run directory, new or to go on with; may be gs://... or s3://...; a rehearsal needs none"
    )
    pretrain.add_argument(
        "--change",
        action="append",
        default=[],
        metavar="FIELD",
        help="go on with another value of this field than the run was started with, as in optimizer.learning_rate",
    )
    pretrain.add_argument(
        "--rehearse",
        metavar="HARDWARE",
        help="only rehearse for this hardware, as v5e:16x16: 20 small steps on fake devices, with a stop and a resume",
    )

    pretrain.add_argument(
        "--profile",
        metavar="FIRST:LAST",
        help="write a profile of these steps, as 100:104, to WORKDIR/profile, for xprof or TensorBoard",
    )

    plan = add(
        "plan",
        "Compile a run for hardware that is not here: memory, time and cost, as JSON.",
        "plan --config configs/bert_base.py --device v5e:16x16",
    )
    plan.add_argument("--config", required=True, help="recipe; fields are overridden by --config.a.b=value")
    plan.add_argument(
        "--device", required=True, metavar="HARDWARE", help="such as v5e:16x16 or v4:4x4x8, or GPUs: h100:8, a100:4x8"
    )
    plan.add_argument("--price", type=float, metavar="DOLLARS", help="of a chip-hour; a list price unless given")
    plan.add_argument("--dump", metavar="DIR", help="write the optimised programs' text and memory there")
    plan.add_argument("--sweep", action="store_true", help="over batch, remat and mesh; a table, the best first")

    inspect = add("inspect", "Show the batches of some steps as the model sees them.", "inspect runs/tiny --step 100")
    inspect.add_argument("workdir", nargs="?", help="run directory or its URL (or give --config)")
    inspect.add_argument("--config", help="recipe, for a run that has not begun")
    inspect.add_argument("--step", type=int, required=True)
    inspect.add_argument("--steps", type=int, default=1, help="how many, from --step on")
    inspect.add_argument(
        "--unskipped", action="store_true", help="with the rows that the run later passed over, where they first stood"
    )
    inspect.add_argument("--npz", help="write the arrays, stacked, instead of text")

    evaluate = add("evaluate", "Held-out loss and accuracy, as JSON.", "evaluate runs/tiny")
    evaluate.add_argument("workdir", help="run directory or its URL")
    evaluate.add_argument("--step", type=int, help="checkpoint; the newest unless given")
    evaluate.add_argument("--corpus", help="another corpus than the run's")

    convert = add("convert", "To and from Hugging Face model directories.", "convert to-hf runs/tiny hf")
    ways = convert.add_subparsers(dest="way", required=True, metavar="to-hf|from-hf")
    to_hf = ways.add_parser(
        "to-hf",
        help="a run to a Hugging Face directory, checked before it appears",
        epilog="Example:\n  bert-jax convert to-hf runs/tiny hf --license apache-2.0",
    )
    to_hf.add_argument("source", help="run (directory or URL), fine-tuned model, or what from-hf wrote")
    to_hf.add_argument("output")
    to_hf.add_argument("--step", type=int, help="checkpoint; the newest unless given")
    to_hf.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights written; auto: those that an imported model came in, float32 once it was trained here",
    )
    to_hf.add_argument(
        "--max-shard-size", metavar="SIZE", help="of a weights file, as 2GB or 500MB; one file unless given"
    )
    to_hf.add_argument(
        "--license", metavar="NAME", help="for the model card, as apache-2.0; left to fill in unless given"
    )
    from_hf = ways.add_parser(
        "from-hf",
        help="a Hugging Face BERT to a directory to start from",
        epilog="Example:\n  bert-jax convert from-hf hf imported",
    )
    from_hf.add_argument("source", help="Hugging Face directory")
    from_hf.add_argument("output")

    verify = add(
        "verify",
        "Check what convert to-hf wrote against its stored probe, with NumPy and, where installed, PyTorch.",
        "verify hf",
    )
    verify.add_argument("directory", help="that convert to-hf wrote")

    finetune = add(
        "finetune",
        "Train a task head on a pretrained model.",
        "finetune --task classification --train train.tsv --dev dev.tsv --init runs/tiny --workdir tuned",
    )
    finetune.add_argument("--task", required=True, choices=("classification", "regression", "tagging", "qa"))
    finetune.add_argument(
        "--train",
        required=True,
        help=".tsv, .csv or .jsonl with a label and one or two text columns; of tagging .conll (a word and its label "
        "a line) or .jsonl with lists; of qa SQuAD's .json, or .jsonl with question, context, answers",
    )
    finetune.add_argument("--dev", required=True)
    finetune.add_argument("--init", required=True, help="run or Hugging Face directory, or a URL of one")
    finetune.add_argument("--workdir", required=True, help="directory to write")
    finetune.add_argument("--epochs", type=int, default=3)
    finetune.add_argument("--batch-size", type=int, default=32)
    finetune.add_argument("--learning-rate", type=float, default=5e-5)
    finetune.add_argument("--max-seq-len", type=int, help="tokens of a row; 128 (qa: 384), or the model's most")
    finetune.add_argument("--seed", type=int, default=0)
    finetune.add_argument("--tokens-field", help="tagging: list of words in .jsonl; tokens unless given")
    finetune.add_argument("--tags-field", help="tagging: list of labels in .jsonl; tags unless given")
    finetune.add_argument("--null-threshold", type=float, help="qa: by how much no answer must beat the best; 0")

    predict = add(
        "predict",
        "A JSON line for every row of a file.",
        "predict tuned --input test.tsv --output predictions.jsonl",
    )
    predict.add_argument("model", help="fine-tuned model, or a Hugging Face one with a task head")
    predict.add_argument(
        "--input",
        required=True,
        help="as the model was trained on, labels not needed; of tagging also .txt, a text a line",
    )
    predict.add_argument("--output", required=True)
    predict.add_argument("--null-threshold", type=float, help="of qa, as in finetune; as trained unless given")

    fill_mask = add(
        "fill-mask",
        "The likeliest words for every [MASK] in a text.",
        'fill-mask runs/tiny "The function returns a [MASK]."',
    )
    fill_mask.add_argument("model", help="run or Hugging Face directory, or a URL of one")
    fill_mask.add_argument("text")
    fill_mask.add_argument("--top", type=int, default=5, help="words a mask")

    report = add("report", "One page about one or several runs.", "report runs/tiny --output report.html")
    report.add_argument("workdirs", nargs="+", metavar="RUN", help="run directories or their URLs")
    report.add_argument("--output", required=True, help="HTML file to write")

    compare = add(
        "compare",
        "Is my loss normal: a run against another, or against a curve that comes with the program.",
        "compare quickstart/run quickstart",
    )
    compare.add_argument("workdir", metavar="RUN", help="run directory or its URL")
    compare.add_argument("reference", help="run directory or URL, a file of curves, or the name quickstart")
    compare.add_argument(
        "--tolerance",
        type=float,
        default=0.1,
        metavar="NATS",
        help="exit 1 where the run is worse by more; 0.1 unless given",
    )
    return parser


def _add_inputs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="[NAME=]I",
        help="globs of .txt, .jsonl (also .gz, .bz2, .zst) or .parquet, wiki:DUMP.xml.bz2, tfds:NAME/SPLIT, "
        "python-docs; txt:GLOB and jsonl:GLOB for other suffixes. A NAME is what the audit counts by and what "
        "the next five options may set for one input, as in --language novels=de",
    )
    for option, default, text in (
        ("--language", "en", "of sentence splitting, as in en, de, fr, zh"),
        ("--normalize", "nfc", "nfc; or none for code, which keeps white space and takes lines for sentences"),
        ("--text-field", "text", "field or column that holds the text"),
        ("--id-field", "id", "field or column that holds a document's name, where there is one"),
        (
            "--documents",
            "blank-line",
            "what a document is in .txt: blank-line (one ends it), file, or wrapped-file (of PDFs)",
        ),
    ):
        command.add_argument(
            option, nargs="+", default=[default], metavar="[NAME=]VALUE", help=f"{text}; {default} unless given"
        )
    command.add_argument(
        "--on-error",
        choices=("fail", "drop"),
        default="fail",
        help="what cannot be read ends the build, or is dropped and counted",
    )
