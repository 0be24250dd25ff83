"""The commands, thin: words to a function call, its result to stdout, its errors to one line and an exit code.

Exit codes: 0 done; 1 the check or comparison failed; 2 the user's input is wrong or the disk is full; 3 stopped for a
reason that a restart does not cure; 75 saved, run the same command again; 130 interrupted.
"""

import argparse
import contextlib
import errno
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bert_jax.command_line import build_parser
from data_prep.errors import InputError
from data_prep.gates import GATES, failure

# What the user can put right where an output is written.
_UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO,  # the disk
    errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,  # the path
)  # fmt: skip


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # JSON is UTF-8 whatever the terminal, and a path that is no text must not hide the message about it.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    arguments = list(sys.argv[1:] if words is None else words)
    engine_options: list[str] = []
    if arguments[:1] == ["build"] and "--" in arguments:
        border = arguments.index("--")
        arguments, engine_options = arguments[:border], arguments[border + 1 :]
    options, rest = build_parser().parse_known_args(arguments)
    options.engine_options = engine_options
    options.words = arguments
    options.overrides = [word for word in rest if word.startswith("--config.")]
    unknown = [word for word in rest if not word.startswith("--config.")]
    if unknown or (options.overrides and getattr(options, "config", None) is None):
        bad = unknown[0] if unknown else f"{options.overrides[0]} without --config"
        sys.stderr.write(f"error: {bad} is not an option of {options.command}; see bert-jax {options.command} --help\n")
        raise SystemExit(2)
    raise SystemExit(_run(_COMMANDS[options.command], options))


def _run(command: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int:
    try:
        return command(options) or 0
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
        return 0
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        where = f" at {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror}{where}; nothing half-written is left, free or name another place and repeat", 2)


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _print_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields, indent=2, ensure_ascii=False))


def _on_disk(output: str) -> Path:
    from data_prep.storage import is_url

    if is_url(output):
        raise InputError(f"{output}: this command writes to a disk only; name a local path, and copy it there")
    return Path(output)


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
    from bert_jax.profiling import parse_steps
    from bert_jax.train import pretrain

    profile = parse_steps(options.profile) if options.profile else None
    return pretrain(load(options.config, options.overrides), options.workdir, stop, options.change, profile)


def _plan(options: argparse.Namespace) -> None:
    from bert_jax.config_file import load
    from bert_jax.topology import parse_topology

    config = load(options.config, options.overrides)
    topology = parse_topology(options.device, config.mesh.dcn)
    if not topology.is_gpu and importlib.util.find_spec("libtpu") is None:
        raise InputError("plan compiles with libtpu, which is not installed; pip install 'bert-jax[tpu]'")
    os.environ.update(topology.environment)
    if options.sweep:
        if options.dump:
            raise InputError("--sweep plans many programs and --dump writes one's; plan the chosen row with --dump")
        from bert_jax.plan_sweep import sweep, table

        told = sweep(config, topology, options.price)
        print(table(told["rows"]), file=sys.stderr)
        _print_json(told)
        return
    from bert_jax.plan_run import plan_run

    dump = Path(options.dump) if options.dump else None
    _print_json(plan_run(config, topology, options.price, dump))


def _inspect(options: argparse.Namespace) -> None:
    if (options.workdir is None) == (options.config is None):
        raise InputError("inspect takes a run directory or --config, one of them")
    from bert_jax.config_file import load
    from bert_jax.inspect_batches import inspect

    config = load(options.config, options.overrides) if options.config else None
    from bert_jax.run_copy import local_run

    with contextlib.ExitStack() as stack:
        run = stack.enter_context(local_run(options.workdir, params=False)) if options.workdir else None
        text = inspect(config, run, options.step, options.steps, options.npz, options.unskipped)
    if text is not None:
        print(text)


def _evaluate(options: argparse.Namespace) -> None:
    from bert_jax.evaluate import evaluate_run
    from bert_jax.run_copy import local_run

    with local_run(options.workdir, options.step) as run:
        _print_json(evaluate_run(run, options.step, options.corpus))


def _convert(options: argparse.Namespace) -> int:
    from bert_jax.convert import ConversionMismatch, Form, from_hf, parse_size, to_hf
    from bert_jax.run_copy import local_run

    output = _on_disk(options.output)
    if options.way == "from-hf":
        with local_run(options.source) as source:
            from_hf(source, output)
        return 0
    form = Form(options.dtype, parse_size(options.max_shard_size) if options.max_shard_size else None)
    try:
        with local_run(options.source, options.step) as source:
            to_hf(source, output, options.step, form, options.license)
    except ConversionMismatch as error:
        return _fail(str(error), 1)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from bert_jax.convert.verify import verify

    report, wrong = verify(_on_disk(options.directory))
    if report["pytorch"] is None:
        print(
            "PyTorch is not installed, so only NumPy's forward pass was compared; pip install 'bert-jax[hf]' for both",
            file=sys.stderr,
        )
    _print_json(report)
    return _fail(wrong, 1) if wrong else 0


def _finetune(options: argparse.Namespace) -> None:
    from bert_jax.finetune import finetune
    from bert_jax.run_copy import local_run

    given = {name: getattr(options, name) for name in ("tokens_field", "tags_field", "null_threshold")}
    with local_run(options.init) as init:
        result = finetune(
            options.task,
            options.train,
            options.dev,
            init,
            _on_disk(options.workdir),
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            max_seq_len=options.max_seq_len,
            seed=options.seed,
            **{name: value for name, value in given.items() if value is not None},
        )
    _print_json(result)


def _predict(options: argparse.Namespace) -> None:
    from bert_jax.finetune.predict import predict
    from bert_jax.run_copy import local_run

    with local_run(options.model) as model:
        predict(model, options.input, _on_disk(options.output), options.null_threshold)


def _fill_mask(options: argparse.Namespace) -> None:
    from bert_jax.fill_mask import fill_mask
    from bert_jax.run_copy import local_run

    with local_run(options.model) as model:
        masks = fill_mask(model, options.text, top_k=options.top)
    _print_json({"text": options.text, "masks": masks})


def _report(options: argparse.Namespace) -> None:
    from bert_jax.report import write_report
    from bert_jax.run_copy import local_run

    output = _on_disk(options.output)
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(local_run(run, params=False)) for run in options.workdirs]
        write_report(runs, output)


def _compare(options: argparse.Namespace) -> int:
    from bert_jax.compare import compare
    from bert_jax.run_copy import local_run

    with (
        local_run(options.workdir, params=False) as run,
        local_run(options.reference, params=False) as reference,
    ):
        report, sentence = compare(run, reference, options.tolerance)
    _print_json(report)
    if report["worse"]:
        return _fail(sentence, 1)
    print(sentence, file=sys.stderr)
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "vocab": _vocab,
    "build": _build,
    "check": _check,
    "pretrain": _pretrain,
    "plan": _plan,
    "inspect": _inspect,
    "evaluate": _evaluate,
    "convert": _convert,
    "verify": _verify,
    "finetune": _finetune,
    "predict": _predict,
    "fill-mask": _fill_mask,
    "report": _report,
    "compare": _compare,
}
