#!/bin/sh
set -e
cp /solution/dotenv.py /app/dotenv.py
