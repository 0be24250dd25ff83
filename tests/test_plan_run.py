"""Planning without the hardware: cycles as a hand would count them, one line without libtpu, and with it a compile."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import small_bert

from bert_jax import plan_run as plan_run_module
from bert_jax import plan_sweep
from bert_jax.collectives import Collective
from bert_jax.compiled_step import CompiledStep, NoFastMemory, bytes_wanted, compile_or_size
from bert_jax.config import MeshConfig, PhaseConfig
from bert_jax.model.partitioning import MESH_AXES
from bert_jax.plan_advice import advice, host_cores
from bert_jax.plan_run import TIMES, _times, between_slices, communication_seconds, plan_run, price
from bert_jax.program_cycles import Rates, operations, program_cycles
from bert_jax.roofline import computing_seconds, moved_bytes
from bert_jax.sharding import mesh_sizes
from bert_jax.topology import PRICES, parse_topology
from data_prep.errors import InputError

RATES = Rates(flops=100.0, bytes=10.0)
ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """HloModule jit_train_step, is_scheduled=true

%fused (param_0: f32[8]) -> f32[8] {
  %param_0 = f32[8]{0} parameter(0)
  ROOT %inner = f32[8]{0} negate(%param_0), backend_config={"estimated_cycles":"999"}
}

%inner_body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %work = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"7"}
}

%inner_condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %work.1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"10"}
  %while.1 = (s32[], f32[8]) while(%t), condition=%inner_condition, body=%inner_body, \
backend_config={"known_trip_count":{"n":"3"}}
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(12)
  ROOT %lt.1 = pred[] compare(%i, %constant.5), direction=LT, backend_config={"estimated_cycles":"1"}
}

%helper (p: f32[8]) -> f32[8] {
  ROOT %work.2 = f32[8]{0} fusion(%p), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"100"}
}

%other (p: f32[8]) -> f32[8] {
  ROOT %work.3 = f32[8]{0} copy(%p), backend_config={"estimated_cycles":"300"}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %a = f32[8]{0} fusion(%p), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"1000"}
  %b = f32[8]{0} copy(%a), backend_config={"estimated_cycles":"9223372036854775807"}
  %c = f32[8]{0} call(%b), to_apply=%helper
  %d = f32[8]{0} conditional(%q, %b, %c), branch_computations={%helper, %other}
  ROOT %w = (s32[], f32[8]) while(%t), condition=%condition, body=%body
}
"""


def test_cycles_count_a_loops_body_once_a_trip():
    # Fusions count where they stand, not their insides; what the compiler does not know counts nothing.
    assert program_cycles(PROGRAM, RATES) == 1000 + 100 + 300 + 12 * (1 + 10 + 3 * 7)


def test_a_loop_of_unknown_length_is_no_guess():
    with pytest.raises(ValueError, match="unknown length"):
        program_cycles(PROGRAM.replace("constant(12)", "parameter(0)"), RATES)


def kernel(flops, moved):
    cost = f'"cost_estimate":{{"flops":"{flops}","transcendentals":"5","bytes_accessed":"{moved}"}}'
    line = '  %k = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call", metadata={op_name="attend"}, '
    return PROGRAM.replace("  %b = f32", line + f"backend_config={{{cost}}}\n  %b = f32")


def test_kernels_count_twice_their_bound():
    without = program_cycles(PROGRAM, RATES)
    assert program_cycles(kernel(7000, 10), RATES) == without + 2 * 70
    assert program_cycles(kernel(100, 500), RATES) == without + 2 * 50
    (found,) = [operation for operation in operations(kernel(100, 500), RATES) if operation.name == "k"]
    assert (found.opcode, found.shape, found.source, found.cycles, found.times) == (
        "custom-call",
        "f32[8]",
        "attend",
        100,
        1,
    )
    with pytest.raises(ValueError, match="without a cost estimate"):
        program_cycles(kernel(1, 1).replace("cost_estimate", "other"), RATES)


def test_bytes_that_a_program_moves_are_those_of_its_results_twice():
    # a, b, c's and d's (both sides) copies; the loops' work by their trips; a comparison gives a byte.
    written = 32 * (1 + 1 + 1 + 2) + 12 * (32 + 1) + 36 * (32 + 1)
    assert moved_bytes(PROGRAM) == 2 * written
    assert computing_seconds(1e12, PROGRAM, 1e11, 1e9) == pytest.approx(10.0)
    assert computing_seconds(1e3, PROGRAM, 1e11, 10.0) == pytest.approx(2 * written / 10.0)


NOTHING = "ENTRY %main (p: f32[8]) -> f32[8] {\n  ROOT %a = f32[8]{0} negate(%p)\n}\n"
STACKING = """HloModule jit_train_step, is_scheduled=true

%stacked (p0: s32[], p1: bf16[12,8], p2: f32[8]) -> (bf16[12,8], f32[8]) {
  %p1 = bf16[12,8]{1,0} parameter(1)
  %all = f32[12,8]{1,0} convert(%p1)
  %p2 = f32[8]{0} parameter(2)
  %one = f32[1,8]{1,0} bitcast(%p2)
  %new = f32[12,8]{1,0} dynamic-update-slice(%all, %one, %p0, %zero)
  %narrow = bf16[12,8]{1,0} convert(%new)
  ROOT %both = (bf16[12,8]{1,0}, f32[8]{0}) tuple(%narrow, %p2)
}

%body (p: (s32[], bf16[12,8], f32[12,8])) -> (s32[], bf16[12,8], f32[12,8]) {
  %f = (bf16[12,8]{1,0}, f32[8]{0}) fusion(%i, %b, %x), kind=kLoop, calls=%stacked
  %slice = f32[2,4]{1,0} negate(%x)
  %alone = f32[12,8]{1,0} dynamic-update-slice(%c, %slice, %i, %zero)
}

%condition (p: (s32[], bf16[12,8], f32[12,8])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  ROOT %w = (s32[], bf16[12,8], f32[12,8]) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"12"}}
}
"""


def test_a_loop_that_stacks_its_results_writes_a_slice_a_trip():
    fused, alone, rest = 2 * 8 + 4 * 8, 4 * 8, 4 * 8 + 1
    assert moved_bytes(STACKING) == 2 * 12 * (fused + alone + rest)


def test_what_scanned_layers_move_grows_by_the_layer():
    def moved(number, unroll):
        def loss(weights, x):
            def layer(x, weight):
                return jnp.tanh(jnp.dot(x, weight, preferred_element_type=jnp.float32)).astype(jnp.bfloat16), None

            return jax.lax.scan(layer, x, weights, unroll=unroll)[0].astype(jnp.float32).sum()

        weights, x = jnp.zeros((number, 64, 64), jnp.bfloat16), jnp.zeros((512, 64), jnp.bfloat16)
        return moved_bytes(jax.jit(jax.grad(loss)).lower(weights, x).compile().as_text())

    four, eight, sixteen = (moved(number, unroll=1) for number in (4, 8, 16))
    assert sixteen - eight == pytest.approx(2 * (eight - four), rel=0.02)
    unrolled = moved(16, unroll=True)
    assert unrolled < sixteen < 3 * unrolled  # a scan copies what it stacks, of layers as light as these


def test_a_run_is_planned_for_gpus_by_a_rule_of_thumb():
    config = small_bert.run_config(hidden_size=64, num_heads=4, dtype="bfloat16")
    told = plan_run(config, parse_topology("h100:1"), dollars=2.0)
    assert told["fits"] is True and "rule of thumb" in told["note"]
    assert told["cost"] == pytest.approx(2.0 * told["hours"])
    assert _times(told["phases"], parse_topology("h100:1"), None)["cost"] is None  # no price is assumed
    (phase,) = told["phases"]
    assert "attention_dropout_rate is above 0" in phase["choices"]
    assert phase["step_seconds"] >= phase["flops"] / 989e12


def test_gpus_are_planned_with_einsum_whatever_the_recipe_takes(monkeypatch):
    compiled = []

    def pretended(config, number, mesh):
        compiled.append(config.model.attention)
        memory = {"parameters": 1, "optimizer": 2, "batch": 1, "temporary": 1, "program": 1}
        return CompiledStep(100, memory, NOTHING)

    monkeypatch.setattr(plan_run_module, "compile_step", pretended)
    config = small_bert.run_config(attention="cudnn", attention_dropout_rate=0.0, dtype="bfloat16")
    told = plan_run(config, parse_topology("h100:1"))
    assert compiled == ["einsum"]
    assert "attention cudnn" in told["phases"][0]["choices"]  # what the GPU takes


def test_gpus_are_named_by_hosts_and_how_many_each_has():
    four = parse_topology("a100:4x8")
    assert (four.devices, four.hosts, four.slices, four.is_gpu) == (32, 4, 4, True)
    assert parse_topology("h100:8").hosts == 1 and not parse_topology("v5e:4x4").is_gpu
    assert between_slices(25_000_000_000, parse_topology("a100:2x8")) == pytest.approx(1.0)
    for wrong in ("h100", "h100:0", "h100:2x2x2", "h100:axb"):
        with pytest.raises(InputError, match="h100:8 for a host"):
            parse_topology(wrong)
    config = dataclasses.replace(small_bert.run_config(), mesh=MeshConfig(data=3, fsdp=2, tensor=1))
    with pytest.raises(InputError, match="3 is not divisible by the 2 hosts"):
        plan_run(config, parse_topology("h100:2x3"))


def test_the_compilers_refusal_says_how_much_was_wanted():
    text = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    assert bytes_wanted(text + "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.") == round(20.5 * 2**30)
    assert bytes_wanted("INTERNAL: something else") is None


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space vmem. Used 17.50M of "
        "16.00M vmem. Exceeded vmem capacity by 1.50M.",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem while allocating on stack for %attend = f32[8]",
    ],
)
def test_no_room_in_the_chips_fast_memory_is_told_in_a_line(message):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError(message + "\n\nwith much more of it")

    with pytest.raises(NoFastMemory, match=r"vmem.*config\.train\.accumulation") as told:
        compile_or_size(Lowered())
    assert "\n" not in str(told.value)


def test_times_are_sums_over_the_phases():
    phases = [
        {
            "steps": 900,
            "rows": 10,
            "step_seconds": 0.1,
            "computing_seconds": 0.09,
            "communication_seconds": 0.03,
            "tokens": 1000,
            "flops": 1e12,
        },
        {
            "steps": 100,
            "rows": 400,
            "step_seconds": 0.5,
            "computing_seconds": 0.45,
            "communication_seconds": 0.15,
            "tokens": 4000,
            "flops": 5e12,
        },
    ]
    told = _times(phases, parse_topology("v5e:4x4"), None)
    assert told["hours"] == pytest.approx(140 / 3600)
    assert told["step_seconds"] == pytest.approx(0.14)
    assert told["tokens_per_second"] == pytest.approx(1_300_000 / 140)
    assert told["cost"] == pytest.approx(140 / 3600 * 16 * 1.2)
    assert told["mfu"] == pytest.approx(1.4e15 / 140 / (16 * 197e12))
    assert told["communication_share"] == pytest.approx(0.25)
    assert told["rows_per_second_per_host"] == pytest.approx(800 / 4)  # of the phase that wants most
    assert _times(phases, parse_topology("v5e:4x4"), 3.0)["cost"] == pytest.approx(140 / 3600 * 16 * 3)


def test_communication_hides_behind_computing_only_where_the_program_lets_it():
    ring = parse_topology("v5e:4x4").generation.ring
    operations = [Collective("all-gather", 4000, 4, 2, True), Collective("all-reduce", 1000, 4, 1, False)]
    alone, hidden = communication_seconds(operations, parse_topology("v5e:4x4"))
    assert alone == pytest.approx(2 * 750 / ring) and hidden == pytest.approx(2 * 3000 / ring)
    two = parse_topology("v5e:4x4", 2)
    assert two.chips == 32 and two.accelerator_type == "v5litepod-16"
    assert between_slices(3_125_000_000, two) == pytest.approx(1.0)  # half of it twice
    assert between_slices(3_125_000_000, parse_topology("v5e:4x4")) == 0.0


def test_a_plan_says_its_price_and_whether_the_loader_keeps_up(monkeypatch):
    memory = {"parameters": 1, "optimizer": 2, "batch": 1, "temporary": 1, "program": 1}
    monkeypatch.setattr(plan_run_module, "compile_step", lambda *_: CompiledStep(100, memory, NOTHING))
    config, here = small_bert.run_config(rows=4096, hidden_size=64, num_heads=4), parse_topology("h100:1")
    told = plan_run(config, here)
    assert told["price"] == {"dollars_per_chip_hour": None, "source": None} and told["cost"] is None
    assert plan_run(config, here, 2.5)["price"] == {"dollars_per_chip_hour": 2.5, "source": "--price"}
    assert price(parse_topology("v5e:2x2"), None) == {"dollars_per_chip_hour": 1.2, "source": PRICES}
    assert "2026" in PRICES
    loader = told["loader"]
    (phase,) = told["phases"]
    assert loader["cores_per_host"] == pytest.approx(host_cores(phase, here))
    assert loader["keeps_up"] is (loader["cores_per_host"] <= loader["cores_assumed"])
    assert loader["keeps_up"] is not any("cores of each host" in sentence for sentence in told["advice"])
    memory["temporary"] = 10**12
    monkeypatch.setattr(plan_run_module, "compile_step", lambda *_: CompiledStep(10**12, memory, NOTHING))
    assert plan_run(config, here)["loader"] is None


def told_phase(**changes):
    memory = {"parameters": 1, "optimizer": 2, "batch": 0, "temporary": 2**30, "program": 0}
    phase = {"rows": 256, "seq_len": 128, "fits": True, "bytes_per_device": 14 * 2**30, "memory": memory}
    times = {"step_seconds": 0.1, "computing_seconds": 0.09, "communication_seconds": 0.01}
    return phase | times | changes


@pytest.mark.parametrize(
    ("recipe", "mesh", "phase", "said"),
    [
        ({"remat": "none"}, (8, 1, 1), {"fits": False, "bytes_per_device": 20 * 2**30}, "config.model.remat=dots"),
        ({"remat": "full"}, (8, 1, 1), {"fits": False, "bytes_per_device": 20 * 2**30}, "config.mesh.fsdp=-1"),
        ({"remat": "full"}, (1, 8, 1), {"bytes_per_device": 2 * 2**30}, "config.model.remat=none"),
        ({"remat": "none"}, (1, 8, 1), {"bytes_per_device": 2 * 2**30}, "larger global_batch_size"),
        ({"remat": "none"}, (8, 1, 1), {"communication_seconds": 0.09}, "larger global_batch_size"),
        ({"remat": "none"}, (4, 1, 2), {"communication_seconds": 0.09}, "config.mesh.fsdp instead of tensor"),
        ({"remat": "none"}, (8, 1, 1), {"rows": 10**6}, "cores of each host"),
    ],
)
def test_advice_names_the_field(recipe, mesh, phase, said):
    config = small_bert.run_config(**recipe)
    sizes = dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))
    (sentence,) = advice(config, parse_topology("v5e:2x4"), sizes, [told_phase(**phase)])
    assert said in sentence


def test_what_is_well_needs_no_advice():
    mesh = {"data": 8, "fsdp": 1, "tensor": 1}
    assert advice(small_bert.run_config(), parse_topology("v5e:2x4"), mesh, [told_phase()]) == []


def test_a_sweep_tries_more_remat_only_where_less_does_not_fit_and_puts_the_fastest_first(monkeypatch):
    asked = []

    def pretended(config, topology, dollars):
        rows, remat = config.phases()[0].global_batch_size, config.model.remat
        asked.append((rows, remat, config.mesh))
        fits = rows < 64 or (rows == 64 and remat == "full")
        speed = {"none": 3.0, "dots": 2.0, "full": 1.0}[remat] * rows if fits else None
        fields = dict.fromkeys(TIMES) | {"tokens_per_second": speed}
        mesh = {"data": config.mesh.data, "fsdp": config.mesh.fsdp, "tensor": config.mesh.tensor}
        return {"mesh": mesh, "fits": fits, "bytes_per_device": rows, **fields}

    monkeypatch.setattr(plan_sweep, "plan_run", pretended)
    config = small_bert.run_config(rows=64, num_heads=8)
    told = plan_sweep.sweep(config, parse_topology("v5e:2x2"))
    own = [(rows, remat) for rows, remat, mesh in asked if mesh == config.mesh]
    assert own == [(32, "none"), (64, "none"), (64, "dots"), (64, "full")] + [
        (128, r) for r in ("none", "dots", "full")
    ]
    assert told["best"]["tokens_per_second"] == 96.0 and told["best"]["global_batch_size"] == [32]
    assert [row["fits"] for row in told["rows"]] == sorted((row["fits"] for row in told["rows"]), reverse=True)
    meshes = [tuple(row["mesh"].values()) for row in told["rows"]]
    assert len(set(meshes)) == 3  # all on data, all on fsdp, two of tensor; eight of fsdp do not fit on four chips


@pytest.mark.parametrize(("name", "dcn"), [("h100:2x2", 1), ("v5e:2x1", 2)])
def test_a_sweep_takes_meshes_that_lie_in_slices_or_hosts(monkeypatch, name, dcn):
    asked = []

    def pretended(config, topology, dollars):
        asked.append(config.mesh)
        sizes = mesh_sizes(config.mesh, topology.devices)
        return {"mesh": dict(zip(MESH_AXES, sizes, strict=True)), "fits": True, "bytes_per_device": 1} | dict.fromkeys(
            TIMES, 1.0
        )

    monkeypatch.setattr(plan_sweep, "plan_run", pretended)
    config = small_bert.run_config(rows=64, num_heads=8)
    config = dataclasses.replace(config, mesh=MeshConfig(dcn=dcn))
    plan_sweep.sweep(config, parse_topology(name, dcn))
    sizes = {mesh_sizes(mesh, 4) for mesh in asked}
    assert sizes == {(4, 1, 1), (2, 1, 2)}  # all on fsdp would leave no data axis to lie in two
    assert {mesh.dcn for mesh in asked} == {dcn}


def test_a_sweep_passes_over_what_the_compiler_has_no_room_for_on_the_chip(monkeypatch, capsys):
    def pretended(config, topology, dollars):
        if config.phases()[0].global_batch_size > 32:
            raise NoFastMemory("too much")
        fields = dict.fromkeys(TIMES) | {"tokens_per_second": 1.0}
        return {"mesh": {}, "fits": True, "bytes_per_device": 1, **fields}

    monkeypatch.setattr(plan_sweep, "plan_run", pretended)
    told = plan_sweep.sweep(small_bert.run_config(rows=64, num_heads=8), parse_topology("v5e:2x2"))
    assert {tuple(row["global_batch_size"]) for row in told["rows"]} == {(32,)}
    assert "too much" in capsys.readouterr().err


def test_a_sweep_scales_every_phase():
    phases = (PhaseConfig(9, 16, 24), PhaseConfig(1, 16, 12))
    config = small_bert.run_config()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, phases=phases))
    scaled = plan_sweep.with_batch(config, 0.5)
    assert [phase.global_batch_size for phase in scaled.phases()] == [12, 6]
    assert plan_sweep.with_batch(config, 1 / 24) is None


def plan(*words, **environment):
    command = [sys.executable, "-m", "bert_jax", "plan", "--config", str(ROOT / "configs" / "quickstart.py"), *words]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, env=variables | environment, capture_output=True, text=True, timeout=900)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_one_line_says_what_to_install():
    done = plan("--device", "v5e:16x16")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: plan compiles with libtpu, which is not installed; pip install 'bert-jax[tpu]'\n"


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (the extra tpu)")
def test_a_small_step_is_compiled_for_four_chips_that_are_not_here(tmp_path):
    small = ["--config.train.num_steps=600", "--config.train.global_batch_size=32"]
    small += [
        "--config.model.num_layers=2",
        "--config.model.hidden_size=128",
        "--config.model.num_heads=2",
        "--config.mesh.fsdp=4",
    ]
    done = plan("--device", "v5e:2x2", "--price", "2", "--dump", str(tmp_path / "dump"), *small)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["fits"] is True
    assert 1e6 < told["bytes_per_device"] < 2**30
    assert 1e-5 < told["step_seconds"] < 1 and 0 < told["mfu"] < 1
    assert told["tokens_per_second"] == pytest.approx(32 * 128 / told["step_seconds"])
    assert told["hours"] == pytest.approx(600 * told["step_seconds"] / 3600)
    assert told["cost"] == pytest.approx(told["hours"] * 4 * 2)
    assert told["price"] == {"dollars_per_chip_hour": 2.0, "source": "--price"} and told["loader"]["keeps_up"] is True
    (text,) = (tmp_path / "dump").glob("*.txt")
    assert text.read_text().startswith("HloModule")
    (memory,) = (tmp_path / "dump").glob("*.json")
    told_memory = json.loads(memory.read_text())
    assert told_memory.pop("bytes_per_device") == told["bytes_per_device"]
    assert told_memory == told["phases"][0]["memory"] and sum(told_memory.values()) == pytest.approx(
        told["bytes_per_device"], rel=0.02
    )
