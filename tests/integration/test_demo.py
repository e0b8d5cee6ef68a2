"""The demo, with a few steps and one small photograph only."""

import json

import pytest

import demo
from common import data, export, images, zoo
from mshyper.configs import demo as demo_config


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_demo(tmp_path, monkeypatch, capsys):
    config = demo_config.get_config()
    first = data.find(config.data.validation)[0]
    (tmp_path / "photos").mkdir()
    images.write(tmp_path / "photos" / first.name, first.read()[:256, 128:384])
    config.data.validation = str(tmp_path / "photos")
    config.train.num_steps = 12
    config.train.checkpoint_interval = 6
    config.train.optimizer.update(cls="Adam", learning_rate=5e-4)
    config.data.update(batch_size=2, patch_size=64)
    monkeypatch.setattr(demo.demo, "get_config", lambda: config)
    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "demo")
    for name in "run/metrics.jsonl", f"astronaut-{demo.QUALITIES[0]}.ntc":  # of an earlier demo
        (tmp_path / "demo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "demo" / name).write_text("{}\n")
    demo.main([])
    out = capsys.readouterr().out
    assert "falls" in out and "JPEG" in out and zoo.DEFAULT in out
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert files == {"run", "training.png", "comparison.png", *(
        f"astronaut-{quality}{suffix}" for quality in demo.QUALITIES
        for suffix in (".ntc", ".jpg", ".decoded.png"))}
    sizes = []
    for quality in demo.QUALITIES:
        path = tmp_path / "demo" / f"astronaut-{quality}"
        assert images.read(path.with_suffix(".decoded.png")).shape == (256, 256, 3)
        sizes.append(path.with_suffix(".ntc").stat().st_size)
        assert path.with_suffix(".jpg").stat().st_size == pytest.approx(sizes[-1], rel=0.1)
    assert sizes == sorted(sizes)
    lines = map(json.loads, (tmp_path / "demo/run/metrics.jsonl").read_text().splitlines())
    losses = [line["rd_loss"] for line in lines if line["split"] == "validation"]
    assert len(losses) == 2 and losses[-1] < losses[0]


def test_no_release_was_chosen_by_or_trained_on_what_the_demo_shows():
    config = demo_config.get_config()
    assert not config.train.warm_start, "weights are fresh"
    for path in export.released_models().values():
        their = export.read_config(path)["data"]
        assert config.data.validation not in (their["train"], their["validation"], "photos")
