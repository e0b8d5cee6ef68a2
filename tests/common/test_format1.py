"""Exported models of format 1 decode what they wrote, and may be exported again."""

import numpy as np

import mshyper.models
from common import coding, export
from tests.helpers import format1


def test_a_file_of_format_1_decodes():
    assert export.fingerprint(format1.FOLDER).startswith("5c73e105a24d1494")
    model, ntc = format1.load(), (format1.FOLDER / "image.ntc").read_bytes()
    decoded = coding.decode(model, ntc)[0]
    expected = np.load(format1.FOLDER / "latents.npz")
    assert {*decoded} == {*expected} and np.unique(expected["y"]).size > 50
    for name, value in decoded.items():
        np.testing.assert_array_equal(value, expected[name])
    assert coding.decompress(model, ntc).shape == (64, 96, 3)


def test_a_model_of_format_1_exported_again_codes_the_same_symbols(photo, tmp_path):
    format1.export_again(tmp_path / "2")
    assert export.read_config(tmp_path / "2")["format"] == export.FORMAT
    again = export.load(mshyper.models.MeanScaleHyperprior, tmp_path / "2")
    models = [format1.load(), again]
    assert models[0].fingerprint != models[1].fingerprint
    streams = [coding.compress(model, photo[:65, :100]) for model in models]
    assert streams[0] != streams[1] and len(streams[0]) == len(streams[1])  # they name the model
    first, second = (coding.decode(model, stream)[0] for model, stream in zip(models, streams))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
