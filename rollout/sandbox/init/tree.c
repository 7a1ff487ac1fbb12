/* PACK_TREE and UNPACK_TREE. Below the top no link is followed. */
#define _GNU_SOURCE
#include "op.h"
#include "box.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#define MAX_DEPTH 128

/* ---- pack */

struct pack {
	const struct op *op;
	uint64_t bytes_left;
	uint32_t entries_left;
	char path[PATH_MAX]; /* of the entry, relative to the tree */
};

static void send_entry(struct pack *pack, char kind, mode_t mode, const char *target)
{
	struct wire_entry entry = { .kind = (uint8_t)kind, .mode = mode & 07777 };
	size_t path_size = strlen(pack->path) + 1, target_size = strlen(target) + 1;
	char *payload;

	if (!pack->entries_left--)
		op_fail(E2BIG, "more than %u names", pack->op->limit_entries);
	payload = op_payload();
	memcpy(payload, &entry, sizeof(entry));
	memcpy(payload + sizeof(entry), pack->path, path_size);
	memcpy(payload + sizeof(entry) + path_size, target, target_size);
	op_send(OUT_ENTRY, sizeof(entry) + path_size + target_size);
}

static void pack_content(struct pack *pack, int fd)
{
	ssize_t got;

	while ((got = RETRY(read(fd, op_payload(), WIRE_MAX_PAYLOAD))) > 0) {
		if ((uint64_t)got > pack->bytes_left)
			op_fail(EFBIG, "more than %llu bytes",
				(unsigned long long)pack->op->limit_bytes);
		pack->bytes_left -= (uint64_t)got;
		op_send(OUT_DATA, (size_t)got);
	}
	if (got < 0)
		op_fail(errno, "%s", pack->path);
}

static void pack_file(struct pack *pack, int folder, const char *name)
{
	_cleanup_fd_ int fd = openat(folder, name,
				     O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat found;

	if (fd < 0 && errno == ENOENT)
		return;
	if (fd < 0 || fstat(fd, &found))
		op_fail(errno, "%s", pack->path);
	if (!S_ISREG(found.st_mode)) {
		send_entry(pack, ENTRY_OTHER, 0, "");
		return;
	}
	send_entry(pack, ENTRY_FILE, found.st_mode, "");
	/* Told before it is read: a sparse file of a terabyte takes long to be too large. */
	if ((uint64_t)found.st_size > pack->bytes_left)
		op_fail(EFBIG, "%s has %lld bytes", pack->path, (long long)found.st_size);
	pack_content(pack, fd);
}

static void pack_link(struct pack *pack, int folder, const char *name)
{
	char target[PATH_MAX];
	ssize_t length = readlinkat(folder, name, target, sizeof(target));

	if (length < 0 && errno == ENOENT)
		return;
	if (length < 0)
		op_fail(errno, "%s", pack->path);
	if ((size_t)length == sizeof(target))
		op_fail(ENAMETOOLONG, "%s", pack->path);
	target[length] = '\0';
	send_entry(pack, ENTRY_LINK, 0777, target);
}

static int by_bytes(const void *left, const void *right)
{
	return strcmp(*(char *const *)left, *(char *const *)right);
}

/* The names of a folder, sorted so that equal trees pack equal. Takes the descriptor. */
static char **names_in(struct pack *pack, int fd, size_t *count)
{
	size_t room = 64;
	char **names = malloc(room * sizeof(*names));
	DIR *stream = fdopendir(fd);
	struct dirent *found;

	*count = 0;
	while (stream && names && (found = readdir(stream))) {
		if (!strcmp(found->d_name, ".") || !strcmp(found->d_name, ".."))
			continue;
		if (*count >= pack->entries_left)
			op_fail(E2BIG, "more than %u names", pack->op->limit_entries);
		if (*count == room)
			names = realloc(names, (room *= 2) * sizeof(*names));
		if (names && !(names[(*count)++] = strdup(found->d_name)))
			names = NULL;
	}
	if (!stream || !names)
		op_fail(ENOMEM, "%s", pack->path);
	closedir(stream);
	qsort(names, *count, sizeof(*names), by_bytes);
	return names;
}

static void pack_folder(struct pack *pack, int fd, int depth);

static void pack_one(struct pack *pack, int folder, const char *name, int depth)
{
	struct stat found;
	int fd;

	if (fstatat(folder, name, &found, AT_SYMLINK_NOFOLLOW)) {
		if (errno == ENOENT)
			return;
		op_fail(errno, "%s", pack->path);
	}
	if (S_ISREG(found.st_mode)) {
		pack_file(pack, folder, name);
	} else if (S_ISLNK(found.st_mode)) {
		pack_link(pack, folder, name);
	} else if (S_ISDIR(found.st_mode)) {
		fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			op_fail(errno, "%s", pack->path);
		send_entry(pack, ENTRY_DIR, found.st_mode, "");
		pack_folder(pack, fd, depth + 1);
	} else {
		send_entry(pack, ENTRY_OTHER, 0, "");
	}
}

static void pack_folder(struct pack *pack, int fd, int depth)
{
	size_t length = strlen(pack->path), count;
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	char **names;

	if (depth > MAX_DEPTH || own < 0)
		op_fail(depth > MAX_DEPTH ? ELOOP : errno, "%.100s... is too deep", pack->path);
	names = names_in(pack, own, &count);
	for (size_t i = 0; i < count; i++) {
		int written = snprintf(pack->path + length, sizeof(pack->path) - length, "%s%s",
				       length ? "/" : "", names[i]);

		if ((size_t)written >= sizeof(pack->path) - length)
			op_fail(ENAMETOOLONG, "%.100s...", pack->path);
		pack_one(pack, fd, names[i], depth);
		free(names[i]);
	}
	pack->path[length] = '\0';
	free(names);
	close(fd);
}

_Noreturn void pack_tree(const struct op *op)
{
	static struct pack pack;
	const char *name = strrchr(op->path, '/') + 1;
	int fd = open(op->path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat found;

	pack = (struct pack){ .op = op,
			      .bytes_left = op->limit_bytes,
			      .entries_left = op->limit_entries };
	if (fd < 0 || fstat(fd, &found))
		op_fail(errno, "%s", op->path);
	if (S_ISDIR(found.st_mode)) {
		pack_folder(&pack, fd, 1);
		op_done();
	}
	snprintf(pack.path, sizeof(pack.path), "%s", name);
	if (S_ISREG(found.st_mode)) {
		send_entry(&pack, ENTRY_FILE, found.st_mode, "");
		pack_content(&pack, fd);
	} else {
		send_entry(&pack, ENTRY_OTHER, 0, "");
	}
	op_done();
}

/* ---- unpack */

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
