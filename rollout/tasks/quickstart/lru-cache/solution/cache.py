"""A cache that forgets what was not used for the longest time."""

from collections import OrderedDict


class Cache:
    def __init__(self, size):
        if size < 1:
            raise ValueError(f"a cache of size {size}")
        self._size = size
        self._entries = OrderedDict()

    def get(self, key, default=None):
        if key not in self._entries:
            return default
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key, value):
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def keys(self):
        return list(self._entries)

    def __len__(self):
        return len(self._entries)

    def __contains__(self, key):
        return key in self._entries
