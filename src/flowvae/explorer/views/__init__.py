"""The views, one file each. A view's function fills its tab for the runs that it can show."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gradio as gr

from flowvae.explorer.explored import Explored
from flowvae.explorer.views import fill_in, interpolate, plane, posterior, runs, samples, score
from flowvae.models import Bounded, Coded, Completing, Inferring, Model, Sampler, Scored


class View(NamedTuple):
    build: Callable[[gr.Tab, Sequence[Explored]], None]
    needs: type | tuple[type, ...] = Model
    """any of these capabilities"""
    shows: Callable[[Any], bool] = lambda model: True
    """what else a model with such a capability needs"""

    def runs(self, explored: Sequence[Explored]) -> list[Explored]:
        """Those that the view can show."""
        return [run for run in explored if isinstance(run.model, self.needs) and self.shows(run.model)]


VIEWS: dict[str, View] = {
    "Runs": View(runs.build),
    "Latent plane": View(plane.build, Inferring),
    "Interpolate": View(interpolate.build, Coded),
    "Posterior": View(posterior.build, Inferring),
    "Score": View(score.build, (Bounded, Scored)),
    "Samples": View(samples.build, Sampler),
    "Fill in": View(fill_in.build, Completing, lambda model: model.completes),
}
"""By the titles of the tabs, in their order."""
