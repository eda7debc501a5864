"""Every flow compiles: it is one graph, which gives what the flow gives."""

import pytest
import torch
from flow_constructors import FLOWS, context_for, event_of, make

# One of every kind; a trace takes seconds.
FAST = ("planar-11-amortized", "real-nvp-weight-norm", "realnvp-3-batch-norm", "iaf-3", "flat-maps-realnvp-3")


# The tracer itself instantiates autograd functions.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FLOWS]
)
def test_traces_into_one_graph(name):
    flow = make(name).train()
    z, context = torch.randn(3, 4, *event_of(name), dtype=torch.float64), context_for(name, flow, 4)
    state = {key: value.clone() for key, value in flow.state_dict().items()}
    expected = flow(z, context)
    flow.load_state_dict(state)
    torch.compiler.reset()
    # The tracing is what may fail; generating code would take a compiler, and minutes.
    compiled = torch.compile(flow, fullgraph=True, backend="aot_eager")
    moved, log_determinant = compiled(z, context)
    torch.testing.assert_close((moved, log_determinant), expected)
    (moved.sum() + log_determinant.sum()).backward()
