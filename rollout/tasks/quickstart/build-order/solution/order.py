"""Print what a target needs, in an order in which it can be built."""

import heapq
import sys


def read_rules(path):
    needs = {}
    with open(path) as file:
        for line in file:
            if not line.strip() or line.startswith("#"):
                continue
            target, _, wanted = line.partition(":")
            needs.setdefault(target.strip(), set()).update(wanted.split())
    return needs


def below(target, needs):
    found, waiting = set(), [target]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(needs.get(name, ()))
    return found


def order(names, needs):
    missing = {name: len(needs.get(name, ())) for name in names}
    ready = [name for name in names if not missing[name]]
    heapq.heapify(ready)
    while ready:
        done = heapq.heappop(ready)
        yield done
        for name in names:
            if done in needs.get(name, ()):
                missing[name] -= 1
                if not missing[name]:
                    heapq.heappush(ready, name)


def main(path, target):
    needs = read_rules(path)
    if target not in needs and not any(target in wanted for wanted in needs.values()):
        return 1
    names = below(target, needs)
    ordered = list(order(names, needs))
    circle = names - set(ordered)
    if circle:
        inner = [name for name in circle if name in below_all(needs.get(name, ()), needs)]
        sys.stderr.write(" ".join(sorted(inner)) + "\n")
        return 2
    sys.stdout.write("".join(name + "\n" for name in ordered))
    return 0


def below_all(starts, needs):
    return set().union(*(below(start, needs) for start in starts))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
