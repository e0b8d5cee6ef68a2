"""Which results of a training are exported."""

import types

import pytest

from common import best_model, export, runs
from common.errors import ConversionError
from tests.helpers.tiny import tiny_config


@pytest.fixture
def exported(monkeypatch, tmp_path):
    """Calls `update` with validation losses of steps; returns the steps that were exported."""
    def call(losses, comparable=True, fails=()):
        saved = []

        def save(result, record, folder, dtype):
            assert folder == tmp_path / "model"
            if step in fails:
                raise ConversionError("too large")
            saved.append(step)

        monkeypatch.setattr(export, "save", save)
        monkeypatch.setattr(runs, "record", lambda cls, config: {"train": {}})
        config = tiny_config()
        config.train.num_steps = len(losses)
        trainer = types.SimpleNamespace(result=None, rate_control=None, comparable=comparable)
        best = best_model.BestModel(tmp_path, config, trainer)
        for step, loss in enumerate(losses, 1):
            best.update(step, loss)
        return saved

    return call


def test_what_is_better_than_all_before_is_exported(exported):
    assert exported([3.0, 2.0, 2.5, 2.0, 1.0]) == [1, 2, 5]


def test_each_is_exported_where_losses_do_not_say_which_is_better(exported):
    assert exported([None, None]) == [1, 2]
    assert exported([3.0, 4.0, 2.0], comparable=False) == [1, 2, 3]


def test_what_cannot_be_exported_is_an_error_at_the_last_step_only(exported, caplog):
    assert exported([3.0, 2.0, 2.5], fails=[2]) == [1, 3]  # what failed is not the best
    assert "step 2 is not exported: too large" in caplog.text
    with pytest.raises(ConversionError):
        exported([3.0, 2.0], fails=[2])
