#!/bin/sh
# Writes reward 1 when every check passes, else 0, also when what is checked ends the checks early;
# nothing when they cannot run at all.
python3 -I -B /tests/check.py
status=$?
case $status in 126|127) exit $status ;; esac
[ -e /logs/verifier/reward.txt ] || echo 0 > /logs/verifier/reward.txt
