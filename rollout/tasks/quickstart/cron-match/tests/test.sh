#!/bin/sh
# Writes reward 1 when every check passes, else 0; nothing when the checks cannot run at all.
exec python3 -I -B /tests/check.py
