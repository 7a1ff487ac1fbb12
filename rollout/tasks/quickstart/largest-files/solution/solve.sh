#!/bin/sh
set -e
cp /solution/largest.sh /app/largest.sh
