/* REMOVE: a name with all below it. No link is followed below the folder that holds it. */
#define _GNU_SOURCE
#include "op.h"
#include "box.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

/* A descriptor and a buffer each. What lies deeper is first moved up, however deep it goes. */
#define MAX_DEPTH 200
#define MOVED_NAME ".rollout-removed-%u"
/* Somebody may go on writing into what we empty. */
#define TRIES 5

static int top;
static unsigned moved, removed;

static void remove_one(int folder, const char *name, int depth);

static void move_up(int folder, const char *name)
{
	char new_name[64];

	snprintf(new_name, sizeof(new_name), MOVED_NAME, moved++);
	if (renameat(folder, name, top, new_name))
		op_fail(errno, "%.200s is too deep", name);
}

static void empty(int folder, const char *name, int depth)
{
	int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *found;

	if (!stream) {
		if (errno == ENOENT || errno == ENOTDIR)
			return;
		op_fail(errno, "%.200s", name);
	}
	while ((found = readdir(stream))) {
		if (strcmp(found->d_name, ".") && strcmp(found->d_name, ".."))
			remove_one(fd, found->d_name, depth + 1);
	}
	closedir(stream);
}

static void remove_one(int folder, const char *name, int depth)
{
	if (!unlinkat(folder, name, 0) || errno == ENOENT)
		return;
	if (errno != EISDIR)
		op_fail(errno, "%.200s", name);
	if (depth > MAX_DEPTH) {
		move_up(folder, name);
		return;
	}
	for (int tries = 0; tries < TRIES; tries++) {
		if (!unlinkat(folder, name, AT_REMOVEDIR) || errno == ENOENT)
			return;
		if (errno != ENOTEMPTY && errno != EEXIST)
			break;
		empty(folder, name, depth);
	}
	if (unlinkat(folder, name, AT_REMOVEDIR) && errno != ENOENT)
		op_fail(errno, "%.200s", name);
}

_Noreturn void remove_tree(const struct op *op)
{
	char path[PATH_MAX], *name;
	size_t length = strlen(op->path);

	while (length > 1 && op->path[length - 1] == '/')
		length--;
	if (length >= sizeof(path))
		op_fail(ENAMETOOLONG, "%.100s...", op->path);
	memcpy(path, op->path, length);
	path[length] = '\0';
	name = strrchr(path, '/') + 1;
	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		op_fail(EINVAL, "%s cannot be removed", op->path);
	name[-1] = '\0';
	top = open(name - 1 == path ? "/" : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (top < 0) {
		if (errno == ENOENT || errno == ENOTDIR)
			op_done();
		op_fail(errno, "%s", op->path);
	}
	remove_one(top, name, 0);
	while (removed < moved) {
		snprintf(path, sizeof(path), MOVED_NAME, removed++);
		remove_one(top, path, 0);
	}
	op_done();
}
