"""Training recipes by name: the defaults that the configs of all packages start from.

`--config mshyper/configs/mbt2018.py:advdnic` trains the model of that config by another recipe.
"""

from collections.abc import Sequence

from ml_collections import config_dict

from common import arguments, sweeps

# Coarse to fine: after three runs there is a curve, the others refine it (Yang & Mandt 2023).
LAMBDAS = (0.08, 0.02, 0.005, 0.00125, 0.04, 0.01, 0.0025)

# Those of CompressAI's zoo for `distortion="ms_ssim"`, coarse to fine too.
MS_SSIM_LAMBDAS = (115.37, 16.64, 2.40, 220.00, 60.50, 31.73, 8.73, 4.58)


def wider_at_high_rates(narrow: dict, wide: dict, lambdas: Sequence[float] = LAMBDAS,
                        above: float = 0.02) -> sweeps.Sweep:
    """A sweep over lambdas, as of papers whose models are wider at their higher rates.

    Args:
      narrow, wide: overrides of a config, up to the lambda `above` and from there on.
      lambdas: train.rd_lambda of the entries.
      above: see above.
    """
    return [{"train.rd_lambda": value, **(wide if value > above else narrow)} for value in lambdas]


def yang2023() -> config_dict.ConfigDict:
    """Yang & Mandt 2023, for all their models but mbt2018 (which trained for 2 M steps)."""
    return config_dict.ConfigDict(dict(
        seed=0,
        data=dict(
            train="coco",  # a name of configs.DATASETS, or any folder, glob or file
            validation="kodak",  # "" for none
            patch_size=256,
            batch_size=8,
            crops_per_image=1,
            min_scale=1.0,  # crops are down-scaled by a random factor of at least this
            flip=False,
            by_size=False,  # large images are drawn more often (common/data.py)
            cache_gib=4.0,
        ),
        train=dict(
            num_steps=1_800_000,
            distortion="mse",  # or "ms_ssim": then rd_lambda is one of MS_SSIM_LAMBDAS
            rd_lambda=0.01,  # models with levels have a range of them instead
            rd_lambda_warmup=dict(factor=10.0, until=0.2, at_most=0.01),
            lpips_weight=0.0,  # of LPIPS in the loss; its weights come with `make lpips`
            # Bits per pixel to train for: rd_lambda stays, and rate_control weighs the rate.
            rate_target=config_dict.placeholder(float),
            rate_control=dict(cls="ProportionalIntegral"),
            quantizer=dict(cls="UniformNoise"),
            optimizer=dict(cls="Adam", learning_rate=1e-4, global_clipnorm=1.0),
            schedule=dict(cls="WarmupDrop", warmup=0.02, drop_at=0.8, drop_factor=0.1),
            ema_decay=0.0,  # of the weights that are validated and exported; 0 for the last ones
            precision="auto",  # bfloat16 where the device has it in hardware; or name either
            export_dtype="float32",  # of exported weights; float16 makes models half as large
            strategy="one",  # device; "mirrored": several, "multi_worker": many machines
            log_interval=1000,
            checkpoint_interval=10_000,  # also validation
            jit_compile="auto",  # "on", "off"; auto: XLA where there is a GPU
            profile_steps=config_dict.placeholder(tuple),  # (first, last) since the start
            # An exported model, a run, an experiment (its run of the same wid) or a zoo name.
            warm_start=config_dict.placeholder(str),
        ),
    ))


def add_levels(config: config_dict.ConfigDict, rd_lambda: tuple[float, float] = (0.0015, 0.06)
               ) -> None:
    """Makes the model of a config one for all rates, from one lambda to another (common/levels.py).

    There are 201 levels, one for each half step of --quality (0 to 100). Files of neighbouring
    levels then differ by less than 2 %, and eight codings find the level of a given size.
    """
    config.model.levels = dict(count=201, rd_lambda=rd_lambda, scales=True)
    config.train.rd_lambda = config_dict.placeholder(float)
    config.train.rd_lambda_warmup.factor = 1.0  # the high levels are warm


def yang2020() -> config_dict.ConfigDict:
    """Yang, Bamler & Mandt 2020 ("Improving inference"), TensorFlow 1: a constant rate on CLIC.

    2 M steps for most lambdas; 1 M for their smallest, 3 M for their largest.
    """
    config = yang2023()
    config.data.train = "clic"
    config.train.num_steps = 2_000_000
    config.train.rd_lambda_warmup.factor = 1.0
    config.train.optimizer = dict(cls="Adam", learning_rate=1e-4)
    config.train.schedule = dict(cls="Constant")
    return config


def yang2020_keras() -> config_dict.ConfigDict:
    """The TensorFlow 2 branch of the same code: 100 epochs of 10,000 steps, rate by plateaus.

    There the plateaus counted only after 100 epochs, so that the default training saw none; here
    they count from the start. Data and batch are those of `yang2020`.
    """
    config = yang2020()
    config.train.num_steps = 1_000_000
    config.train.schedule = dict(cls="ReduceOnPlateau", factor=0.5, patience=10, minimum=1e-6)
    return config


def advdnic() -> config_dict.ConfigDict:
    """advDNIC's Adam: other betas, L2, a clip at 2, rate by batch size and exponentially falling.

    Theirs are the batch, the optimiser's numbers, and 0.97 every 2.4 of 1000 epochs. Chosen here:
    the base rate of 1e-4 for a batch of 4, the number of steps, the size of crops. The rate falls
    to a quarter in the first tenth of training, and to nothing before its end. Their L2 is a term
    of the loss; Keras's weight decay shrinks the weights beside Adam's step.
    """
    config = yang2023()
    config.data.update(train="clic", batch_size=4)
    config.train.num_steps = 400_000
    config.train.rd_lambda_warmup.factor = 1.0
    config.train.optimizer = dict(
        cls="Adam", learning_rate=config.data.get_ref("batch_size").to_float() * (1e-4 / 4),
        beta_1=0.85, beta_2=0.997, epsilon=1e-6, weight_decay=1e-6, global_clipnorm=2.0)
    config.train.schedule = dict(cls="Exponential", factor=0.97, every=0.0024)
    return config


def hific() -> config_dict.ConfigDict:
    """The schedules of HiFiC (Mentzer et al. 2020), without its losses and rate control.

    Theirs: 1 M steps of 8 crops, the rate / 10 after half of them, twice the weight of the rate
    for the first 5 %. They scale images by U(0.75, 0.95); here the upper end is 1.
    """
    config = yang2023()
    config.data.min_scale = 0.75
    config.train.num_steps = 1_000_000
    # Twice the rate is, up to a factor of the loss, half the distortion. For every lambda.
    config.train.rd_lambda_warmup = dict(factor=0.5, until=0.05, at_most=1e9)
    config.train.optimizer = dict(cls="Adam", learning_rate=1e-4)
    config.train.schedule = dict(cls="WarmupDrop", warmup=0.0, drop_at=0.5, drop_factor=0.1)
    return config


def compressai() -> config_dict.ConfigDict:
    """CompressAI's zoo: batches of 16, the rate halved when 20 validations bring nothing better.

    4 to 5 M steps on Vimeo-90K there, whose folder `data.train` can name.
    """
    config = yang2023()
    config.data.batch_size = 16
    config.train.num_steps = 4_500_000
    config.train.rd_lambda_warmup.factor = 1.0
    config.train.schedule = dict(cls="ReduceOnPlateau", factor=0.5, patience=20, minimum=1e-6)
    return config


def cpu() -> config_dict.ConfigDict:
    """Small models on a few CPU cores: SOAP, small batches, a cosine."""
    config = yang2023()
    # Crops of 128 pixels train twice as many steps, but most of their latents see the zeros beyond
    # the border: changing to 256 lowered small.py's validation loss by 8 % within 300 steps.
    config.data.update(train="photos/train", validation="photos/validation", patch_size=256,
                       batch_size=4, min_scale=0.5, flip=True)
    config.train.update(num_steps=20_000, log_interval=100, checkpoint_interval=1000)
    config.train.rd_lambda_warmup.factor = 1.0
    config.train.optimizer = dict(cls="SOAP", learning_rate=2e-3, global_clipnorm=1.0)
    config.train.schedule = dict(cls="WarmupCosine", warmup=0.01, final=0.01)
    return config


RECIPES = {recipe.__name__: recipe
           for recipe in (yang2023, yang2020, yang2020_keras, advdnic, hific, compressai, cpu)}


def build(name: str) -> config_dict.ConfigDict:
    """The recipe called `name`, to which a config adds its model.

    Raises:
      UserError: there is no such recipe.
    """
    if name not in RECIPES:
        raise arguments.unknown("recipe", name, RECIPES)
    return RECIPES[name]()
