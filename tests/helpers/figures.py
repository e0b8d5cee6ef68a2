"""Small models to draw figures of."""

from tests.helpers import small_mixture, small_models

NAMES = ["factorized", "mean_scale", "scale_only", "logistic", "joint_ar", "mixture"]


def model_named(name, monkeypatch):
    model = small_mixture.make() if name == "mixture" else small_models.shared(name)
    monkeypatch.setattr(model, "fingerprint", "0" * 64)
    return model
