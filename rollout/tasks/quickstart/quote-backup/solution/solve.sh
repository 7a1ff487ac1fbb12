#!/bin/sh
set -e
cp /solution/backup.sh /app/backup.sh
