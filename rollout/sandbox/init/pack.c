/* PACK_TREE: a folder as entries and content. Below its top no link is followed. */
#define _GNU_SOURCE
#include "op.h"
#include "box.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#define MAX_DEPTH 128

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
	/* Counted before they are sent: what waits at every level of a deep tree is bounded, too. */
	pack->entries_left -= (uint32_t)*count;
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
	if (!op->limit_entries)
		op_fail(E2BIG, "more than %u names", op->limit_entries);
	snprintf(pack.path, sizeof(pack.path), "%s", name);
	if (S_ISREG(found.st_mode)) {
		send_entry(&pack, ENTRY_FILE, found.st_mode, "");
		pack_content(&pack, fd);
	} else {
		send_entry(&pack, ENTRY_OTHER, 0, "");
	}
	op_done();
}
