"""Hidden pixels drawn given the known ones, by resampled pseudo-Gibbs sampling."""

import torch
from torch import Tensor, nn

from flowvae.densities import Likelihood, Posterior, Prior
from flowvae.errors import UserError
from flowvae.models.base import Completing, Completions


class GibbsCompleting(Completing):
    """Fills in hidden pixels by Markov chains over codes and pixels.

    A chain begins with the hidden pixels of an image drawn from the model. A sweep draws a code for the whole
    image, then the hidden pixels anew from p(x|z). With the code from q(z|x) that is pseudo-Gibbs sampling
    (Rezende, Mohamed & Wierstra 2014, appendix F), exact only if q is the posterior. Here the code is one of
    S candidates from q(z|x), chosen with the importance weights ``p(x|z) p(z) / q(z|x)``: the more of them,
    the nearer to the posterior, and so to Gibbs sampling of ``p(x_hidden, z | x_known)``. One candidate is
    pseudo-Gibbs sampling as it is.
    """

    encoder: nn.Module
    posterior: Posterior
    prior: Prior
    likelihood: Likelihood

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
        """See `Completing.complete`.

        ``known``: where the likelihood ties the channels of a place, the same for all of them.

        Raises:
            UserError: the likelihood ties hidden pixels to known ones.
        """
        if self.likelihood.independent == "none":
            raise UserError(
                "pixels of this model are not independent given the code; it cannot fill in a part"
            )
        if self.likelihood.independent == "places" and (known != known[:1]).any():
            raise UserError(
                "this model ties the channels of a place to one another; hide all of them or none"
            )
        pixels = self.likelihood(self.prior.sample(count, noise).unsqueeze(0))
        effective = torch.ones(count)
        for _ in range(sweeps):
            # PyTorch's own distributions, of a likelihood of your own, take no generator.
            drawn = pixels.sample() if noise is None else pixels.sample(noise=noise)
            x = torch.where(known, image, drawn[0])
            z, log_posterior = self.posterior(self.encoder(x), candidates, noise)  # [S, N, D], [S, N]
            log_likelihood = torch.stack([self.likelihood(few.unsqueeze(0)).log_prob(x)[0] for few in z])
            weights = (log_likelihood + self.prior().log_prob(z) - log_posterior).softmax(0)
            effective = 1 / weights.square().sum(0)
            chosen = torch.multinomial(weights.T, 1, generator=noise)[:, 0]
            pixels = self.likelihood(z[chosen, torch.arange(count)].unsqueeze(0))
        return Completions(torch.where(known, image, pixels.mean[0]), effective)
