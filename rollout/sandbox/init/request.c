/* The line protocol's only rich line: create <id> <key>=<value> …, split at tabs. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int parse_number(const char *text, unsigned long long most, unsigned long long *number)
{
	char *end;
	errno = 0;
	*number = strtoull(text, &end, 10);
	if (errno || end == text || *end || *number > most) {
		errno = 0;
		return failed("not a number up to %llu: '%s'", most, text);
	}
	return 0;
}

/* `<first uid>:<path>` */
static int parse_layer(char *text, struct stack *stack)
{
	char *colon = strchr(text, ':');
	unsigned long long owner;
	errno = 0;
	if (!colon || colon[1] != '/')
		return failed("a layer is <uid>:<absolute path>, not '%s'", text);
	if (stack->count == MAX_LAYERS)
		return failed("more than %d layers; make an image of them first", MAX_LAYERS);
	*colon = 0;
	if (parse_number(text, UINT32_MAX - RANGE, &owner))
		return -1;
	stack->at[stack->count++] =
		(struct layer){.owner = (uint32_t)owner, .path = colon + 1, .map = -1};
	return 0;
}

static int parse_field(char *key, char *value, struct request *r)
{
	unsigned long long number;
	errno = 0;
	if (!strcmp(key, "root"))
		return parse_layer(value, &r->root);
	if (!strcmp(key, "usr"))
		return parse_layer(value, &r->usr);
	if (!strcmp(key, "uids")) {
		if (parse_number(value, UINT32_MAX - RANGE, &number))
			return -1;
		r->uids = (uint32_t)number;
		return 0;
	}
	if (!strcmp(key, "tmpfs"))
		return parse_number(value, UINT64_MAX, &r->scratch_bytes);
	if (!strcmp(key, "subvolume")) {
		r->subvolume = true;
		return parse_number(value, UINT64_MAX, &r->subvolume_bytes);
	}
	if (!strcmp(key, "cgroup")) {
		r->cgroup = value;
		return 0;
	}
	if (!strcmp(key, "join") && r->join_count < MAX_JOINS) {
		r->joins[r->join_count++] = value;
		return 0;
	}
	if (!strcmp(key, "write") && r->write_count < MAX_WRITES) {
		r->writes[r->write_count++] = value;
		return 0;
	}
	if (!strcmp(key, "data"))
		return parse_number(value, UINT64_MAX, &r->data_bytes);
	if (!strcmp(key, "processes"))
		return parse_number(value, UINT32_MAX, &r->processes);
	if (!strcmp(key, "network")) {
		if (strcmp(value, "host"))
			return failed("network=%s: there is only host, or no such field", value);
		r->host_network = true;
		return 0;
	}
	if (!strcmp(key, "room")) {
		r->room_name = value;
		return 0;
	}
	if (!strcmp(key, "sudo")) {
		r->sudo = *value == '1';
		return 0;
	}
#ifdef ROLLOUT_WEAKEN
	if (!strcmp(key, "weaken")) {
		r->weaken = value;
		return 0;
	}
#endif
	return failed("unknown field or too many of it: '%s'", key);
}

static int parse_fields(char *line, struct request *r)
{
	*r = (struct request){
		.userns = -1, .scratch = -1, .network = -1, .cgroup_fd = -1, .room = NO_ROOM};
	r->id = strsep(&line, "\t");
	for (char *field; (field = strsep(&line, "\t"));) {
		char *value = strchr(field, '=');
		errno = 0;
		if (!value)
			return failed("a field is key=value, not '%s'", field);
		*value++ = 0;
		if (parse_field(field, value, r))
			return -1;
	}
	errno = 0;
	if (!r->id || !*r->id || strchr(r->id, '/') || strlen(r->id) > 64)
		return failed("a sandbox needs a short id without '/'");
	/* An ordinary user's launcher is not in the host's network itself. */
	if (r->host_network && unprivileged)
		return failed("network=host needs root");
	if (!r->root.count || (!unprivileged && !r->uids))
		return failed("a sandbox needs uids and root");
	return 0;
}

int parse_create(char *line, struct request *r)
{
	if (parse_fields(line, r))
		return -1;
	errno = 0;
	return !unprivileged && !r->cgroup ? failed("a sandbox needs a cgroup") : 0;
}

int parse_room(char *line, struct request *r)
{
	int done = parse_fields(line, r);
	r->ahead = true;
	return done;
}
