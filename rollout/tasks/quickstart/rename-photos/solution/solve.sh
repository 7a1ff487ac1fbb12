#!/bin/sh
set -e
find /app/photos -type f -name 'IMG_*' | while IFS= read -r photo; do
    folder=$(dirname "$photo")
    name=$(basename "$photo" | sed -nE \
        's/^IMG_([0-9]{4})([0-9]{2})([0-9]{2})_([0-9]{2})([0-9]{2})([0-9]{2})\.[jJ][pP][eE]?[gG]$/\1-\2-\3 \4.\5.\6.jpg/p')
    if [ -n "$name" ]; then mv "$photo" "$folder/$name"; fi
done
