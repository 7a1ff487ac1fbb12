"""What a blueprint mounts: files, objects, code and agents, as steps that any engine can do.

    file     content, or a file of the host's
    folder   a folder of the host's
    object   a blob or a folder out of the object store, by id
    code     a git repository at one commit, without what came after it
    agent    a program from npm, PyPI, git or an object, at one version

`resolve` fetches what is outside and pins it, on the machine that makes the plan: workers need the
object store and nothing else.
"""

from rollout.mounts.base import Resolved
from rollout.mounts.resolve import in_image, resolve

__all__ = ["Resolved", "in_image", "resolve"]
