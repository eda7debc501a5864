"""Completion of images: hidden pixels given the known ones, by resampled pseudo-Gibbs sampling."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowvae.densities import Likelihood, Posterior, Prior
from flowvae.errors import UserError


class Completions(NamedTuple):
    """Images whose hidden pixels were filled in by a model."""

    images: Tensor
    """[N, C, H, W]: known pixels unchanged, the others at their mean given the code"""
    effective_samples: Tensor
    """[N]: effective sample size of each chain's last candidates, from 1 to their number"""


class Completing:
    """A model that fills in hidden pixels, by Markov chains over codes and pixels.

    A chain starts with hidden pixels drawn from the model. A sweep draws a code for the whole image, then
    redraws the hidden pixels from p(x|z). With the code from q(z|x), this is pseudo-Gibbs sampling (Rezende,
    Mohamed & Wierstra 2014, appendix F), which is exact only if q is the posterior. Here the code is one of S
    candidates from q(z|x), chosen with the importance weights ``p(x|z) p(z) / q(z|x)``: the more candidates,
    the closer to the posterior, and so to Gibbs sampling of ``p(x_hidden, z | x_known)``. With one candidate
    it is pseudo-Gibbs sampling.
    """

    encoder: nn.Module
    posterior: Posterior
    prior: Prior
    likelihood: Likelihood

    @property
    def completes(self) -> bool:
        """Whether hidden pixels can be drawn without the known ones, given the code."""
        return self.likelihood.independent != "none"

    @torch.no_grad()
    def complete(
        self,
        image: Tensor,
        known: Tensor,
        count: int,
        sweeps: int = 20,
        candidates: int = 8,
        noise: torch.Generator | None = None,
    ) -> Completions:
        """Draw independent completions of one image [C, H, W].

        Args:
            image: the image; values of hidden pixels are ignored.
            known: boolean mask of the known pixels, [C, H, W]; the same for all channels of a position if the
                likelihood makes them dependent.
            count: N, number of completions, each from its own Markov chain.
            sweeps: number of steps per chain; at least 1.
            candidates: S, number of codes from which each step chooses one.
            noise: a generator to draw from, or None for torch's own.

        Raises:
            UserError: if hidden pixels depend on known ones given the code.
        """
        if not self.completes:
            raise UserError(
                "pixels of this model are not independent given the code; choose a model where they are"
            )
        if self.likelihood.independent == "places" and (known != known[:1]).any():
            raise UserError(
                "the channels of a pixel depend on each other in this model; hide all of them or none"
            )
        pixels = self.likelihood(self.prior.sample(count, noise).unsqueeze(0))
        effective = torch.ones(count)
        for _ in range(sweeps):
            # PyTorch's own distributions, which a custom likelihood may return, accept no generator.
            drawn = pixels.sample() if noise is None else pixels.sample(noise=noise)
            x = torch.where(known, image, drawn[0])
            z, log_posterior = self.posterior(self.encoder(x), candidates, noise)  # [S, N, D], [S, N]
            log_likelihood = torch.stack([self.likelihood(few.unsqueeze(0)).log_prob(x)[0] for few in z])
            weights = (log_likelihood + self.prior().log_prob(z) - log_posterior).softmax(0)
            effective = 1 / weights.square().sum(0)
            chosen = torch.multinomial(weights.T, 1, generator=noise)[:, 0]
            pixels = self.likelihood(z[chosen, torch.arange(count)].unsqueeze(0))
        return Completions(torch.where(known, image, pixels.mean[0]), effective)
