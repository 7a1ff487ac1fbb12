#!/bin/sh
set -e
cd /app
LC_ALL=C
export LC_ALL
sed -n 's/^\([^ ]*\) .*"[A-Z]* [^"]*" \([0-9]*\) .*/\2 \1/p' access.log |
    while read -r status address; do
        if [ "$status" -ge 200 ] && [ "$status" -le 399 ]; then echo "$address"; fi
    done | sort | uniq -c | sort -k1,1nr -k2,2 |
    while read -r count address; do echo "$count $address"; done > report.txt
