/* A name with all below it, however deep, removed. No link is followed below the folder given. */
#define _GNU_SOURCE
#include "erase.h"
#include "box.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* A descriptor and a buffer each. What lies deeper is walked with one descriptor at a time. */
#define MAX_DEPTH 200
/* Somebody may go on writing into what we empty. */
#define TRIES 5

struct eraser {
	struct culprit *culprit;
};

/* A folder on the way down, and the name in it that led on. */
struct step {
	dev_t dev;
	ino_t ino;
	char *name;
};

static int erase_one(struct eraser *e, int folder, const char *name, int depth);

static int blame(struct eraser *e, const char *name, const char *why)
{
	e->culprit->error = errno;
	snprintf(e->culprit->text, sizeof e->culprit->text, "%.200s%s", name, why);
	return -1;
}

static int enter(int folder, const char *name)
{
	return openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* ---- far below, where a descriptor a level is too much; no rename, for an overlay refuses those */

/* Removes what goes at once. *full is a folder that is not empty, or NULL if none is left. */
static int thin_out(struct eraser *e, int folder, char **full)
{
	int again = enter(folder, ".");
	DIR *stream = again < 0 ? NULL : fdopendir(again);
	struct dirent *found;
	int done = 0;

	*full = NULL;
	if (!stream) {
		blame(e, "a folder far below", "");
		cleanup_fd(&again);
		return -1;
	}
	while (!done && !*full && (found = readdir(stream))) {
		const char *name = found->d_name;

		if (!strcmp(name, ".") || !strcmp(name, "..") || !unlinkat(folder, name, 0) ||
		    errno == ENOENT)
			continue;
		if (errno == EISDIR && (!unlinkat(folder, name, AT_REMOVEDIR) || errno == ENOENT))
			continue;
		if (errno != ENOTEMPTY && errno != EEXIST)
			done = blame(e, name, "");
		else if (!(*full = strdup(name)))
			done = blame(e, name, "");
	}
	closedir(stream);
	return done;
}

static int descend(struct eraser *e, int *at, const char *name, struct step *step)
{
	int next = enter(*at, name);
	struct stat found;

	if (next < 0 || fstat(*at, &found)) {
		blame(e, name, "");
		cleanup_fd(&next);
		return -1;
	}
	step->dev = found.st_dev;
	step->ino = found.st_ino;
	close(*at);
	*at = next;
	return 0;
}

/* By "..", which is the way back only while nobody moves what we are in. */
static int ascend(struct eraser *e, int *at, const struct step *step)
{
	int up = openat(*at, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat found;

	if (up >= 0 && !fstat(up, &found)) {
		errno = EBUSY;
		if (found.st_dev == step->dev && found.st_ino == step->ino &&
		    (!unlinkat(up, step->name, AT_REMOVEDIR) || errno == ENOENT)) {
			close(*at);
			*at = up;
			return 0;
		}
	}
	blame(e, step->name, "");
	cleanup_fd(&up);
	return -1;
}

/* One step down or up. 1: nothing is left of it. */
static int walk(struct eraser *e, int *at, struct step **steps, size_t *depth)
{
	struct step *grown;
	char *name;

	if (thin_out(e, *at, &name))
		return -1;
	if (!name && !*depth)
		return 1;
	if (!name) {
		struct step *last = &(*steps)[*depth - 1];

		if (ascend(e, at, last))
			return -1;
		free(last->name);
		--*depth;
		return 0;
	}
	grown = realloc(*steps, (*depth + 1) * sizeof(**steps));
	if (!grown || descend(e, at, name, &grown[*depth])) {
		*steps = grown ? grown : *steps;
		free(name);
		return -1;
	}
	*steps = grown;
	grown[(*depth)++].name = name;
	return 0;
}

static int empty_deep(struct eraser *e, int folder)
{
	struct step *steps = NULL;
	size_t depth = 0;
	int at = enter(folder, "."), done = at < 0 ? blame(e, "a folder far below", "") : 0;

	while (!done)
		done = walk(e, &at, &steps, &depth);
	cleanup_fd(&at);
	while (depth)
		free(steps[--depth].name);
	free(steps);
	return done < 0 ? -1 : 0;
}

/* ---- and the rest, a descriptor and a list each */

static int empty(struct eraser *e, int folder, const char *name, int depth)
{
	int fd = enter(folder, name);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *found;
	int done = 0;

	if (!stream) {
		if (fd >= 0)
			close(fd);
		return errno == ENOENT || errno == ENOTDIR ? 0 : blame(e, name, "");
	}
	if (depth >= MAX_DEPTH)
		done = empty_deep(e, fd);
	while (!done && depth < MAX_DEPTH && (found = readdir(stream))) {
		if (strcmp(found->d_name, ".") && strcmp(found->d_name, ".."))
			done = erase_one(e, fd, found->d_name, depth + 1);
	}
	closedir(stream);
	return done;
}

static int erase_one(struct eraser *e, int folder, const char *name, int depth)
{
	if (!unlinkat(folder, name, 0) || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return blame(e, name, "");
	for (int tries = 0; tries < TRIES; tries++) {
		if (!unlinkat(folder, name, AT_REMOVEDIR) || errno == ENOENT)
			return 0;
		if (errno != ENOTEMPTY && errno != EEXIST)
			break;
		if (empty(e, folder, name, depth))
			return -1;
	}
	if (unlinkat(folder, name, AT_REMOVEDIR) && errno != ENOENT)
		return blame(e, name, "");
	return 0;
}

int erase(int folder, const char *name, struct culprit *culprit)
{
	struct eraser e = {.culprit = culprit};

	return erase_one(&e, folder, name, 0);
}
