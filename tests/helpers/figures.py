"""Small models to draw figures of, and the figures that are written."""

from matplotlib.figure import Figure

from tests.helpers import small_mixture, small_models

NAMES = ["factorized", "mean_scale", "scale_only", "logistic", "joint_ar", "mixture"]


def model_named(name, monkeypatch):
    model = small_mixture.make() if name == "mixture" else small_models.shared(name)
    monkeypatch.setattr(model, "fingerprint", "0" * 64)
    return model


def keep_figures(monkeypatch):
    """A list of all figures that are written from now on."""
    written, savefig = [], Figure.savefig

    def keep(figure, *args, **options):
        written.append(figure)
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return written
