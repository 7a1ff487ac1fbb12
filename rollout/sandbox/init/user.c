/* Names of users, from the sandbox's own /etc/passwd and /etc/group. No NSS: init is static. */
#define _GNU_SOURCE
#include "init.h"
#include "box.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_FILE (1u << 20)
#define MAX_GROUPS (sizeof(((struct user *)0)->groups) / sizeof(gid_t))

/* The whole file with a NUL behind it, or NULL. The sandbox wrote it: it may be anything. */
static char *read_small(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat found;
	char *text;
	ssize_t got;

	if (fd < 0 || fstat(fd, &found) || !S_ISREG(found.st_mode) || found.st_size > MAX_FILE)
		return NULL;
	text = malloc((size_t)found.st_size + 1);
	if (!text)
		return NULL;
	got = RETRY(read(fd, text, (size_t)found.st_size));
	text[got > 0 ? got : 0] = '\0';
	return text;
}

/* Splits the next line at its colons. Gives the number of fields, -1 at the end. */
static int next_line(char **at, char **fields, int most)
{
	char *line = strsep(at, "\n");
	int count = 0;

	if (!line)
		return -1;
	while (line && count < most)
		fields[count++] = strsep(&line, ":");
	return count;
}

static bool number_of(const char *text, uint32_t *number)
{
	char *end;
	unsigned long value;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	/* The largest one means "unchanged" to the kernel. */
	if (errno || *end || value >= UINT32_MAX)
		return false;
	*number = (uint32_t)value;
	return true;
}

static void copy_name(char *to, size_t size, const char *from)
{
	size_t length = strnlen(from, size - 1);

	memcpy(to, from, length);
	to[length] = '\0';
}

/* Finds a line by name or number: uid, gid, name, home. */
static bool find_passwd(const char *name, bool numeric, uint32_t uid, struct user *user)
{
	_cleanup_free_ char *text = read_small("/etc/passwd");
	char *at = text, *fields[7];
	int count;

	while (text && (count = next_line(&at, fields, 7)) >= 0) {
		uint32_t line_uid, line_gid;

		if (count < 6 || !number_of(fields[2], &line_uid) || !number_of(fields[3], &line_gid))
			continue;
		if (numeric ? line_uid != uid : strcmp(fields[0], name) != 0)
			continue;
		user->uid = line_uid;
		user->gid = line_gid;
		copy_name(user->name, sizeof(user->name), fields[0]);
		copy_name(user->home, sizeof(user->home), fields[5]);
		return true;
	}
	return false;
}

static bool find_group(const char *name, gid_t *gid)
{
	_cleanup_free_ char *text = NULL;
	char *at, *fields[4];
	int count;

	if (number_of(name, gid))
		return true;
	at = text = read_small("/etc/group");
	while (text && (count = next_line(&at, fields, 4)) >= 0) {
		if (count >= 3 && !strcmp(fields[0], name) && number_of(fields[2], gid))
			return true;
	}
	return false;
}

static bool lists(char *members, const char *name)
{
	char *member;

	while ((member = strsep(&members, ","))) {
		if (!strcmp(member, name))
			return true;
	}
	return false;
}

static void find_groups(struct user *user)
{
	_cleanup_free_ char *text = read_small("/etc/group");
	char *at = text, *fields[4];
	int count;

	user->groups[0] = user->gid;
	user->group_count = 1;
	while (text && (count = next_line(&at, fields, 4)) >= 0) {
		gid_t gid;

		if (count < 4 || user->group_count == MAX_GROUPS || !number_of(fields[2], &gid))
			continue;
		if (gid != user->gid && lists(fields[3], user->name))
			user->groups[user->group_count++] = gid;
	}
}

static void be_root(struct user *user)
{
	user->stay = true;
	copy_name(user->name, sizeof(user->name), "root");
	copy_name(user->home, sizeof(user->home), "/root");
}

/* `name`, `uid`, either with `:group`; empty is root. Gives an errno, 0 if found. */
int user_find(const char *spec, struct user *user)
{
	char name[256], *group;
	uint32_t uid = 0;
	bool numeric;

	memset(user, 0, sizeof(*user));
	if (strlen(spec) >= sizeof(name))
		return ENAMETOOLONG;
	strcpy(name, spec);
	group = strchr(name, ':');
	if (group)
		*group++ = '\0';
	/* Root stays what init is: where one uid is all there is, nothing could be changed. */
	if (!group && (!*name || !strcmp(name, "root") || !strcmp(name, "0"))) {
		be_root(user);
		return 0;
	}
	numeric = number_of(name, &uid);
	if (!find_passwd(name, numeric, uid, user)) {
		if (!numeric)
			return ENOENT;
		/* As Docker does for a number that has no name: root's group, no home. */
		user->uid = uid;
		copy_name(user->name, sizeof(user->name), name);
		copy_name(user->home, sizeof(user->home), "/");
	}
	if (!group || !*group) {
		find_groups(user);
		return 0;
	}
	user->groups[0] = user->gid;
	user->group_count = 1;
	if (!find_group(group, &user->gid))
		return ENOENT;
	user->groups[0] = user->gid;
	return 0;
}
