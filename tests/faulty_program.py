"""`bert-jax` with something going wrong at a set moment, told by the variable FAULT as JSON.

{"where": one of WHERE, "nth": at which call from 1, "what": "kill" | "stop" | "hang" | "freeze" | "raise"}
{"poison": [[corpus, epoch, block, first row, last row], ...]}: training rows whose loss is no number
{"spike": [step, factor]}: the loss of a step as the ledger sees it
{"held_out": [losses]}: what the first evaluations find, and the last of these what all later ones do
{"refuse": n}: a store takes no files from the n-th upload on
{"decline": n}: Orbax does not make the n-th checkpoint
{"late": seconds}: the corpora open so much later
{"full": step, "sealing": seconds}: the checkpoint of this step is sealed slowly, and meanwhile the disk is full
"""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp

WHERE = {
    "data": ("bert_jax.data.load", "Loader", "batch"),
    "compile": ("bert_jax.loop", None, "make_train_step"),
    "step": ("bert_jax.reporting", "Reporter", "step"),
    "evaluate": ("bert_jax.evaluate", None, "_means"),
    "save": ("bert_jax.run_checkpoints", "Checkpoints", "save"),
    "seal": ("bert_jax.checksums", None, "write"),  # all written, not yet visible
    "upload": ("data_prep.storage", "Folder", "upload"),
    "commit": ("bert_jax.run_store", "RunStore", "_commit"),  # all uploaded, not yet visible
}
FROZEN = 60  # seconds
POISON = 7  # a value of word_starts, of which only zero or not matters


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def break_at(where, nth, what):
    module, owner, name = WHERE[where]
    place = importlib.import_module(module)
    place = getattr(place, owner) if owner else place
    real, calls = getattr(place, name), [0]

    def faulty(*arguments, **options):
        calls[0] += 1
        if calls[0] == nth:
            if what == "raise":
                raise RuntimeError("a fault of one host")
            if what == "hang":
                time.sleep(1000)
            if what == "freeze":  # not even heartbeats, until long after the others must have noticed
                subprocess.Popen(["sh", "-c", f"sleep {FROZEN}; kill -CONT {os.getpid()}"])
                os.kill(os.getpid(), signal.SIGSTOP)
            if what == "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            elif where == "compile" or (where == "save" and what == "kill"):
                threading.Timer(0.15, kill).start()  # in the midst of what follows
            else:
                kill()
        return real(*arguments, **options)

    setattr(place, name, faulty)


def poison(rows):
    from bert_jax import train_step
    from bert_jax.data import keyed
    from bert_jax.data.read import RowReader

    plan, assemble, sums = RowReader.plan, RowReader.assemble, train_step._sums
    plans = {}

    def known_plan(self, epoch, block):
        found = plan(self, epoch, block)
        plans[id(found)] = found, epoch, block  # held, so that no other gets its number
        return found

    def poisoned_assemble(self, of, numbers):
        arrays = assemble(self, of, numbers)
        _, epoch, block = plans[id(of)]
        for corpus, at_epoch, at_block, first, last in rows:
            if (self._seed, epoch, block) == (int(keyed.draw(0, corpus)), at_epoch, at_block):
                arrays["word_starts"][(numbers >= first) & (numbers <= last)] = POISON
        return arrays

    def poisoned_sums(config, platform, params, batch, dropout):
        found = sums(config, platform, params, batch, dropout)
        if dropout is None:  # evaluation
            return found
        bad = jnp.any(batch["word_starts"] == POISON)
        return found | {"mlm_sum": jnp.where(bad, jnp.nan, found["mlm_sum"])}

    RowReader.plan, RowReader.assemble, train_step._sums = known_plan, poisoned_assemble, poisoned_sums


def spike(step, factor):
    from bert_jax import ledger

    ledger._LEAST_SEEN = 5  # the run is short
    Losses, seen = ledger.Losses, [0]
    after = Losses.after

    def spiked(self, phase, loss, grad_norm):
        seen[0] += 1
        return after(self, phase, loss * factor if seen[0] == step + 1 else loss, grad_norm)

    Losses.after = spiked


def held_out(losses):
    from bert_jax import evaluate

    means, left = evaluate._means, list(losses)

    def found(sums):
        loss = left.pop(0) if len(left) > 1 else left[0]
        return means(sums) | {"mlm_loss": loss, "nsp_loss": 0.0}

    evaluate._means = found


def refuse(nth):
    from bert_jax import run_store
    from data_prep.errors import InputError
    from data_prep.storage import Folder

    run_store._PAUSES = (0.0,)  # asked once more, at once
    upload, calls = Folder.upload, [0]

    def refused(self, files):
        calls[0] += 1
        if calls[0] >= nth:
            raise InputError(f"{self}: the store refused (a fault)")
        return upload(self, files)

    Folder.upload = refused


def decline(nth):
    import orbax.checkpoint as ocp

    save, calls = ocp.CheckpointManager.save, [0]

    def declined(self, step, **options):
        calls[0] += 1
        return calls[0] != nth and save(self, step, **options)

    ocp.CheckpointManager.save = declined


def late(seconds):
    from bert_jax import train

    opened = train.open_corpora

    def opened_late(config):
        time.sleep(seconds)
        return opened(config)

    train.open_corpora = opened_late


def full(step, sealing):
    from bert_jax import checksums
    from bert_jax.reporting import Reporter

    write, report, begun = checksums.write, Reporter.step, threading.Event()

    def slowly(directory):
        if directory.name.startswith(f"{step}."):
            begun.set()
            time.sleep(sealing)
        return write(directory)

    def refused(self, at, *arguments):
        if at >= step and begun.wait(60):
            raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")
        return report(self, at, *arguments)

    checksums.write, Reporter.step = slowly, refused


def install(fault):
    if "where" in fault:
        break_at(fault["where"], fault["nth"], fault["what"])
    if "poison" in fault:
        poison(fault["poison"])
    if "spike" in fault:
        spike(*fault["spike"])
    if "held_out" in fault:
        held_out(fault["held_out"])
    if "refuse" in fault:
        refuse(fault["refuse"])
    if "decline" in fault:
        decline(fault["decline"])
    if "late" in fault:
        late(fault["late"])
    if "full" in fault:
        full(fault["full"], fault["sealing"])


if __name__ == "__main__":
    from bert_jax import cpu_settings

    cpu_settings.take(cpu_settings.wanted(sys.argv[1:], os.environ))  # as `bert-jax` does: programs are the same then
    from bert_jax import cli, supervisor

    supervisor._COMMAND = [sys.executable, __file__]
    if not supervisor.one_of_several() or supervisor.is_child():
        install(json.loads(os.environ.get("FAULT", "{}")))
    cli.main()
