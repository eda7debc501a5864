"""A latent-variable model whose log p(x) and posterior are known in closed form."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from flowvae.densities import GaussianPosterior, Likelihood, Posterior, StandardNormal
from flowvae.models import VAE

SHAPE = (1, 2, 3)
PIXELS, LATENT = 6, 3
NOISE = 0.7


# A linear-Gaussian model: z ~ N(0, I) and x = W z + NOISE e, so log p(x) = log N(x; 0, W W' + NOISE^2 I), and
# the posterior is N(V W' x / NOISE^2, V) with V = (I + W' W / NOISE^2)^-1.


class LinearGaussian(Likelihood):
    """The likelihood N(W z, NOISE^2 I); remembers how many pairs of image and sample it saw in each call."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.seen: list[int] = []

    def forward(self, z: Tensor) -> Distribution:
        self.seen.append(z.shape[0] * z.shape[1])
        return Independent(Normal((z @ self.weight.T).unflatten(-1, SHAPE), NOISE), 3)


class ExactPosterior(Posterior):
    """The full-covariance Gaussian posterior of the linear-Gaussian model."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.covariance = exact_covariance(weight)
        self.to_mean = self.covariance @ weight.T / NOISE**2

    def forward(self, features: Tensor, num_samples: int = 1) -> tuple[Tensor, Tensor]:
        distribution = MultivariateNormal(features @ self.to_mean.T, self.covariance)
        z = distribution.rsample((num_samples,))
        return z, distribution.log_prob(z)

    def center(self, features: Tensor) -> Tensor:
        return (features @ self.to_mean.T).unsqueeze(0)


def exact_covariance(weight: Tensor) -> Tensor:
    return torch.linalg.inv(torch.eye(LATENT).double() + weight.T @ weight / NOISE**2)


def linear_gaussian(exact: bool, shift: float = 0.1, stretch: float = 1.3) -> VAE:
    """With the exact posterior, or a diagonal one, its mean off by shift and its scales stretched."""
    torch.manual_seed(0)
    weight = torch.randn(PIXELS, LATENT).double()
    if exact:
        posterior: Posterior = ExactPosterior(weight)
    else:
        posterior = GaussianPosterior(PIXELS, LATENT).double()
        covariance = exact_covariance(weight)
        with torch.no_grad():
            linear = posterior.mean_and_log_scale
            linear.weight.zero_()
            linear.weight[:LATENT] = covariance @ weight.T / NOISE**2
            linear.bias[:LATENT] = shift
            linear.bias[LATENT:] = 0.5 * covariance.diagonal().log() + math.log(stretch)
    return VAE(nn.Flatten(), posterior, StandardNormal(LATENT).double(), LinearGaussian(weight)).eval()


def images_and_exact_value(model: VAE, count: int) -> tuple[Tensor, Tensor]:
    """Draws x of the model, and their log p(x)."""
    torch.manual_seed(1)
    distribution = marginal(likelihood_of(model).weight.detach())
    x = distribution.sample((count,))
    return x.unflatten(1, SHAPE), distribution.log_prob(x)


def marginal(weight: Tensor) -> MultivariateNormal:
    """p(x)"""
    covariance = weight @ weight.T + NOISE**2 * torch.eye(PIXELS).double()
    return MultivariateNormal(torch.zeros(PIXELS).double(), covariance)


def likelihood_of(model: VAE) -> LinearGaussian:
    assert isinstance(model.likelihood, LinearGaussian)
    return model.likelihood


def in_single_precision(model: VAE) -> VAE:
    """The linear-Gaussian model with the exact posterior, whose numbers are no parameters."""
    assert isinstance(model.posterior, ExactPosterior)
    model.posterior.covariance = model.posterior.covariance.float()
    model.posterior.to_mean = model.posterior.to_mean.float()
    return model.float()
