"""The views, one file each. A view's function fills its tab for the runs that are open."""

from collections.abc import Callable, Sequence

import gradio as gr

from flowvae.explorer.explored import Explored
from flowvae.explorer.views import fill_in, interpolate, plane, posterior, runs, samples, score

VIEWS: dict[str, Callable[[gr.Tab, Sequence[Explored]], None]] = {
    "Runs": runs.build,
    "Latent plane": plane.build,
    "Interpolate": interpolate.build,
    "Posterior": posterior.build,
    "Score": score.build,
    "Samples": samples.build,
    "Fill in": fill_in.build,
}
"""By the titles of the tabs, in their order."""
