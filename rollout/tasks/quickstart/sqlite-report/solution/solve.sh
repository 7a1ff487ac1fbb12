#!/bin/sh
set -e
cp /solution/query.sql /app/query.sql
