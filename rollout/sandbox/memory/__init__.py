"""The in-process engine: a file system, processes and a shell in plain Python. No kernel needed.

It isolates nothing, for it runs nothing: every program in it is one of the few written in this
package. It is there to try things without root and to test what stands on an engine in bulk.
"""

from rollout.sandbox.memory.engine import MemoryEngine

__all__ = ["MemoryEngine"]
