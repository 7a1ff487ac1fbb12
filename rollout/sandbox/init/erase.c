/* A name with all below it, however deep, removed. No link is followed below the folder given. */
#define _GNU_SOURCE
#include "erase.h"
#include "box.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>

/* A descriptor and a buffer each. What lies deeper is first moved up, however deep it goes. */
#define MAX_DEPTH 200
#define MOVED_NAME ".rollout-removed-%u"
/* Somebody may go on writing into what we empty. */
#define TRIES 5

struct eraser {
	int top;
	unsigned moved;
	struct culprit *culprit;
};

static int erase_one(struct eraser *e, int folder, const char *name, int depth);

static int blame(struct eraser *e, const char *name, const char *why)
{
	e->culprit->error = errno;
	snprintf(e->culprit->text, sizeof e->culprit->text, "%.200s%s", name, why);
	return -1;
}

static int move_up(struct eraser *e, int folder, const char *name)
{
	char new_name[64];

	snprintf(new_name, sizeof(new_name), MOVED_NAME, e->moved++);
	return renameat(folder, name, e->top, new_name) ? blame(e, name, " is too deep") : 0;
}

static int empty(struct eraser *e, int folder, const char *name, int depth)
{
	int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *found;
	int done = 0;

	if (!stream) {
		if (fd >= 0)
			close(fd);
		return errno == ENOENT || errno == ENOTDIR ? 0 : blame(e, name, "");
	}
	while (!done && (found = readdir(stream))) {
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
	if (depth > MAX_DEPTH)
		return move_up(e, folder, name);
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
	struct eraser e = {.top = folder, .culprit = culprit};
	char moved_name[64];
	int done = erase_one(&e, folder, name, 0);

	for (unsigned removed = 0; !done && removed < e.moved; removed++) {
		snprintf(moved_name, sizeof(moved_name), MOVED_NAME, removed);
		done = erase_one(&e, folder, moved_name, 0);
	}
	return done;
}
