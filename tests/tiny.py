"""The tiny model of tests/integration/conftest.py on the command line."""

TRAINING = ["--main", "mshyper.train", "--config", "mshyper/configs/small.py"]
TINY = [
    "--config.data.train=photos/train",
    "--config.data.validation=photos/validation",
    "--config.data.patch_size=64",
    "--config.data.batch_size=2",
    "--config.model.analysis.channels=(8,8,8,12)",
    "--config.model.synthesis.channels=(8,8,8,3)",
    "--config.model.hyper_analysis.channels=(8,8,8)",
    "--config.model.hyper_synthesis.channels=(8,8,24)",
    "--config.train.optimizer.cls=Adam",
    "--config.train.log_interval=5",
    "--config.train.precision=float32",
]
