#!/bin/sh
# Print the largest files below a folder: size, tab, path.
LC_ALL=C
export LC_ALL
tab=$(printf '\t')
find "$1" -type f -printf '%s\t%P\n' | sort -t "$tab" -k1,1nr -k2 | head -n "$2"
