import json

import pytest
import tensorflow as tf

from benchmarks import complexity, receptive_fields
from common import transforms
from common.errors import UserError
from common.transforms.attention import non_local
from common.transforms.composites import Transform
from common.transforms.layers import conv
from hific.configs import stage1_low, stage1_med
from mshyper.configs import jpegl

HEIGHT, WIDTH = complexity.HEIGHT, complexity.WIDTH


@pytest.fixture(scope="module")
def saved() -> dict:
    return json.loads(complexity.OUTPUT.read_text())["configs"]


def config(cls, channels=None, **arguments):
    return dict(cls=cls, **arguments) | ({"channels": channels} if channels else {})


def cost_per_pixel(transform, stride, channels):
    counted = complexity.cost(transform, HEIGHT // stride, WIDTH // stride, channels)
    return counted, counted.flops / (HEIGHT * WIDTH)


# --- Parameters and FLOPs ---------------------------------------------------------------------


# FLOPs of Yang & Mandt 2023, results published with github.com/mandt-lab/shallow-ntc
# (flops_per_pixel.csv).
@pytest.mark.parametrize("described, stride, channels, flops, parameters", [
    (config("CNNAnalysis", (192, 192, 192, 320)), 1, 3, 163264.25, 3_394_496),
    (config("CNNSynthesis", (192, 192, 192, 3)), 16, 320, 163266.0, 3_394_179),
    (config("CNNAnalysis", (192, 192, 192, 320), activation="gdn"), 1, 3, 187583.098, None),
    (config("CNNSynthesis", (192, 192, 192, 3), activation="igdn"), 16, 320, 187584.848, None),
    (config("HyperAnalysis", (320, 320, 320)), 16, 320, 13451.640625, 6_042_560),
    (config("HyperSynthesis", (320, 480, 640)), 64, 320, 30354.6875, 9_166_240),
    (config("JPEGLikeSynthesis"), 16, 320, 2433.0, 311_043),
    (config("TwoLayerResSynthesis", (12, 3)), 16, 320, 10680.001, 1_299_003),
    (config("ElicAnalysis"), 1, 3, 510845.5, 7_337_792),
    (config("ElicSynthesis"), 16, 320, 510847.25, 7_337_475),
])
def test_published_flops(described, stride, channels, flops, parameters):
    counted, per_pixel = cost_per_pixel(transforms.build(described), stride, channels)
    assert per_pixel == pytest.approx(flops, abs=1e-3)
    assert parameters in (None, counted.parameters)


@pytest.mark.parametrize("described, stride, channels, flops, parameters", [
    (config("TwoLayerSynthesis", (12, 3)), 16, 320, 5604, 650_031),
    (config("TwoLayerSynthesis", (24, 3)), 16, 320, 11349, 1_300_347),
    (config("TwoLayerSynthesis", (48, 3)), 16, 320, 23271, 2_601_843),
    (config("TwoLayerResSynthesis", (12, 3), residual="d2s"), 16, 320, 6381, 667_935),
    (config("JPEGLikeHyperSynthesis", 640), 64, 320, 3602.5, 7_373_440),
    (config("BLS2017Analysis", (256, 256, 256)), 1, 3, 82077, 3_471_104),
    (config("BLS2017Synthesis", (256, 256, 3)), 16, 256, 82080, 3_471_107),
])
def test_flops_and_parameters(described, stride, channels, flops, parameters):
    counted, per_pixel = cost_per_pixel(transforms.build(described), stride, channels)
    # The profiler counts what GDN does with its parameters too.
    assert per_pixel == pytest.approx(flops, abs=0.02)
    assert counted.parameters == parameters


def test_masked_taps_are_not_computed():
    context = transforms.build(config("MaskedContext", 384, kernel=5))
    counted = complexity.cost(context, 32, 48, 192)
    assert counted.parameters == 25 * 192 * 384 + 384
    assert counted.masked_parameters == 13 * 192 * 384
    used = 32 * 48 * (2 * 12 * 192 * 384 + 384)
    masking = 25 * 192 * 384
    assert counted.flops == pytest.approx(used + masking, abs=10)


def test_operations_unknown_to_the_profiler_count_where_they_matter():
    relu = tf.keras.Sequential([tf.keras.layers.Activation("relu")])
    assert complexity.cost(relu, 8, 8, 4).flops == 8 * 8 * 4
    convolved = tf.keras.Sequential([conv(64, 5, activation="relu")])
    assert complexity.cost(convolved, 8, 8, 64).flops == 8 * 8 * (2 * 25 * 64 * 64 + 64)
    with pytest.raises(ValueError, match="operation Cumsum"):
        complexity.cost(tf.keras.Sequential([tf.keras.layers.Lambda(tf.cumsum)]), 8, 8, 4)


# --- Receptive fields -------------------------------------------------------------------------


@pytest.mark.parametrize("described, stride, channels, options", [
    (config("CNNAnalysis"), 1, 3, dict(align="keras")),
    (config("CNNSynthesis"), 16, 320, dict(align="keras")),
    (config("HyperAnalysis"), 16, 192, dict(padding="reflect")),
    (config("HiFiCAnalysis"), 1, 3, dict(padding="reflect")),
    (config("HiFiCSynthesis", blocks=1), 16, 220, dict(padding="reflect", last_activation="tanh")),
])
def test_alignment_and_padding_cost_nothing(described, stride, channels, options):
    (plain, flops), (other, same) = (
        cost_per_pixel(transforms.build({**described, **arguments}), stride, channels)
        for arguments in ({}, options))
    assert other.parameters == plain.parameters
    assert same == pytest.approx(flops, rel=2e-3)


def test_gdn_of_squares_costs_a_root_more():
    costs = [cost_per_pixel(transforms.build(
        config("CNNSynthesis", (64, 3), activation=name)), 4, 64)[1]
        for name in ("igdn", "igdn_square")]
    assert 64 / 4 <= costs[1] - costs[0] <= 2 * 64 / 4


def field(extent, whole_image=False, largest=False):
    return {"height": extent, "width": extent, "whole_image": whole_image, "largest": largest}


def test_receptive_field_of_four_layers():
    # 1 + 4 (1 + 2 + 4 + 8)
    analysis = transforms.build(config("CNNAnalysis", (4, 4, 4, 4)))
    assert receptive_fields.receptive_field([analysis]) == field(61)
    synthesis = transforms.build(config("CNNSynthesis", (4, 4, 4, 3)))
    assert receptive_fields.influence(synthesis, 4) == field(61)


def test_receptive_fields_in_the_alignment_of_keras_are_as_large():
    analysis = transforms.build(config("CNNAnalysis", (4, 4, 4, 4), align="keras"))
    assert receptive_fields.receptive_field([analysis]) == field(61)
    synthesis = transforms.build(config(
        "CNNSynthesis", (4, 4, 4, 3), align="keras", activation="igdn_square"))
    assert receptive_fields.influence(synthesis, 4) == field(61)


def test_receptive_field_of_the_jpeg_like_synthesis():
    synthesis = transforms.build(config("JPEGLikeSynthesis"))
    assert receptive_fields.influence(synthesis, 4) == field(18)


def test_receptive_field_with_squeeze_and_excitation_is_the_image():
    # That of four layers, and 3x3 at strides 2, 4 and 8.
    analysis = transforms.build(config("AdvDNICMod1Analysis", (4, 4, 4, 4)))
    expected = field(61 + 2 * (2 + 4 + 8), whole_image=True)
    assert receptive_fields.receptive_field([analysis]) == expected


def test_receptive_field_with_attention_is_the_window():
    analysis = Transform([conv(4, 16, stride=16), non_local(4, window=4)], out_channels=4)
    analysis.stride = 16
    assert receptive_fields.receptive_field([analysis]) == field(4 * 16, largest=True)


# --- Results ----------------------------------------------------------------------------------


def test_saved_results_are_those_of_the_configs(saved):
    assert {path: result["model"] for path, result in saved.items()} == {
        path: config.model for path, config in complexity.configurations().items()}


def test_the_page_has_the_saved_results(saved):
    text = complexity.PAGE.read_text()
    assert complexity.replace_table(text, complexity.page_table(saved)) == text
    for path in complexity.configurations():
        assert f"| `{path}` |" in text


@pytest.mark.parametrize("package", ["mshyper", "joint_ar"])
def test_measuring_again_gives_the_saved_results(saved, package):
    path = f"{package}/configs/small.py"
    result = complexity.measure(package, complexity.configurations()[path].model)
    assert result == saved[path]
    assert path in complexity.render({path: result})


def test_a_config_without_title_and_paper_is_an_error(monkeypatch):
    monkeypatch.delattr(jpegl, "TITLE")
    with pytest.raises(UserError, match="^mshyper/configs/jpegl.py: no TITLE and PAPER"):
        complexity.configurations()


def test_a_config_with_the_model_of_another_needs_none(monkeypatch):
    before = complexity.configurations()
    monkeypatch.delattr(stage1_low, "TITLE")
    with pytest.raises(UserError, match="hific/configs/stage1_med.py"):
        complexity.configurations()
    monkeypatch.setattr(stage1_med, "TITLE", "HiFiC", raising=False)
    monkeypatch.setattr(stage1_med, "PAPER", "Mentzer", raising=False)
    found = complexity.configurations()
    assert len(found) == len(before)
    assert found["hific/configs/stage1_med.py"].model == before["hific/configs/stage1_low.py"].model


def test_a_config_for_bits_back_coding_has_no_row(monkeypatch):
    described = jpegl.get_config()
    described.module = "bits_back"
    monkeypatch.setattr(jpegl, "get_config", lambda: described)
    monkeypatch.delattr(jpegl, "TITLE")
    assert not {"mshyper/configs/jpegl.py", "mshyper/configs/small_bb.py"} & {
        *complexity.configurations()}


def test_a_page_without_markers_is_an_error():
    with pytest.raises(UserError, match="docs/models.md has no"):
        complexity.replace_table("no table", "table")
