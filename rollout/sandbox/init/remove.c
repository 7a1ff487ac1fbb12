/* REMOVE: a name with all below it. No link is followed below the folder that holds it. */
#define _GNU_SOURCE
#include "op.h"
#include "box.h"
#include "erase.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>

_Noreturn void remove_tree(const struct op *op)
{
	char path[PATH_MAX], *name;
	size_t length = strlen(op->path);
	struct culprit culprit;
	int top;

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
	if (erase(top, name, &culprit))
		op_fail(culprit.error, "%s", culprit.text);
	op_done();
}
