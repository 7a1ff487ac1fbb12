"""The cluster's files, read by the tools that they are for, or held against their fields."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollout.compose import compose
from rollout.executor.ray_cluster import SANDBOX_HOST

INFRA = Path(__file__).parents[2] / "infra"

RAY_JOB = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
RAY_JOB |= {"rayClusterSpec"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((INFRA / name).read_text())
    return found


@pytest.mark.ray
def test_the_cluster_launcher_takes_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read("cluster.yaml")
    validate_config(prepare_config(config))
    (start,) = (line for line in config["worker_start_ray_commands"] if "ray start" in line)
    assert f"--resources='{{\"{SANDBOX_HOST}\": 1}}'" in start
    for lines in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in lines[-1]


def test_the_ray_job_has_known_fields_and_runs_what_composes() -> None:
    job = read("rayjob.yaml")
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert spec.keys() <= RAY_JOB
    assert spec["rayClusterSpec"].keys() == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group.keys() == GROUP
    assert group["rayStartParams"]["resources"] == f'"{{\\"{SANDBOX_HOST}\\": 1}}"'
    words = shlex.split(spec["entrypoint"])
    assert words[:3] == ["python", "-m", "rollout"]
    conf = compose(words[3:]).conf
    assert (conf.executor.address, conf.store.uri) == ("auto", "s3://bucket/runs")
    grace_s = group["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > conf.executor.drain_s
