/*
 * The init: PID 1 of a sandbox, and the only way into it.
 *
 *   init.c      the loop: accept, reap, deadlines, kill all
 *   conn.c      one connection: bytes in, frames out, its end
 *   dispatch.c  a whole request: what it asks for
 *   proc.c      EXEC: a process, its start and its end
 *   output.c    its output to the host, or to nowhere
 *   input.c     its stdin, and what else the host tells it
 *   spawn.c     the step from init to that process
 *   user.c      names of users, from /etc/passwd and /etc/group
 *   op.c        file operations, each in a child of its own
 *   file.c, pack.c, unpack.c, remove.c   what those children do
 *   port.c      LISTEN and CONNECT: sockets of the sandbox handed to the host
 *
 * One thread, one epoll. Nothing here waits for a client, a disk or a process.
 */
#pragma once

#include "wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

/* A descriptor in the epoll and what to call when it is ready. fd is -1 when closed. */
struct watch {
	int fd;
	uint32_t events; /* 0: not in the epoll */
	void (*ready)(struct watch *watch, uint32_t events);
};

#define container_of(pointer, type, member) \
	((type *)((char *)(pointer) - offsetof(type, member)))

void watch_set(struct watch *watch, uint32_t events);
void watch_close(struct watch *watch);

/* stdout or stderr of a process, or its terminal. */
struct stream {
	struct watch watch;
	uint8_t frame;       /* OUT_STDOUT or OUT_STDERR */
	uint64_t limit_left; /* what the host may still see */
	uint64_t last_bytes; /* after the exit: what may still be read */
	bool truncated;
};

struct proc {
	struct watch in; /* stdin, while open */
	struct stream out, err;
	int64_t deadline_ms; /* 0: none */
	int code;
	bool pty, keep, exited, timed_out, killed;
};

enum conn_state {
	CONN_READING,  /* its request is not complete */
	CONN_HELD,     /* complete, but waits until a KILL_ALL is done */
	CONN_PROC,     /* EXEC */
	CONN_OP,       /* a child talks to the host by itself */
	CONN_KILLING,  /* KILL_ALL, waits for the last process */
	CONN_FLUSHING, /* all is said; closes when it is sent */
	CONN_CLOSED,   /* freed after this round of events */
};

struct conn {
	struct watch sock;
	struct conn *next;
	enum conn_state state;
	char *in; /* the request, then frames; in_pos..in_len is unread */
	size_t in_pos, in_len, in_cap;
	char *out; /* out_pos..out_len is not sent yet */
	size_t out_pos, out_len, out_cap;
	pid_t pid; /* of CONN_PROC and CONN_OP until reaped, else 0 */
	struct proc proc;
};

/* The one init. */
struct box {
	int epoll, null;
	struct watch listener, signals;
	struct conn *conns;
	unsigned live;
	bool killing;          /* a KILL_ALL waits; nothing new is started */
	struct rlimit nofile;  /* as init found it, for its children */
	int oom_score;         /* descriptor of our own file, or -1 */
	char oom_score_own[8]; /* as init found it */
};

extern struct box box;

int64_t now_ms(void);
void listener_rest(bool rest);
void oom_score_set(const char *score);
void kill_all_start(struct conn *conn);

/* conn.c */
void conn_open(int fd);
void conn_close(struct conn *conn);
void conn_free(struct conn *conn);
void conn_wants(struct conn *conn, bool input);
bool conn_reserve(struct conn *conn, size_t bytes);
void conn_trim(struct conn *conn, size_t keep);
bool conn_send(struct conn *conn, uint8_t type, const void *payload, size_t length);
bool conn_send_raw(struct conn *conn, const char *frame, size_t length);
bool conn_unsent(const struct conn *conn);
void conn_finish(struct conn *conn);
void conn_again(struct conn *conn);
void conn_error(struct conn *conn, int err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* dispatch.c */
void dispatch(struct conn *conn);

/* A bounded walk over a body: sets `bad` instead of reading past the end. */
struct body {
	const char *at, *end;
	bool bad;
};
const void *body_take(struct body *body, size_t bytes);
const char *body_string(struct body *body);

/* proc.c */
void proc_init(struct proc *proc);
void proc_start(struct conn *conn, uint16_t flags, struct body *body);
void proc_sent(struct conn *conn);
void proc_reaped(struct conn *conn, int status);
void proc_kill(struct conn *conn);
void proc_signal(pid_t pid, int number);
void proc_release(struct conn *conn);

/* output.c */
void output_init(struct conn *conn, uint64_t limit);
void output_watch(struct conn *conn);
void output_last(struct conn *conn);
bool output_flush(struct conn *conn);
void output_release(struct conn *conn);

/* input.c */
void input_init(struct conn *conn);
void input_take(struct conn *conn);

/* user.c */
struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[64];
	size_t group_count;
	bool stay; /* root: init's own credentials are right */
	char name[64];
	char home[256];
};
int user_find(const char *spec, struct user *user);

#define OOM_SCORE_CHILD "500"

/* spawn.c */
struct spawn {
	char **argv; /* argv[-1] is free: for the shell of a script without #! */
	char **env;
	const char *path; /* PATH */
	const char *cwd;
	const struct user *user;
	int in, out, err;
	bool pty;
	volatile int error;            /* errno of the step that failed, else 0 */
	const char *volatile failed_at; /* that step; NULL: the program could not be run */
};
pid_t spawn_process(struct spawn *spawn);
int pty_open(const struct user *user, uint16_t rows, uint16_t cols, int *terminal);

/* op.c */
void op_start(struct conn *conn, uint8_t op, struct body *body);

/* port.c */
void port_listen(struct conn *conn, uint16_t port);
void port_connect(struct conn *conn, uint16_t port);
