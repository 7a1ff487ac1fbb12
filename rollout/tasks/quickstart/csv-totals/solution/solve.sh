#!/bin/sh
exec python3 -I /solution/totals.py
