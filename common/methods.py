"""Methods of refinement (common/refinement.py) by name.

They are those of Yang, Bamler & Mandt 2020 (arXiv 2006.04240) and Yang & Mandt 2023.
"""

import math

from ml_collections import config_dict

from common import arguments


def _method(quantizer, *, temperature=None, num_steps=2000, travel=10.0, schedule=None,
            largest_rate=0.05, patience=0):
    return config_dict.ConfigDict(dict(
        quantizer=quantizer,
        temperature=temperature or {},  # arguments of schedules.temperature
        num_steps=num_steps,
        travel=travel,  # learning rate of Adam times num_steps: how far a latent can get
        schedule=schedule or dict(cls="Constant"),
        largest_rate=largest_rate,  # of Adam, when there are few steps: more finds nothing better
        check_interval=10,
        patience=patience,  # checks in a row without a better one, after which to stop; 0: never
        seed=0,
    ))


# Yang et al. 2020: rate 1e-3 a step from step 700 on, of 2000 steps.
_TEMPERATURE_2020 = dict(rate=2.0, start=0.35, largest=0.5)

METHODS = {
    # In a quarter of the published steps, half of the way: Adam's rate is 0.01. With more, it finds
    # less. See "Steps and rates of SGA" in benchmarks/README.md.
    "sga": lambda: _method(
        "StochasticGumbel", temperature=_TEMPERATURE_2020, num_steps=500, travel=5.0,
        largest_rate=0.02),
    "sga_yang2020": lambda: _method("StochasticGumbel", temperature=_TEMPERATURE_2020),
    # 3000 steps: rate 5e-4 a step from step 200 on.
    "sga_yang2023": lambda: _method(
        "StochasticGumbel", num_steps=3000, travel=15.0,
        temperature=dict(rate=1.5, start=1 / 15, largest=0.5),
        schedule=dict(cls="WarmupDrop", warmup=0.0, drop_at=0.9, drop_factor=0.1)),
    "map": lambda: _method("Continuous", patience=1),
    "ste": lambda: _method("StraightThrough", travel=0.2, patience=1),
    "unoise": lambda: _method("UniformNoise"),
    "danneal": lambda: _method(
        # exp(-4e-3 t), but never above 0.2.
        "DeterministicAnnealing", temperature=dict(rate=8.0, start=math.log(5) / 8, largest=0.2)),
}


def method(name: str) -> config_dict.ConfigDict:
    """The method called `name`.

    Raises:
      UserError: there is no such method.
    """
    if name not in METHODS:
        raise arguments.unknown("method", name, METHODS)
    return METHODS[name]()
