#!/bin/sh
# Copy the files of one folder into another.
mkdir $2
cd $1
count=0
for file in `ls`; do
    cp $file $2
    count=$((count + 1))
done
echo copied $count files
