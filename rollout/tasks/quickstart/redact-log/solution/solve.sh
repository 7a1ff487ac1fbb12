#!/bin/sh
set -e
cp /solution/redact.py /app/redact.py
