"""The state that all entries of a log give, one after another, and nothing else."""

from rollout.dataset.log import final_path
from rollout.dataset.state import RunState, entry_seq, parse_entry
from rollout.dataset.store import Store


def folded(store: Store) -> RunState:
    state = RunState()
    for path in store.list("_log/"):
        state.apply(parse_entry(entry_seq(path), store.get(path)))
    state.finished = bool(state.final and store.list(final_path(state.final)))
    return state
