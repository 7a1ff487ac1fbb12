#!/bin/sh
set -e
cp /solution/cache.py /app/cache.py
