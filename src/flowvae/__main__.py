"""``python -m flowvae``, and ``accelerate launch -m flowvae`` for several devices or machines."""

from flowvae.cli import main

main()
