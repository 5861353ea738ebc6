"""How many trials run at once: `parallelTrialCount`, and what trials declare, observed from inside the trials."""

import json
import os

import pytest
import yaml
from test_cluster import experiment_spec

CORES = len(os.sched_getaffinity(0))
MEMORY_KIB = int(next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemTotal")))


def overlapping(tmp_path, meet, **requests):
    """A trial that notes how many run along with it. The first wait for one another until as many as `meet` have met,
    so that the most at once is reached on any machine; the directory a trial makes stands for it all along."""
    marks = tmp_path / "marks"
    marks.mkdir()
    # In a container's command `$$` is one dollar.
    script = f"""cd {marks}; mkdir run.$$$$
while [ ! -e met ]; do if [ $(ls -d run.* | wc -l) -ge {meet} ]; then : > met; fi; sleep 0.005; done
ls -d run.* | wc -l >> counts; rmdir run.$$$$; echo loss=$X"""
    experiment = experiment_spec("e", ["sh", "-c", script], algorithm="random", trials=8, parallel=3)
    container(experiment)["resources"] = {"requests": requests}
    return experiment, marks / "counts"


def container(experiment):
    return experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]


def tune(tmp_path, mizzen, experiment, check=True):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    done = mizzen("tune", file, "-o", "json", env={"MIZZEN_DATA_DIR": str(tmp_path / "data")}, check=check)
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.mark.parametrize("shows, most, requests", [
    ("parallelTrialCount", 3, {"cpu": "1m"}),
    ("cores", 1, {"cpu": f"{CORES * 600}m"}),
    ("memory", 1, {"memory": f"{MEMORY_KIB * 6 // 10}Ki"}),
    ("memory for two", 2, {"memory": f"{MEMORY_KIB * 4 // 10}Ki"}),
])
def test_as_many_run_at_once_as_may_and_no_more(tmp_path, mizzen, shows, most, requests):
    experiment, counts = overlapping(tmp_path, most, **requests)
    result, _ = tune(tmp_path, mizzen, experiment)
    counts = [int(count) for count in counts.read_text().split()]
    assert result["trialsSucceeded"] == 8 and len(counts) == 8
    assert max(counts) == most, (shows, counts)


@pytest.mark.parametrize("shows, requests, words", [
    ("cores", {"cpu": str(CORES + 1)}, [f"{(CORES + 1) * 1000}m is asked for", f"{CORES * 1000}m"]),
    ("memory", {"memory": f"{MEMORY_KIB * 2}Ki"}, [f"`memory` {MEMORY_KIB * 2048} is asked for", str(MEMORY_KIB * 1024)]),
    ("GPUs", {"nvidia.com/gpu": "65"}, ["`nvidia.com/gpu` 65 is asked for"]),
    ("something unknown", {"example.com/fpga": "1"}, ["no `example.com/fpga`"]),
])
def test_a_trial_that_asks_for_more_than_there_is_fails_with_the_figures(tmp_path, mizzen, shows, requests, words):
    experiment, _ = overlapping(tmp_path, 1, **requests)
    container(experiment)["resources"]["limits"] = requests
    _, said = tune(tmp_path, mizzen, experiment, check=False)
    for word in [*words, "Lower the requests"]:
        assert word in said, (shows, said)
