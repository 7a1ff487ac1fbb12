#!/bin/sh
set -e
cp /solution/bank.py /app/bank.py
