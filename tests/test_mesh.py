"""One device and eight fake devices in several meshes do the same training, and hold their share of the state only."""

import json

import eight_devices
import numpy as np
import pytest
from property_tests import LONG

REFERENCE = "1x1x1x1"
MESHES = {"8x1x1x1": 1, "1x8x1x1": 8, "1x1x8x1": 8, "2x2x2x2": 4}  # ways the state is cut
if LONG:
    MESHES["2x2x2x1"] = 4


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return dict(np.load(eight_devices.run("mesh_program.py", tmp_path_factory.mktemp("mesh") / "results.npz")))


def values(results, mesh, part):
    return {key.removeprefix(f"{mesh}/{part}/"): x for key, x in results.items() if key.startswith(f"{mesh}/{part}/")}


@pytest.mark.parametrize("mesh", MESHES)
def test_metrics_agree_with_one_device(results, mesh):
    for start in ("drawn", "given"):
        for k in range(3):
            expected = values(results, REFERENCE, f"{start}/{k}")
            got = values(results, mesh, f"{start}/{k}")
            assert set(got) == set(expected) and len(expected) == 10
            for name, value in expected.items():
                if value.dtype == np.int32 or "accuracy" in name:
                    np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)
                else:
                    # Rounding of the first update's sign-like steps grows a little with every step.
                    np.testing.assert_allclose(got[name], value, rtol=(3e-6, 3e-5, 1e-4)[k], err_msg=name)


@pytest.mark.parametrize("mesh", MESHES)
def test_gradients_agree_tensor_by_tensor(results, mesh):
    for start in ("drawn", "given"):
        expected, got = values(results, REFERENCE, f"{start}/grad"), values(results, mesh, f"{start}/grad")
        whole = np.sqrt(sum(np.sum(x.astype(np.float64) ** 2) for x in expected.values()))
        assert len(expected) == 30 and set(got) == set(expected)
        for name, want in expected.items():
            scale = np.linalg.norm(want)
            scale = whole if scale < 1e-5 * whole else scale
            assert np.linalg.norm((got[name] - want).astype(np.float64)) <= 5e-5 * scale, name


@pytest.mark.parametrize("mesh", MESHES)
def test_evaluation_agrees(results, mesh):
    expected, got = values(results, REFERENCE, "eval"), values(results, mesh, "eval")
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(("mesh", "ways"), MESHES.items())
def test_first_parameters_do_not_depend_on_the_mesh_and_nobody_holds_more_than_its_share(results, mesh, ways):
    np.testing.assert_allclose(results[f"{mesh}/initial"], results[f"{REFERENCE}/initial"], rtol=0, atol=1e-7)
    assert results[f"{mesh}/device_bytes"] <= results[f"{mesh}/bytes"] / ways * 1.05


def test_the_attention_kernel_draws_and_computes_alike_on_any_mesh(tmp_path):
    results = json.loads(eight_devices.run("kernel_mesh_program.py", tmp_path / "results.json").read_text())
    expected = {heads: results.pop(f"{heads} einsum (1, 1, 1)") for heads in ("4", "6")}
    assert len(results) == 3
    for name, got in results.items():  # other dropped weights would be off by far more
        np.testing.assert_allclose(got[:2], expected[name[0]][:2], rtol=2e-3, err_msg=name)
        np.testing.assert_allclose(
            got[2:], expected[name[0]][2:], rtol=2e-2, err_msg=name
        )  # a share of the rows is off by half
