"""Display names of metrics."""

TITLES = {
    "reconstruction": "-log p(x|z)",
    "kl": "KL",
    "negative_elbo": "-ELBO",
    "nll": "-log p(x)",
    "nll_standard_error": "standard error",
    "nll_difference": "difference",
    "nll_difference_standard_error": "its standard error",
    "marginal_nll": "-log p(x) of all classes",
    "bits_per_dim": "bits/dim",
    "effective_sample_size": "ESS",
    "pareto_k": "Pareto k",
    "annealed_nll": "-log p(x), annealed",
    "annealed_nll_standard_error": "its standard error",
    "annealed_difference": "annealed - importance-weighted",
    "annealed_difference_standard_error": "its standard error",
    "annealed_images": "images annealed",
    "frechet_distance": "Frechet distance",
    "frechet_distance_of_real": "of real images",
    "mode_divergence": "KL of modes",
    "seconds_per_sample": "seconds a sample",
    "compared": "samples compared",
    "gap_standard_error": "its standard error",
    "class_error": "error",
    "class_nll": "-log q(y|x)",
    "calibration_error": "ECE",
    "importance_weighted": "importance-weighted bound",
    "samples": "S",
    "original_reconstruction": "-log p(x|z) in 2017",
    "training_seconds": "training, s",
    "training_steps": "steps",
}


def title(name: str) -> str:
    """Return the display name of the metric ``name`` in the files of a run.

    >>> title("negative_elbo"), title("active_units")
    ('-ELBO', 'active units')
    """
    return TITLES.get(name, name.replace("_", " "))


NATS = {"negative_elbo", "nll", "importance_weighted", "kl", "reconstruction"}


def title_with_unit(name: str) -> str:
    """Like `title`, with nats added if that is the unit.

    >>> title_with_unit("nll"), title_with_unit("energy_score")
    ('-log p(x), nats', 'energy score')
    """
    return f"{title(name)}, nats" if name in NATS else title(name)
