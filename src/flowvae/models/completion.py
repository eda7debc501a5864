"""Hidden pixels drawn given the known ones, by resampled pseudo-Gibbs sampling."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowvae.errors import UserError
from flowvae.models.base import Completions

if TYPE_CHECKING:
    from flowvae.models.vae import VAE


@torch.no_grad()
def complete(
    model: "VAE",
    image: Tensor,
    known: Tensor,
    count: int,
    sweeps: int = 20,
    candidates: int = 8,
    noise: torch.Generator | None = None,
) -> Completions:
    """Independent completions of one image [C, H, W], of which the pixels ``known`` [C, H, W] are given.

    Each is a Markov chain of its own. It begins with the hidden pixels of an image drawn from the model. A
    sweep draws a code for the whole image, then the hidden pixels anew from p(x|z). With the code from q(z|x)
    that is pseudo-Gibbs sampling (Rezende, Mohamed & Wierstra 2014, appendix F), exact only if q is the
    posterior. Here the code is one of S candidates from q(z|x), chosen with the importance weights
    ``p(x|z) p(z) / q(z|x)``: the more of them, the nearer to the posterior, and so to Gibbs sampling of
    ``p(x_hidden, z | x_known)``. One candidate is pseudo-Gibbs sampling as it is.

    Args:
        model: its places are independent of one another given the code.
        image: hidden pixels may hold anything.
        known: boolean; of a mixture of logistics, the same for all channels of a place.
        count: N, chains.
        sweeps: at least 1.
        candidates: S, for each chain in each sweep.
        noise: a generator to draw from, or None for torch's own.

    Raises:
        UserError: the likelihood ties hidden pixels to known ones.
    """
    if model.likelihood.independent == "none":
        raise UserError("pixels of this model are not independent given the code; it cannot fill in a part")
    if model.likelihood.independent == "places" and (known != known[:1]).any():
        raise UserError("this model ties the channels of a place to one another; hide all of them or none")
    pixels = model.likelihood(model.prior.sample(count, noise).unsqueeze(0))
    effective = torch.ones(count)
    for _ in range(sweeps):
        # PyTorch's own distributions, of a likelihood of your own, take no generator.
        drawn = pixels.sample() if noise is None else pixels.sample(noise=noise)
        x = torch.where(known, image, drawn[0])
        z, log_posterior = model.posterior(model.encoder(x), candidates, noise)  # [S, N, D], [S, N]
        log_likelihood = torch.stack([model.likelihood(few.unsqueeze(0)).log_prob(x)[0] for few in z])
        weights = (log_likelihood + model.prior().log_prob(z) - log_posterior).softmax(0)
        effective = 1 / weights.square().sum(0)
        chosen = torch.multinomial(weights.T, 1, generator=noise)[:, 0]
        pixels = model.likelihood(z[chosen, torch.arange(count)].unsqueeze(0))
    return Completions(torch.where(known, image, pixels.mean[0]), effective)
