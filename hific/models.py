"""HiFiC, high-fidelity generative image compression (Mentzer et al. 2020).

A mean-scale hyperprior, see mshyper/models.py, with transforms of its own (the synthesis is called
the generator) and a training of its own:

                ┌──────────┐  y   ┌───┐  ŷ   ┌───────────┐
          x ─┬─►│ analysis ├─────►│ Q ├──┬──►│ synthesis ├──┬─► x̂    MSE(x, x̂), LPIPS(x, x̂)
             │  └──────────┘      └─▲─┘  │   └───────────┘  │
             │             mean, scale   │                  │
             │    as in mshyper/models   │                  ▼
             │                           │  3x3, x16   ┌───────────────┐
             │                           └────────────►│ discriminator ├─► is x, or x̂, an image
             └────────────────────────────────────────►│ (in training) │   that belongs to ŷ?
                                                       └───────────────┘

The discriminator belongs to the objective, not to the codec: hific/adversarial.py.
"""

from mshyper.models import MeanScaleHyperprior


class HiFiC(MeanScaleHyperprior):
    """A mean-scale hyperprior, to be trained with a discriminator or without."""
