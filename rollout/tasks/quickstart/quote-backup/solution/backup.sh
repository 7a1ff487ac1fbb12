#!/bin/sh
# Copy the files of one folder into another.
if [ ! -d "$1" ]; then
    echo "$1 is no folder" >&2
    exit 1
fi
case $1 in /*) source=$1 ;; *) source=./$1 ;; esac
case $2 in /*) target=$2 ;; *) target=./$2 ;; esac
mkdir -p "$target" || exit 1
count=0
for file in "$source"/* "$source"/.[!.]* "$source"/..?*; do
    if [ -f "$file" ]; then
        cp "$file" "$target/" || exit 1
        count=$((count + 1))
    fi
done
echo "copied $count files"
