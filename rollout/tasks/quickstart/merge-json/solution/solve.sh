#!/bin/sh
exec python3 -I /solution/merge.py
