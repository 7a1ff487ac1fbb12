/* Removing trees that a sandbox wrote: for its init (remove.c) and for its host (clear.c). */
#pragma once

/* What could not be removed, and the reason. */
struct culprit {
	int error;
	char text[256];
};

/* 0, also if there is no such name; -1 tells the culprit. */
int erase(int folder, const char *name, struct culprit *culprit);
