"""`doctor`: what this machine can do for rollouts, and what to change where it cannot."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rollout.doctor.base import Finding, Wishes
from rollout.doctor.examine import all_well, engine_can_run, examine
from rollout.report.checkup import checkup
from rollout.report.render import show, text
from rollout.sandbox.unprivileged import folder_of_user


def main(argv: Sequence[str]) -> int:
    """0 when the native engine can run and all that was asked for works, else 1."""
    options = _parser().parse_args(argv)
    findings = list(examine(_wishes(options)))
    if options.json:
        answer = {
            "native": engine_can_run(findings),
            "findings": [asdict(finding) for finding in findings],
        }
        show(sys.stdout, text(json.dumps(answer, indent=1)), wrap=False)
    else:
        show(sys.stdout, checkup(findings), _verdict(findings))
    return 0 if all_well(findings) else 1


def _verdict(findings: Sequence[Finding]) -> str:
    if not engine_can_run(findings):
        return "the native engine cannot run here yet: mend what says `fail`"
    if not all_well(findings):
        return "the native engine can run here; mend what else says `fail`"
    return "the native engine can run here"


def _wishes(options: argparse.Namespace) -> Wishes:
    return Wishes(
        root_dir=str(folder_of_user(options.root_dir, Wishes().root_dir)),
        sandboxes=options.sandboxes,
        store=options.store,
        endpoint_url=options.endpoint_url,
        region=options.region,
        ray_address=options.ray_address,
    )


def _parser() -> argparse.ArgumentParser:
    usual = Wishes()
    parser = argparse.ArgumentParser(prog="rollout doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--root-dir", default=usual.root_dir, help="engine.root_dir to look at")
    parser.add_argument("--sandboxes", type=int, default=usual.sandboxes, help="at once, here")
    parser.add_argument("--store", default="", help="a folder or s3:// address to try out")
    parser.add_argument("--endpoint-url", help="of an S3 service that is not AWS")
    parser.add_argument("--region", help="of the S3 bucket")
    parser.add_argument("--ray-address", help="of a running cluster to look at")
    return parser
