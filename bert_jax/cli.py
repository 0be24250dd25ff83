"""The commands, thin: words to a function call, its result to stdout, its errors to one line and an exit code.

Exit codes: 0 done; 1 the check or comparison failed; 2 the user's input is wrong or the disk is full; 3 stopped for a
reason that a restart does not cure; 75 saved, run the same command again; 130 interrupted.
"""

import argparse
import errno
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from data_prep.errors import InputError
from data_prep.gates import GATES, failure


class _Parser(argparse.ArgumentParser):
    """One-line errors, examples as they were typed."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message}; see {self.prog} --help\n")
        raise SystemExit(2)


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its code."""
    arguments = list(sys.argv[1:] if words is None else words)
    parser = _build_parser()
    engine_options: list[str] = []
    if arguments[:1] == ["build"] and "--" in arguments:
        border = arguments.index("--")
        arguments, engine_options = arguments[:border], arguments[border + 1 :]
    options, rest = parser.parse_known_args(arguments)
    options.engine_options = engine_options
    options.words = arguments
    options.overrides = [word for word in rest if word.startswith("--config.")]
    unknown = [word for word in rest if not word.startswith("--config.")]
    if unknown or (options.overrides and getattr(options, "config", None) is None):
        bad = unknown[0] if unknown else f"{options.overrides[0]} without --config"
        sys.stderr.write(f"error: {bad} is not an option of {options.command}; see bert-jax {options.command} --help\n")
        raise SystemExit(2)
    raise SystemExit(_run(options.run, options))


def _run(command: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int:
    try:
        return command(options) or 0
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            raise
        where = f" at {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror}{where}; nothing half-written is left, free or name another place and repeat", 2)


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _print_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields, indent=2, ensure_ascii=False))


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bert-jax",
        description="Pretrain BERT-style encoders in JAX: build a corpus, train, convert, fine-tune.",
        epilog="Example:\n  bert-jax build --input 'text/*.txt' --tokenizer tokenizer --output corpus",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str, example: str) -> _Parser:
        command = commands.add_parser(name, help=text, description=text, epilog=f"Example:\n  bert-jax {example}")
        command.set_defaults(run=run)
        return command

    vocab = add(
        "vocab",
        _vocab,
        "Train a tokenizer on raw text.",
        "vocab --input 'text/*.txt' --output tokenizer --kind wordpiece --size 30000 --lowercase",
    )
    _add_inputs(vocab)
    vocab.add_argument("--output", required=True, help="directory to write")
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
        _build,
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
        help="drop documents that hold 13 words in a row of these evaluation files (.txt, .jsonl, .json, .tsv, .csv)",
    )

    check = add(
        "check",
        _check,
        "Verify every byte of a corpus, print its audit as JSON, and hold it against limits.",
        "check corpus --max-unknown 0.01 --max-duplicates 0.1",
    )
    check.add_argument("corpus", help="directory, or gs://..., s3://...")
    for gate in GATES:
        kind = float if gate.name.startswith("max") else int
        check.add_argument(f"--{gate.name}", type=kind, default=None, metavar="LIMIT", help=f"exit 1: {gate.what}")

    pretrain = add(
        "pretrain",
        _pretrain,
        "Train; the same command again goes on where it stopped.",
        "pretrain --config configs/bert_tiny.py --config.data.corpus=corpus --workdir runs/tiny",
    )
    pretrain.add_argument("--config", required=True, help="recipe; fields are overridden by --config.a.b=value")
    pretrain.add_argument("--workdir", help="run directory, new or to go on with; a rehearsal needs none")
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

    plan = add(
        "plan",
        _plan,
        "Compile a run for hardware that is not here: memory, time and cost, as JSON.",
        "plan --config configs/bert_base.py --device v5e:16x16",
    )
    plan.add_argument("--config", required=True, help="recipe; fields are overridden by --config.a.b=value")
    plan.add_argument("--device", required=True, metavar="HARDWARE", help="such as v5e:16x16 or v4:4x4x8")
    plan.add_argument("--price", type=float, metavar="DOLLARS", help="of a chip-hour; a list price unless given")
    plan.add_argument("--dump", metavar="DIR", help="write the optimised programs' text there")

    inspect = add(
        "inspect", _inspect, "Show the batches of some steps as the model sees them.", "inspect runs/tiny --step 100"
    )
    inspect.add_argument("workdir", nargs="?", help="run directory (or give --config)")
    inspect.add_argument("--config", help="recipe, for a run that has not begun")
    inspect.add_argument("--step", type=int, required=True)
    inspect.add_argument("--steps", type=int, default=1, help="how many, from --step on")
    inspect.add_argument(
        "--unskipped", action="store_true", help="with the rows that the run later passed over, where they first stood"
    )
    inspect.add_argument("--npz", help="write the arrays, stacked, instead of text")

    evaluate = add("evaluate", _evaluate, "Held-out loss and accuracy, as JSON.", "evaluate runs/tiny")
    evaluate.add_argument("workdir", help="run directory")
    evaluate.add_argument("--step", type=int, help="checkpoint; the newest unless given")
    evaluate.add_argument("--corpus", help="another corpus than the run's")

    convert = add("convert", _convert, "To and from Hugging Face model directories.", "convert to-hf runs/tiny hf")
    ways = convert.add_subparsers(dest="way", required=True, metavar="to-hf|from-hf")
    to_hf = ways.add_parser(
        "to-hf",
        help="a run to a Hugging Face directory, checked before it appears",
        epilog="Example:\n  bert-jax convert to-hf runs/tiny hf",
    )
    to_hf.add_argument("source", help="run, fine-tuned model, or what from-hf wrote")
    to_hf.add_argument("output")
    to_hf.add_argument("--step", type=int, help="checkpoint; the newest unless given")
    from_hf = ways.add_parser(
        "from-hf",
        help="a Hugging Face BERT to a directory to start from",
        epilog="Example:\n  bert-jax convert from-hf hf imported",
    )
    from_hf.add_argument("source", help="Hugging Face directory")
    from_hf.add_argument("output")

    finetune = add(
        "finetune",
        _finetune,
        "Train a task head on a pretrained model.",
        "finetune --task classification --train train.tsv --dev dev.tsv --init runs/tiny --workdir tuned",
    )
    finetune.add_argument("--task", required=True, choices=("classification", "regression"))
    finetune.add_argument(
        "--train", required=True, help=".tsv, .csv or .jsonl with a label and one or two text columns"
    )
    finetune.add_argument("--dev", required=True)
    finetune.add_argument("--init", required=True, help="run or Hugging Face directory")
    finetune.add_argument("--workdir", required=True, help="directory to write")
    finetune.add_argument("--epochs", type=int, default=3)
    finetune.add_argument("--batch-size", type=int, default=32)
    finetune.add_argument("--learning-rate", type=float, default=5e-5)
    finetune.add_argument("--max-seq-len", type=int, help="tokens of a row; 128, or the model's most, unless given")
    finetune.add_argument("--seed", type=int, default=0)

    predict = add(
        "predict",
        _predict,
        "A JSON line for every row of a file.",
        "predict tuned --input test.tsv --output predictions.jsonl",
    )
    predict.add_argument("model", help="fine-tuned model, or a Hugging Face one with a task head")
    predict.add_argument("--input", required=True)
    predict.add_argument("--output", required=True)

    fill_mask = add(
        "fill-mask",
        _fill_mask,
        "The likeliest words for every [MASK] in a text.",
        'fill-mask runs/tiny "The function returns a [MASK]."',
    )
    fill_mask.add_argument("model", help="run or Hugging Face directory")
    fill_mask.add_argument("text")
    fill_mask.add_argument("--top", type=int, default=5, help="words a mask")

    report = add("report", _report, "One page about one or several runs.", "report runs/tiny --output report.html")
    report.add_argument("workdirs", nargs="+", metavar="RUN")
    report.add_argument("--output", required=True, help="HTML file to write")
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


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("language", "normalize", "text_field", "id_field", "documents")}


def _vocab(options: argparse.Namespace) -> None:
    from data_prep.vocab import train_vocab

    train_vocab(
        options.input,
        options.output,
        options.kind,
        options.size,
        lowercase=options.lowercase,
        seed=options.seed,
        on_error=options.on_error,
        **_reading(options),
    )


def _build(options: argparse.Namespace) -> None:
    from data_prep.build import build_corpus

    manifest = build_corpus(
        options.input,
        options.tokenizer,
        options.output,
        workers=options.workers,
        part=options.part,
        engine=options.engine,
        engine_options=options.engine_options,
        on_error=options.on_error,
        keep_duplicates=options.keep_duplicates,
        near_duplicates=options.near_duplicates,
        exclude=options.exclude,
        validation_share=options.validation_share,
        encoder=options.encoder,
        **_reading(options),
    )
    # One line for scripts; of a part that leaves work to others the fingerprint is null.
    print(json.dumps({"output": options.output, "fingerprint": manifest["fingerprint"] if manifest else None}))


def _check(options: argparse.Namespace) -> int:
    from data_prep.check import check

    report, wrong = check(options.corpus)
    limits = {gate.name: getattr(options, gate.name.replace("-", "_")) for gate in GATES}
    wrong = wrong or failure(report, {name: limit for name, limit in limits.items() if limit is not None})
    _print_json(report)
    return _fail(wrong, 1) if wrong else 0


def _pretrain(options: argparse.Namespace) -> int:
    # Must be set before jax meets a device: reductions on GPU in a fixed order, so that a resumed run repeats every
    # bit.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    from bert_jax import supervisor

    several = supervisor.one_of_several()
    if several and not supervisor.is_child():
        return supervisor.supervise(options.words)
    if several:
        supervisor.end_with_parent()
    from bert_jax.stopping import StopSignal

    stop = StopSignal(several)
    from bert_jax.config_file import load

    if options.rehearse:
        from bert_jax.rehearse import RehearsalFailed, rehearse

        try:
            _print_json(rehearse(load(options.config, options.overrides), options.rehearse))
        except RehearsalFailed as error:
            return _fail(str(error), 1)
        return 0
    if options.workdir is None:
        raise InputError("pretrain needs --workdir, a directory for the run; see bert-jax pretrain --help")
    from bert_jax.train import pretrain

    return pretrain(load(options.config, options.overrides), Path(options.workdir), stop, options.change)


def _plan(options: argparse.Namespace) -> None:
    from bert_jax.config_file import load
    from bert_jax.topology import parse_topology

    config, topology = load(options.config, options.overrides), parse_topology(options.device)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("plan compiles with libtpu, which is not installed; pip install 'bert-jax[tpu]'")
    # Read when libtpu starts: it is not to look for chips, nor for a metadata server.
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE=topology.accelerator_type,
        TPU_WORKER_HOSTNAMES="localhost",
    )
    from bert_jax.plan_run import plan_run

    dump = Path(options.dump) if options.dump else None
    _print_json(plan_run(config, topology, options.price, dump))


def _inspect(options: argparse.Namespace) -> None:
    if (options.workdir is None) == (options.config is None):
        raise InputError("inspect takes a run directory or --config, one of them")
    from bert_jax.config_file import load
    from bert_jax.inspect_batches import inspect

    config = load(options.config, options.overrides) if options.config else None
    run = Path(options.workdir) if options.workdir else None
    text = inspect(config, run, options.step, options.steps, options.npz, options.unskipped)
    if text is not None:
        print(text)


def _evaluate(options: argparse.Namespace) -> None:
    from bert_jax.evaluate import evaluate_run

    _print_json(evaluate_run(Path(options.workdir), options.step, options.corpus))


def _convert(options: argparse.Namespace) -> int:
    from bert_jax.convert import ConversionMismatch, from_hf, to_hf

    if options.way == "from-hf":
        from_hf(options.source, options.output)
        return 0
    try:
        to_hf(options.source, options.output, step=options.step)
    except ConversionMismatch as error:
        return _fail(str(error), 1)
    return 0


def _finetune(options: argparse.Namespace) -> None:
    from bert_jax.finetune import finetune

    _print_json(
        finetune(
            options.task,
            options.train,
            options.dev,
            options.init,
            options.workdir,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            max_seq_len=options.max_seq_len,
            seed=options.seed,
        )
    )


def _predict(options: argparse.Namespace) -> None:
    from bert_jax.finetune.predict import predict

    predict(options.model, options.input, options.output)


def _fill_mask(options: argparse.Namespace) -> None:
    from bert_jax.fill_mask import fill_mask

    _print_json({"text": options.text, "masks": fill_mask(options.model, options.text, top_k=options.top)})


def _report(options: argparse.Namespace) -> None:
    from bert_jax.report import write_report

    write_report([Path(run) for run in options.workdirs], Path(options.output))
