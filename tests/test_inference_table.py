"""The table of inference methods: rows, means, and going on from a file."""

import json

import pytest

from benchmarks import inference_table
from common import coding, images, zoo


def row(method, image, bpp, mse, steps):
    return {"method": method, "steps": steps, "image": image, "bytes": 1, "bpp": bpp,
            "estimated_bpp": bpp, "psnr": 30.0, "mse": mse, "rd_loss": bpp + 0.01 * mse,
            "seconds": 1.0}


def test_means_are_over_images_and_changes_against_the_model_as_it_is():
    rows = [row("base", "a", 1.0, 100, 0), row("base", "b", 2.0, 200, 0),
            row("sga", "a", 1.0, 50, 500), row("sga", "b", 2.0, 100, 500),
            row("sga", "b", 9.0, 900, 100), row("map", "a", 1.0, 100, 500),
            row("base", "c", 9.0, 900, 0)]
    table = inference_table.summary(rows, ["a", "b"], ["base", "sga", "map"], 500)
    assert [line["row"] for line in table] == ["M1", "M3"], "map lacks an image"
    sga, base = table
    assert (base["images"], base["bpp"], base["rd_loss"]) == (2, 1.5, 3.0)
    assert sga["rd_loss"] == 2.25 and sga["change"] == "-25.00%"
    assert (sga["steps"], base["steps"]) == ("500", "0")


@pytest.mark.usefixtures("without_graphs")
def test_command(photo, tmp_path, one_rate_models, capsys):
    for name in "ab":
        images.write(tmp_path / f"{name}.png", photo[100:164, 200:264])
    arguments = ["--dataset", str(tmp_path), "--steps", "2", "--output", str(tmp_path / "table"),
                 "--model", str(one_rate_models[1])]
    inference_table.main([*arguments, "--methods", "base", "sga"])
    table = json.loads((tmp_path / "table.json").read_text())
    first = table["rows"]
    assert [(r["method"], r["image"]) for r in first] == [
        ("base", "a.png"), ("base", "b.png"), ("sga", "a.png"), ("sga", "b.png")]
    for each in first:
        assert each["bpp"] == 8 * each["bytes"] / 64**2
        assert each["rd_loss"] == pytest.approx(each["bpp"] + table["rd_lambda"] * each["mse"])
    inference_table.main([*arguments, "--methods", "base", "sga", "unoise"])
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert rows[:4] == first and len(rows) == 6
    assert "A3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        inference_table.main([*arguments, "--model", str(one_rate_models[0])])
    assert "another" in capsys.readouterr().err


def test_a_model_with_levels_codes_at_the_middle_one(photo, tmp_path, levels_model):
    images.write(tmp_path / "a.png", photo[100:164, 200:264])
    inference_table.main(["--dataset", str(tmp_path / "a.png"), "--model", str(levels_model),
                          "--methods", "base", "--output", str(tmp_path / "table")])
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["rd_lambda"] == pytest.approx((0.0015 * 0.06)**0.5)
    base, = table["rows"]
    ntc = coding.compress(zoo.load(levels_model), photo[100:164, 200:264], level=10)
    assert base["bytes"] == len(ntc)
    assert base["rd_loss"] == pytest.approx(base["bpp"] + table["rd_lambda"] * base["mse"])


def test_the_summary_needs_no_base():
    assert inference_table.summary([row("sga", "a", 1, 1, 5)], ["a"], ["sga"], 5)[0]["change"] == ""
