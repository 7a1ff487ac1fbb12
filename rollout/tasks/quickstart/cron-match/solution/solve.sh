#!/bin/sh
set -e
cp /solution/cron.py /app/cron.py
