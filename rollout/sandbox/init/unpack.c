/* UNPACK_TREE: entries laid over a folder. Below its top nothing goes through a link. */
#define _GNU_SOURCE
#include "op.h"
#include "box.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>

struct unpack {
	const struct op *op;
	int top;
	int file; /* whose content comes, or -1 */
	char path[PATH_MAX];
};

/* A folder of the tree: made, or there already and no link. An existing one stays as it is. */
static int enter(struct unpack *unpack, int folder, const char *name, mode_t mode)
{
	bool made = !mkdirat(folder, name, 0755);
	int fd;

	if (!made && errno != EEXIST)
		op_fail(errno, "folder %s", unpack->path);
	fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		op_fail(errno, "'%s' of %s is in the way of a folder", name, unpack->path);
	if (made)
		give(fd, unpack->path, unpack->op, mode);
	return fd;
}

/* The folder that the last name of `path` stands in; *name is that name. */
static int enter_parents(struct unpack *unpack, char *path, char **name)
{
	int folder = fcntl(unpack->top, F_DUPFD_CLOEXEC, 0);
	char *slash;

	while ((slash = strchr(path, '/'))) {
		int next;

		*slash = '\0';
		next = enter(unpack, folder, path, 0755);
		close(folder);
		folder = next;
		path = slash + 1;
	}
	*name = path;
	return folder;
}

static bool is_plain(const char *path)
{
	while (*path) {
		size_t length = strcspn(path, "/");

		if (!length || (length == 1 && path[0] == '.') ||
		    (length == 2 && path[0] == '.' && path[1] == '.'))
			return false;
		path += length;
		if (!*path)
			return true;
		path++;
	}
	return false;
}

static void clear_the_way(struct unpack *unpack, int folder, const char *name)
{
	if (!unlinkat(folder, name, 0) || errno == ENOENT)
		return;
	if (errno == EISDIR && !unlinkat(folder, name, AT_REMOVEDIR))
		return;
	op_fail(errno, "a folder is in the way of %s", unpack->path);
}

static int make_file(struct unpack *unpack, int folder, const char *name, mode_t mode)
{
	int fd;

	clear_the_way(unpack, folder, name);
	fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		op_fail(errno, "%s", unpack->path);
	give(fd, unpack->path, unpack->op, mode);
	return fd;
}

static void make_link(struct unpack *unpack, int folder, const char *name, const char *target)
{
	const struct user *owner = &unpack->op->owner;

	clear_the_way(unpack, folder, name);
	if (symlinkat(target, folder, name))
		op_fail(errno, "link %s", unpack->path);
	if (!owner->stay && fchownat(folder, name, owner->uid, owner->gid, AT_SYMLINK_NOFOLLOW))
		op_fail(errno, "owner of %s", unpack->path);
}

static void unpack_entry(struct unpack *unpack, const char *payload, uint32_t length)
{
	struct body body = { .at = payload, .end = payload + length };
	const struct wire_entry *entry = body_take(&body, sizeof(*entry));
	const char *path = body_string(&body), *target = body_string(&body);
	_cleanup_fd_ int folder = -1;
	char parts[PATH_MAX], *name;

	if (body.bad || body.at != body.end || strlen(path) >= PATH_MAX || !is_plain(path))
		op_fail(EINVAL, "a malformed entry");
	strcpy(unpack->path, path);
	strcpy(parts, path);
	folder = enter_parents(unpack, parts, &name);
	switch (entry->kind) {
	case ENTRY_FILE:
		unpack->file = make_file(unpack, folder, name, entry->mode & 07777);
		break;
	case ENTRY_DIR:
		close(enter(unpack, folder, name, entry->mode & 07777));
		break;
	case ENTRY_LINK:
		make_link(unpack, folder, name, target);
		break;
	default:
		op_fail(EINVAL, "%s is neither file, folder nor link", path);
	}
}

_Noreturn void unpack_tree(const struct op *op)
{
	static struct unpack unpack;
	const char *payload;
	uint32_t length;
	uint8_t type;

	make_folders(op->path, &op->owner);
	unpack.op = op;
	unpack.file = -1;
	unpack.top = open(op->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (unpack.top < 0)
		op_fail(errno, "%s", op->path);
	while ((type = op_receive(&payload, &length)) != IN_END) {
		if (type == IN_DATA && unpack.file >= 0) {
			write_content(unpack.file, unpack.path, payload, length);
			continue;
		}
		if (type != IN_ENTRY)
			op_fail(EINVAL, "content that belongs to no file");
		if (unpack.file >= 0)
			close(unpack.file);
		unpack.file = -1;
		unpack_entry(&unpack, payload, length);
	}
	op_done();
}
