"""What numbers are called where people read them."""

TITLES = {
    "reconstruction": "-log p(x|z)",
    "kl": "KL",
    "negative_elbo": "-ELBO",
    "nll": "-log p(x)",
    "nll_standard_error": "standard error",
    "bits_per_dim": "bits/dim",
    "importance_weighted": "importance-weighted bound",
    "samples": "S",
    "training_seconds": "training, s",
    "training_steps": "steps",
}


def title(name: str) -> str:
    """The title of the number that files call ``name``.

    >>> title("negative_elbo"), title("active_units")
    ('-ELBO', 'active units')
    """
    return TITLES.get(name, name.replace("_", " "))
