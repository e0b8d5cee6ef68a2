"""advDNIC, variant 4: skips, attention and dual path, a deep context, N = 128."""

from joint_ar.configs import advdnic_variant3

TITLE = "advDNIC variant 4: attention, gated context"
PAPER = "advDNIC; Liu et al. 2019"

get_hyper = advdnic_variant3.get_hyper


def get_config(recipe="advdnic"):
    config = advdnic_variant3.get_config(recipe)
    config.model = dict(
        analysis=dict(cls="AdvDNICNlaicAnalysis", channels=128),
        synthesis=dict(cls="AdvDNICNlaicSynthesis", channels=128),
        hyper_analysis=dict(cls="AdvDNICNlaicHyperAnalysis", channels=128),
        hyper_synthesis=dict(cls="AdvDNICNlaicHyperSynthesis", channels=128),
        context=dict(cls="GatedContext", latents=128, width=64, blocks=2, channels=256),
        entropy_parameters=dict(cls="EntropyParameters", channels=(512, 256, 256)),
        use_offset=True,
    )
    return config
