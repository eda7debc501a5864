"""The views, one file each. A view's function fills its tab for the runs that it can show."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import gradio as gr

from flowvae.explorer.explored import Explored
from flowvae.explorer.views import fill_in, interpolate, plane, posterior, runs, samples, score
from flowvae.models import Bounded, Coded, Completing, Inferring, Model, Sampler, Scored


class View(NamedTuple):
    build: Callable[[gr.Tab, Sequence[Explored]], None]
    needs: type | tuple[type, ...] = Model
    """any of these capabilities"""

    def runs(self, explored: Sequence[Explored]) -> list[Explored]:
        """Those that the view can show."""
        return [run for run in explored if isinstance(run.model, self.needs)]


VIEWS: dict[str, View] = {
    "Runs": View(runs.build),
    "Latent plane": View(plane.build, Inferring),
    "Interpolate": View(interpolate.build, Coded),
    "Posterior": View(posterior.build, Inferring),
    "Score": View(score.build, (Bounded, Scored)),
    "Samples": View(samples.build, Sampler),
    "Fill in": View(fill_in.build, Completing),
}
"""By the titles of the tabs, in their order."""
