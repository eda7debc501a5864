"""``python -m flowvae``, and ``torchrun -m flowvae`` for several processes, devices or machines."""

from flowvae.cli import main

main()
