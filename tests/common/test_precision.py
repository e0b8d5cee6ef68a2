import numpy as np
import pytest
import tensorflow as tf

from common import data, images, metrics, precision, transforms
from common.errors import UserError

AMX = "flags\t\t: fpu sse2 avx2 avx512f amx_tile amx_bf16 avx512_bf16\n"
ZEN4 = "flags\t\t: fpu sse2 avx2 avx512f avx512_bf16\n"
OLD = "flags\t\t: fpu sse2 avx2 avx512f avx512_vnni\nbugs\t\t: amx_bf16\n"


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Has it look like a machine with that /proc/cpuinfo; None for a system that has none."""
    def pretend(cpuinfo, gpus=()):
        path = tmp_path / "cpuinfo"
        if cpuinfo is not None:
            path.write_text(f"processor\t: 0\n{cpuinfo}\nprocessor\t: 1\n{cpuinfo}")
        monkeypatch.setattr(precision, "_CPUINFO", path)
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(gpus))
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: gpu)
        precision._of_cpu.cache_clear()

    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    yield pretend
    precision._of_cpu.cache_clear()


@pytest.mark.parametrize("cpuinfo, hardware", [
    (AMX, "amx_bf16"), (ZEN4, "avx512_bf16"), (OLD, None), (None, None)])
def test_auto_is_bfloat16_where_the_processor_has_it(processor, cpuinfo, hardware, caplog):
    processor(cpuinfo)
    assert precision.hardware() == hardware
    assert precision.choose("auto") == ("bfloat16" if hardware else "float32")
    assert not caplog.records


@pytest.mark.parametrize("capabilities, hardware", [
    ([(8, 0)], "compute capability 8.0"), ([(9, 0), (8, 6)], "compute capability 8.6"),
    ([(7, 5)], None), ([(9, 0), (7, 0)], None)])
def test_with_gpus_they_decide(processor, capabilities, hardware):
    processor(OLD if hardware else AMX, [dict(compute_capability=each) for each in capabilities])
    assert precision.hardware() == hardware
    assert precision.choose("auto") == ("bfloat16" if hardware else "float32")


def test_without_onednn_there_is_no_fast_path(processor, monkeypatch):
    processor(AMX)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert precision.choose("auto") == "float32"


@pytest.mark.parametrize("name", ["bfloat16", "mixed_bfloat16"])
def test_bfloat16_elsewhere_is_done_with_a_warning(processor, name, caplog):
    processor(OLD)
    assert precision.choose(name) == "bfloat16"
    record, = caplog.records
    assert "two times as long as float32" in record.getMessage()
    caplog.clear()
    processor(ZEN4)
    assert precision.choose(name) == "bfloat16" and not caplog.records


def test_what_is_named_is_taken(processor):
    for cpuinfo in (AMX, OLD):
        processor(cpuinfo)
        assert precision.choose("float32") == "float32"


def test_unknown_names():
    with pytest.raises(UserError, match="'float16'; known: auto, float32, bfloat16"):
        precision.choose("float16")


def test_the_policy_ends_with_the_block():
    with pytest.raises(KeyError), precision.policy("bfloat16"):
        assert tf.keras.layers.Dense(1).compute_dtype == "bfloat16"
        raise KeyError
    assert tf.keras.layers.Dense(1).compute_dtype == "float32"


def haar(precision_):
    """A codec of high rates: four layers of Haar wavelets, which images pass unchanged."""
    with precision.policy(precision_):
        analysis = transforms.build(dict(
            cls="CNNAnalysis", channels=(12, 48, 192, 768), activation="linear"))
        synthesis = transforms.build(dict(
            cls="CNNSynthesis", channels=(192, 48, 12, 3), activation="linear"))
        synthesis(analysis(tf.zeros([1, 16, 16, 3])))
    wavelet = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    for k, (down, up) in enumerate(zip(analysis.layers, synthesis.layers[::-1])):
        kernel = np.einsum("pa,qb,ij->abipqj", wavelet, wavelet, np.eye(3 * 4**k))
        kernel = kernel.reshape(2, 2, 3 * 4**k, -1)
        for layer, values in ((down, kernel), (up, np.swapaxes(kernel, 2, 3))):
            layer.kernel_parameter.assign(
                np.pad(values, [[2, 1], [2, 1], [0, 0], [0, 0]]))
    return analysis, synthesis


def test_images_of_40_db_lose_little(photo):
    image, step = photo[:384, :576], 0.041
    x = data.to_float(image)[None] - 0.5
    codecs = {name: haar(name) for name in ("float32", "bfloat16")}
    latents = {name: np.round(analysis(x) / step) * np.float32(step)
               for name, (analysis, _) in codecs.items()}
    decoded = {(encoder, decoder): images.to_uint8(codecs[decoder][1](y)[0] + 0.5).numpy()
               for encoder, y in latents.items() for decoder in codecs}
    psnr = {pair: metrics.psnr(image, picture) for pair, picture in decoded.items()}
    assert 39 < psnr["float32", "float32"] < 41
    assert len({*psnr.values()}) == 4
    assert psnr["float32", "bfloat16"] > psnr["float32", "float32"] - 0.05
    assert psnr["bfloat16", "float32"] > psnr["float32", "float32"] - 0.05
    difference = np.abs(decoded["float32", "float32"].astype(int) - decoded["float32", "bfloat16"])
    assert np.mean(difference > 1) < 0.003
