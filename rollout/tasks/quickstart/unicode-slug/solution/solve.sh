#!/bin/sh
set -e
cp /solution/slug.py /app/slug.py
