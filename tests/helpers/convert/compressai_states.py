"""State dicts of CompressAI's models, with random weights."""

import collections

import numpy as np

N, M = 8, 12


class State(collections.OrderedDict):
    """A state dict of random weights, in the order in which PyTorch would have them."""

    def __init__(self, seed=0):
        super().__init__()
        self.random = np.random.default_rng(seed)

    def add(self, name, *shape, scale=1.0, centre=0.0):
        self[name] = (centre + scale * self.random.standard_normal(shape)).astype(np.float32)

    def add_conv(self, name, outputs, inputs, kernel, transposed=False):
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        self.add(f"{name}.weight", *shape, kernel, kernel,
                 scale=1 / np.sqrt(inputs * kernel**2 / (4 if transposed else 1)))
        self.add(f"{name}.bias", outputs, scale=0.1)

    def add_gdn(self, name, channels):
        self.add(f"{name}.beta", channels, scale=0.1, centre=1.0)
        self[f"{name}.gamma"] = np.abs(
            0.3 * np.eye(channels) + 0.1 * self.random.standard_normal([channels] * 2)
        ).astype(np.float32)

    def add_bottleneck(self, channels):
        sizes = (1, 3, 3, 3, 3, 1)
        for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
            self.add(f"entropy_bottleneck.matrices.{i}", channels, outputs, inputs, scale=0.3)
        for i, outputs in enumerate(sizes[1:]):
            self.add(f"entropy_bottleneck.biases.{i}", channels, outputs, 1, scale=0.3)
        for i, outputs in enumerate(sizes[1:-1]):
            self.add(f"entropy_bottleneck.factors.{i}", channels, outputs, 1, scale=0.3)
        self.add("entropy_bottleneck.quantiles", channels, 1, 3)
        # Buffers that no import needs, some of them empty until update().
        self["entropy_bottleneck._offset"] = np.zeros(0, np.int32)
        self["entropy_bottleneck.likelihood_lower_bound.bound"] = np.full(1, 1e-9, np.float32)


def four_layers(name, mean_channels=None):
    """bmshj2018_factorized and _hyperprior, mbt2018_mean and mbt2018."""
    state = State()
    for i, (outputs, inputs) in enumerate(((N, 3), (N, N), (N, N), (M, N))):
        state.add_conv(f"g_a.{2 * i}", outputs, inputs, 5)
        if i < 3:
            state.add_gdn(f"g_a.{2 * i + 1}", outputs)
    for i, (outputs, inputs) in enumerate(((N, M), (N, N), (N, N), (3, N))):
        state.add_conv(f"g_s.{2 * i}", outputs, inputs, 5, transposed=True)
        if i < 3:
            state.add_gdn(f"g_s.{2 * i + 1}", outputs)
    state["g_a.6.weight"] *= 10  # so that few elements of y round to 0
    if name == "bmshj2018-factorized":
        state.add_bottleneck(M)
        return state
    for i, (inputs, kernel) in enumerate(((M, 3), (N, 5), (N, 5))):
        state.add_conv(f"h_a.{2 * i}", N, inputs, kernel)
    state["h_a.4.weight"] *= 4
    widths = (N, N, M) if name == "bmshj2018-hyperprior" else (M, 3 * M // 2, 2 * M)
    for i, (outputs, inputs) in enumerate(zip(widths, (N, *widths))):
        state.add_conv(f"h_s.{2 * i}", outputs, inputs, 5 if i < 2 else 3, transposed=i < 2)
    state["h_s.4.bias"][:M] += 1  # scales come first
    if name == "mbt2018":
        add_context(state, M)
    state.add_bottleneck(N)
    return state


def add_context(state, m):
    state.add_conv("context_prediction", 2 * m, m, 5)
    state["context_prediction.weight"] *= 0.2
    for i, (outputs, inputs) in enumerate(((10 * m // 3, 4 * m), (8 * m // 3, 10 * m // 3),
                                           (2 * m, 8 * m // 3))):
        state.add_conv(f"entropy_parameters.{2 * i}", outputs, inputs, 1)
    state["entropy_parameters.4.bias"][:m] += 1


def cheng2020(attention):
    state = State()

    def unit(name):
        state.add_conv(f"{name}.conv.0", N // 2, N, 1)
        state.add_conv(f"{name}.conv.2", N // 2, N // 2, 3)
        state.add_conv(f"{name}.conv.4", N, N // 2, 1)

    def attend(name):
        for i in range(3):
            unit(f"{name}.conv_a.{i}")
        for i in range(3):
            unit(f"{name}.conv_b.{i}")
        state.add_conv(f"{name}.conv_b.3", N, N, 1)

    def block(name):
        state.add_conv(f"{name}.conv1", N, N, 3)
        state.add_conv(f"{name}.conv2", N, N, 3)

    def down(name, inputs=N):
        state.add_conv(f"{name}.conv1", N, inputs, 3)
        state.add_conv(f"{name}.conv2", N, N, 3)
        state.add_gdn(f"{name}.gdn", N)
        state.add_conv(f"{name}.skip", N, inputs, 1)

    def up(name):
        state.add_conv(f"{name}.subpel_conv.0", 4 * N, N, 3)
        state.add_conv(f"{name}.conv", N, N, 3)
        state.add_gdn(f"{name}.igdn", N)
        state.add_conv(f"{name}.upsample.0", 4 * N, N, 3)

    layers = {"g_a": ["down", "block", "down", "attend", "block", "down", "block", "last",
                      "attend"],
              "g_s": ["attend", "block", "up", "block", "up", "attend", "block", "up", "block",
                      "last"]}
    for part, kinds in layers.items():
        kinds = [kind for kind in kinds if attention or kind != "attend"]
        for i, kind in enumerate(kinds):
            name = f"{part}.{i}"
            if kind == "last" and part == "g_a":
                state.add_conv(name, N, N, 3)
                state[f"{name}.weight"] *= 0.3
            elif kind == "last":
                state.add_conv(f"{name}.0", 12, N, 3)
            elif name == "g_a.0":
                down(name, 3)
            else:
                {"down": down, "block": block, "up": up, "attend": attend}[kind](name)
    for i in range(5):
        state.add_conv(f"h_a.{2 * i}", N, N, 3)
    wide = 3 * N // 2
    for name, outputs, inputs in (("h_s.0", N, N), ("h_s.2.0", 4 * N, N), ("h_s.4", wide, N),
                                  ("h_s.6.0", 4 * wide, wide), ("h_s.8", 2 * N, wide)):
        state.add_conv(name, outputs, inputs, 3)
    add_context(state, N)
    state.add_bottleneck(N)
    return state


def plain(state):
    """As PyTorch returns it."""
    return collections.OrderedDict(state)


STATES = {name: plain(four_layers(name)) for name in (
    "bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018")}
STATES |= {"cheng2020-anchor": plain(cheng2020(False)), "cheng2020-attn": plain(cheng2020(True))}
