"""The demo, with a few steps only."""

import pytest

import demo
from common import images
from mshyper.configs import demo as demo_config


@pytest.mark.slow
def test_demo(tmp_path, monkeypatch, capsys):
    config = demo_config.get_config()
    config.train.num_steps = 4
    config.train.checkpoint_interval = 2
    config.data.batch_size = 1
    monkeypatch.setattr(demo.demo, "get_config", lambda: config)
    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "demo")
    for _ in range(2):  # the second time over the first's files
        demo.main([])
        out = capsys.readouterr().out
        assert "before" in out and "after" in out and "JPEG" in out
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert files == {"run", "coffee.ntc", "coffee.jpg", "coffee.decoded.png", "comparison.png"}
    assert images.read(tmp_path / "demo" / "coffee.decoded.png").shape == (400, 600, 3)
    sizes = [(tmp_path / "demo" / name).stat().st_size for name in ("coffee.ntc", "coffee.jpg")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
