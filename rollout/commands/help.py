"""`--help`: what this is, the verbs, the experiments there are."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rollout.compose import conf_dir
from rollout.config import RunConf
from rollout.report.render import show, text

HELP = """\
Agent rollouts in bulk: isolated sandboxes on Ray, scored, into an Arrow dataset.

python -m rollout +experiment=NAME [key=value …]     run an experiment, or what is missing of it
python -m rollout tasks check PATH                   do gold solutions pass and empty ones fail?
python -m rollout show RUN [TRAJECTORY]              the rollouts of a run, the story of one
python -m rollout status RUN                         one look; attach RUN follows, cancel RUN ends
python -m rollout retry RUN [outcome=[a,b]]          make rollouts again that ended so
python -m rollout rescore RUN scorer=NAME            score what its agents left once more
python -m rollout export RUN format=sft              conversations to fine-tune on; format=atif
python -m rollout compact RUN                        the same rows in fewer, larger parts
python -m rollout gc RUN                             remove what kills left and nothing names
python -m rollout shell RUN TRAJECTORY               look around in what a rollout left
python -m rollout shell --blueprint NAME             a shell in a fresh sandbox
python -m rollout blueprint build NAME               make an image; also: show, hash, bake
python -m rollout objects put PATH                   keep a file or folder; prints its id
python -m rollout doctor                             what this machine can and cannot do

experiments
{experiments}

options of each part: part=option
{groups}

useful keys
  name=…  samples=8  dry_run=true                    the run's name, group size, plan only
  sweep.agent=[oracle,nop]                           arms: every combination of the sweep's values
  task.path=… task.limit=10 'task.include=[a*]'      which tasks
  keep_on=[agent_error]                              whose files to keep for shell: outcomes, all
  executor=local store=s3 store.uri=s3://bucket/p    where it runs, where the dataset goes
  --cfg job                                          print the config and stop
  --config-dir DIR                                   more options and experiments, from your folder
  --multirun a=1,2                                   separate runs, one after the other
What every key means stands in rollout/config.py.

exit codes: 0 all have a reward, 1 some have none, 2 bad config, 130 interrupted
"""


def main(argv: Sequence[str]) -> int:
    root = conf_dir()
    show(sys.stdout, text(HELP.format(experiments=_experiments(root), groups=_groups(root))))
    return 0


def _experiments(root: Path) -> str:
    return "\n".join(
        f"  {path.stem:<12} {_command(path)}"
        for path in sorted((root / "experiment").glob("*.yaml"))
    )


def _command(path: Path) -> str:
    """An experiment's first comment after its package line is the command that runs it."""
    comments = [line[1:].strip() for line in path.read_text().splitlines() if line[:1] == "#"]
    return next((line for line in comments if not line.startswith("@")), "")


def _groups(root: Path) -> str:
    names = [name for name in RunConf.__dataclass_fields__ if (root / name).is_dir()]
    options = {name: sorted(path.stem for path in (root / name).glob("*.yaml")) for name in names}
    return "\n".join(f"  {name:<12} {', '.join(found)}" for name, found in options.items())
