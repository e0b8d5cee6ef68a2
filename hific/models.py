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

import mshyper.models
from common import conditional, entropy


class HiFiC(mshyper.models.Hyperprior):
    """A mean-scale hyperprior whose rate may be that of a logistic distribution.

    Args:
      analysis, synthesis, hyper_analysis, hyper_synthesis: transforms as in `transforms.build`.
      likelihood: of y, "normal" as in the paper, or "logistic".
      use_offset: centre the integer grid of each channel of z on its median.
    """

    def __init__(self, analysis, synthesis, hyper_analysis, hyper_synthesis,
                 likelihood: str = "normal", use_offset: bool = True):
        super().__init__(analysis, synthesis, hyper_analysis, hyper_synthesis)
        self.z_prior = entropy.DeepFactorized(self.hyper_analysis.out_channels, use_offset)
        self.y_prior = conditional.MeanScale(entropy.scale_table(likelihood))
