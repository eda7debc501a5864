"""What long runs hold is counted, and growth is seen: in short."""

import gc
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # campaigns/ is not part of the package

from campaigns.long_runs import Watch, growth, sampled, table

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counted on Linux only")


def test_growth_is_that_after_the_warm_up():
    samples = [{"memory": value} for value in (1.0, 50.0, 100.0, 100.0, 100.0, 105.0, 110.0, 110.0)]
    assert growth(samples)["memory"] == {"last": 110.0, "growth": pytest.approx(10.0)}
    assert growth([{"files": 3.0}])["files"] == {"last": 3.0, "growth": 0.0}


def test_a_leak_of_files_and_objects_is_counted(tmp_path):
    gc.collect()  # of what other tests left
    with ExitStack() as opened:
        before = sampled()
        for number in range(20):
            opened.enter_context((tmp_path / str(number)).open("w"))
        kept = [[] for _ in range(10_000)]
        after = sampled()
    assert after["files"] == before["files"] + 20
    assert after["objects"] - before["objects"] == pytest.approx(len(kept), rel=0.1)


def test_a_watch_takes_a_sample_when_it_is_time():
    watch = Watch(every=1000.0)
    watch.look()
    watch.look()
    assert len(watch.samples) == 1
    row = {"what": "training: vae", "minutes": 2.0, "samples": 1} | growth(watch.samples)
    assert "| training: vae | 2.0 |" in table({"rows": [row]})
