"""Named experiments, one for each row that is published."""

from dataclasses import replace

from flowvae.config import Config, DataConfig, ModelConfig, TrainingConfig
from flowvae.errors import UserError, did_you_mean, quoted

# What takes many more multiplications an image, and so fewer images in a step, was measured with these.
_SMALL_STEPS = TrainingConfig(batch_size=64, learning_rate=2e-3, weight_decay=0.01)

_BOTH_FLOWS = ModelConfig(
    posterior="realnvp",
    transformations=2,
    flow_of="noise",
    covariance="full",
    latent=32,
    prior="realnvp",
    prior_transformations=4,
    likelihood="causal",
)

# Of colour images: the code is a map, and pixels are mixtures whose colours depend on each other.
_COLOUR = ModelConfig(
    code="map",
    latent=16,
    channels=96,
    blocks=2,
    hidden=64,
    likelihood="logistic-mixture",
)
_COLOUR_POSTERIORS: dict[str, ModelConfig] = {
    "": _COLOUR,
    "-planar": replace(_COLOUR, posterior="planar", transformations=10),
    "-realnvp": replace(_COLOUR, posterior="realnvp", transformations=4, normalization="weight"),
    "-realnvp-prior": replace(_COLOUR, prior="realnvp", prior_transformations=4, normalization="weight"),
}

PRESETS: dict[str, Config] = {
    "vae": Config(),
    **{
        f"planar-{k}": Config(model=ModelConfig(posterior="planar", transformations=k))
        for k in (4, 10, 20, 40)
    },
    **{
        f"realnvp-{k}": Config(
            model=ModelConfig(
                posterior="realnvp",
                transformations=k,
                flow_of="noise",
                covariance="full",
                normalization="weight",
            )
        )
        for k in (2, 5, 10, 20)
    },
    "iaf-4": Config(
        model=ModelConfig(posterior="iaf", transformations=4, flow_of="noise", covariance="full", hidden=320)
    ),
    "density-small": Config(
        model=replace(_BOTH_FLOWS, causal_dropout=0.15, causal_orders=4),
        training=replace(_SMALL_STEPS, minutes=60.0),
    ),
    "density": Config(
        model=replace(
            _BOTH_FLOWS,
            features=512,
            blocks=2,
            causal_channels=96,
            causal_blocks=6,
            causal_dropout=0.2,
            causal_orders=8,
        ),
        training=replace(_SMALL_STEPS, minutes=160.0, weight_decay=0.05),
    ),
    "pixelcnn": Config(
        model=ModelConfig(family="pixelcnn", causal_dropout=0.15, causal_orders=4),
        training=replace(_SMALL_STEPS, minutes=60.0),
    ),
    **{
        data + suffix: Config(
            DataConfig(data, "none"),
            model,
            replace(_SMALL_STEPS, minutes=180.0, validation_images=1000),
        )
        for data in ("cifar10", "svhn", "celeba")
        for suffix, model in _COLOUR_POSTERIORS.items()
    },
    **{
        f"realnvp-density-{data}": Config(
            DataConfig(data, "none"),
            ModelConfig(family="realnvp", transformations=4, hidden=hidden, blocks=1, normalization="weight"),
            replace(_SMALL_STEPS, learning_rate=1e-3, kl_warm_up=0, validation_images=1000),
        )
        for data, hidden in (("mnist", 64), ("cifar10", 64), ("svhn", 64), ("celeba", 32))
    },
}


def preset(name: str) -> Config:
    """The experiment ``name``.

    >>> preset("realnvp-5").model.transformations
    5
    """
    if name not in PRESETS:
        raise UserError(f"no preset {quoted(name)}; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
