"""What a compiled step sends between devices: read as a hand would, and what each axis of the mesh should send."""

import json
import math

import eight_devices
import jax
import jax.numpy as jnp
import pytest
import small_bert
from collectives_program import ROWS, SIZES

from bert_jax.collectives import Collective, collectives, sent_by_kind
from bert_jax.model.bert import abstract_params
from bert_jax.model.layers import product
from bert_jax.model.partitioning import MESH_AXES

LENGTH, HIDDEN, LAYERS = 16, SIZES["hidden_size"], SIZES["num_layers"]
TABLE = 1024 * HIDDEN * 4  # of words, whose gradients as input and as decoder are summed over devices apart
SCALARS = 64  # bytes: losses, counts and the norm of the gradient

TEXT = """HloModule step

%async_collective_fusion.1 (p: bf16[8,16]) -> bf16[32,16] {
  ROOT %all-gather.1 = bf16[32,16]{1,0:T(8,128)} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
}

%async_collective_fusion.2 (p: bf16[8,16]) -> bf16[32,16] {
  ROOT %all-gather.2 = bf16[32,16]{1,0} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
}

%all-reduce-scatter.3 (p: f32[32,16]) -> f32[8,16] {
  %all-reduce.9 = f32[32,16]{1,0} all-reduce(%p), channel_id=9, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %slice = f32[8,16]{1,0} dynamic-slice(%all-reduce.9, %i, %j)
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (t: (s32[], f32[])) -> (s32[], f32[]) {
  %start = bf16[32,16]{1,0} fusion(%x), kind=kCustom, calls=%async_collective_fusion.1
  %done = bf16[32,16]{1,0} fusion(%start), kind=kCustom, calls=%async_collective_fusion.2
  %both = (f32[10]{0}, /*index=1*/s8[6,2]{1,0}) all-reduce(%u, %v), channel_id=3, \
replica_groups=mesh['data'=2,'fsdp'=2,'tensor'=2] {'data','fsdp'}, to_apply=%add
}

%condition (t: (s32[], f32[])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (s32[], f32[]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %rs = f32[8,16]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
  %plain = f32[8,16]{1,0} reduce-scatter(%g), channel_id=11, replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
  %cp = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%q), channel_id=12, \
source_target_pairs={{0,1},{1,0}}
  %alone = f32[99]{0} all-reduce(%s), channel_id=13, replica_groups={{0},{1}}, to_apply=%add
}
"""


def test_a_programs_text_is_read_as_a_hand_would():
    assert sorted(collectives(TEXT), key=str) == sorted(
        [
            Collective("all-gather", 32 * 16 * 2, 4, 5, True),  # printed twice, done once a trip
            Collective("all-reduce", 10 * 4 + 12, 4, 5, False),
            Collective("reduce-scatter", 32 * 16 * 4, 4, 1, False),  # a fusion of an all-reduce and a slice
            Collective("reduce-scatter", 32 * 16 * 4, 4, 1, False),
            Collective("collective-permute", 16, 2, 1, True),
        ],
        key=str,
    )
    told = sent_by_kind(collectives(TEXT))
    assert told["all-gather"] == {"operations": 5, "bytes_sent": 5 * 1024 * 3 / 4}
    assert told["all-reduce"] == {"operations": 5, "bytes_sent": 5 * 2 * 52 * 3 / 4}


def test_groups_that_cannot_be_read_are_no_guess():
    with pytest.raises(ValueError, match="groups of devices"):
        collectives(TEXT.replace("replica_groups={{0},{1}}", "replica_groups=?"))


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    output = tmp_path_factory.mktemp("collectives") / "sent.json"
    return json.loads(eight_devices.run("collectives_program.py", output).read_text())


def array_bytes(part=None):
    """Bytes of every parameter of all the layers, of all others ("others"), or of both."""
    params = abstract_params(small_bert.model_config(**SIZES), "nsp")
    layers = params.pop("layers")
    leaves = jax.tree.leaves({"layers": layers, "others": params}.get(part, (layers, params)))
    return [4 * math.prod(leaf.shape) for leaf in leaves]


# Of the four products of a layer; biases and norms come on top.
KERNELS = 4 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * SIZES["intermediate_size"])


def gathered(operations, times):
    """Bytes of every gather that is done so often a step, once each."""
    return [one["bytes"] for one in operations if one["kind"] == "all-gather" and one["times"] == times]


def total(operations, kind, name="bytes"):
    return sum(one[name] * one["times"] for one in operations if one["kind"] == kind)


def test_data_parallel_steps_sum_every_gradient_once_and_send_nothing_else(sent):
    operations = sent["8x1x1"]
    assert {one["kind"] for one in operations} == {"all-reduce"}
    assert 0 <= total(operations, "all-reduce") - sum(array_bytes()) - TABLE <= SCALARS


def test_fsdp_gathers_weights_a_layer_at_a_time_and_no_activations(sent):
    operations = sent["1x8x1"]
    whole, summed = sum(array_bytes()), total(operations, "all-reduce") + total(operations, "reduce-scatter")
    # Forward and backward once each, within the loop over layers, where a layer's gradient sums leave it again.
    layer = sum(array_bytes("layers")) / LAYERS
    assert 2 * KERNELS <= sum(gathered(operations, LAYERS)) <= 2 * layer
    assert max(gathered(operations, LAYERS)) <= 3 * HIDDEN * HIDDEN * 4
    assert sum(gathered(operations, 1)) <= sum(array_bytes("others"))
    assert 0 <= summed - whole - TABLE <= 8 * SCALARS
    activations = ROWS * LENGTH * HIDDEN * 4
    assert max(one["bytes"] for one in operations if one["kind"] == "all-gather") <= TABLE < activations


def test_tensor_parallel_layers_sum_activations_and_never_gather_them(sent):
    operations = sent["1x1x8"]
    activations = ROWS * LENGTH * HIDDEN * 4
    # A layer: attention's and the MLP's results forward, the inputs of the MLP and of the projections, which are one
    # product, backward
    # (Shoeybi et al., 2019, section 3); and the embeddings once.
    assert total(operations, "all-reduce") <= (4 * LAYERS + 1) * activations * 1.03
    assert max(one["bytes"] for one in operations if one["kind"] == "all-gather") < activations / 4


def test_a_mesh_of_all_axes_gathers_shares_of_layers_and_sums_shares_of_activations(sent):
    operations = sent["2x2x2"]
    activations = ROWS // 4 * LENGTH * HIDDEN * 4
    layer = sum(array_bytes("layers")) / LAYERS
    assert KERNELS <= sum(gathered(operations, LAYERS)) <= layer  # halves, forward and backward
    assert max(gathered(operations, LAYERS) + gathered(operations, 1)) <= TABLE / 2 < activations
    in_loop = [one for one in operations if one["kind"] == "all-reduce" and one["times"] == LAYERS]
    assert [one["group"] for one in in_loop if one["bytes"] == activations] == [2] * 4
    assert sum(one["bytes"] for one in in_loop if one["bytes"] != activations) <= layer


def test_weights_travel_in_the_dtype_of_the_products():
    mesh = jax.sharding.AbstractMesh((1, 8, 1), MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)

    def loss(kernel, x):
        return jnp.sum(product("BSD,DF->BSF", jnp.bfloat16, ("embed", "mlp"), x, kernel))

    with jax.sharding.use_abstract_mesh(mesh):
        program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(jnp.ones((64, 128)), jnp.ones((8, 16, 64))))
    gathers = [line.split("=")[0].split(":")[1].split("[")[0] for line in program.splitlines() if "_constraint" in line]
    assert gathers == ["bf16", "bf16"], program  # forward and backward
