/* READ_FILE and WRITE_FILE. Links are followed: they lead nowhere but into the sandbox. */
#define _GNU_SOURCE
#include "op.h"
#include "box.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>

_Noreturn void read_file(const struct op *op)
{
	uint64_t left = op->limit_bytes;
	/* NONBLOCK: a fifo would wait for a writer that never comes. */
	int fd = open(op->path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat found;
	ssize_t got;

	if (fd < 0 || fstat(fd, &found))
		op_fail(errno, "%s", op->path);
	if (!S_ISREG(found.st_mode))
		op_fail(S_ISDIR(found.st_mode) ? EISDIR : EINVAL, "%s is no regular file", op->path);
	/* The size is only a hint: files of /proc say 0, others grow. */
	while ((got = RETRY(read(fd, op_payload(), WIRE_MAX_PAYLOAD))) > 0) {
		if ((uint64_t)got > left)
			op_fail(EFBIG, "%s has more than %llu bytes", op->path,
				(unsigned long long)op->limit_bytes);
		left -= (uint64_t)got;
		op_send(OUT_DATA, (size_t)got);
	}
	if (got < 0)
		op_fail(errno, "%s", op->path);
	op_done();
}

void write_content(int fd, const char *name, const char *bytes, size_t length)
{
	while (length) {
		ssize_t some = RETRY(write(fd, bytes, length));

		if (some < 0)
			op_fail(errno, "%s", name);
		bytes += some;
		length -= (size_t)some;
	}
}

/* Owner before mode: a change of owner takes the set-user-id bits away. */
void give(int fd, const char *name, const struct op *op, mode_t mode)
{
	if (!op->owner.stay && fchown(fd, op->owner.uid, op->owner.gid))
		op_fail(errno, "owner of %s", name);
	if (fchmod(fd, mode))
		op_fail(errno, "mode of %s", name);
}

/* Every folder of `path` that is missing, the last one included. */
void make_folders(const char *path, const struct user *owner)
{
	char part[PATH_MAX];
	size_t length = strlen(path);

	if (length >= sizeof(part))
		op_fail(ENAMETOOLONG, "%.100s...", path);
	for (size_t at = 1; at <= length; at++) {
		if (path[at] != '/' && path[at] != '\0')
			continue;
		memcpy(part, path, at);
		part[at] = '\0';
		if (!mkdir(part, 0755)) {
			if (!owner->stay && lchown(part, owner->uid, owner->gid))
				op_fail(errno, "owner of %s", part);
		} else if (errno != EEXIST) {
			op_fail(errno, "folder %s", part);
		}
	}
}

static int open_to_write(const char *path)
{
	return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
}

static int open_or_make(const struct op *op)
{
	int fd = open_to_write(op->path);
	char parent[PATH_MAX];

	if (fd < 0 && errno == ENOENT) {
		if (snprintf(parent, sizeof(parent), "%s", op->path) >= (int)sizeof(parent))
			op_fail(ENAMETOOLONG, "%.100s...", op->path);
		*strrchr(parent, '/') = '\0';
		make_folders(parent, &op->owner);
		fd = open_to_write(op->path);
	}
	/* A program that runs cannot be written, but it can give its name away. */
	if (fd < 0 && errno == ETXTBSY && !unlink(op->path))
		fd = open_to_write(op->path);
	return fd;
}

_Noreturn void write_file(const struct op *op)
{
	int fd = open_or_make(op);
	const char *bytes;
	struct stat found;
	uint32_t length;
	uint8_t type;

	if (fd < 0 || fstat(fd, &found))
		op_fail(errno, "%s", op->path);
	if (!S_ISREG(found.st_mode))
		op_fail(EINVAL, "%s is no regular file", op->path);
	while ((type = op_receive(&bytes, &length)) == IN_DATA)
		write_content(fd, op->path, bytes, length);
	if (type != IN_END)
		_exit(1);
	give(fd, op->path, op, op->mode);
	op_done();
}
