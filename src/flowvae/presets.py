"""Named experiments, one for each row that is published."""

from flowvae.config import Config, ModelConfig
from flowvae.errors import UserError, nearest

PRESETS: dict[str, Config] = {
    "vae": Config(),
    **{
        f"planar-{k}": Config(model=ModelConfig(posterior="planar", transformations=k))
        for k in (4, 10, 20, 40)
    },
    **{
        f"realnvp-{k}": Config(model=ModelConfig(posterior="realnvp", transformations=k))
        for k in (2, 5, 10, 20)
    },
    "iaf-4": Config(model=ModelConfig(posterior="iaf", transformations=4, hidden=320)),
}


def preset(name: str) -> Config:
    """The experiment ``name``.

    >>> preset("realnvp-5").model.transformations
    5
    """
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}; {nearest(name, PRESETS)}")
    return PRESETS[name]
