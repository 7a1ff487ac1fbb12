#!/bin/sh
exec python3 -I /solution/resolve.py
