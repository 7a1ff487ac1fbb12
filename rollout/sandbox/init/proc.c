/* EXEC: a process, its start and its end. */
#define _GNU_SOURCE
#include "init.h"
#include "box.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define FULL_FRAME (WIRE_FRAME_HEAD + WIRE_MAX_PAYLOAD)

void proc_init(struct proc *proc)
{
	*proc = (struct proc){ .in.fd = -1, .out.watch.fd = -1, .err.watch.fd = -1 };
}

/* ---- the exit */

static void tell_exit(struct conn *conn)
{
	struct proc *proc = &conn->proc;
	struct wire_exit told = { .code = proc->code };

	if (proc->out.truncated || proc->err.truncated)
		told.flags |= EXIT_TRUNCATED;
	if (proc->timed_out)
		told.flags |= EXIT_TIMED_OUT;
	if (proc->killed)
		told.flags |= EXIT_KILLED;
	if (!conn_send(conn, OUT_EXIT, &told, sizeof(told)))
		return;
	if (proc->keep)
		conn_again(conn);
	else
		conn_finish(conn);
}

/* Everything unsent has gone. */
void proc_sent(struct conn *conn)
{
	if (!conn->proc.exited)
		output_watch(conn);
	else if (output_flush(conn))
		tell_exit(conn);
}

void proc_reaped(struct conn *conn, int status)
{
	struct proc *proc = &conn->proc;

	proc->exited = true;
	proc->deadline_ms = 0;
	proc->code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	watch_close(&proc->in);
	output_last(conn);
	conn_wants(conn, false);
	if (output_flush(conn))
		tell_exit(conn);
}

/* The process leads its own session, so its group is its number. Not once it is reaped: the
 * background children of a process that ended in order live on. */
void proc_kill(struct conn *conn)
{
	if (conn->pid)
		kill(-conn->pid, SIGKILL);
}

/* Only to what the host started itself and what has not been reaped: no number is meant twice. */
void proc_signal(pid_t pid, int number)
{
	for (struct conn *conn = box.conns; conn; conn = conn->next) {
		if (conn->state == CONN_PROC && conn->pid == pid)
			kill(-pid, number);
	}
}

void proc_release(struct conn *conn)
{
	watch_close(&conn->proc.in);
	output_release(conn);
}

/* ---- the start */

static bool open_pipe(int *read_end, int *write_end)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		return false;
	*read_end = ends[0];
	*write_end = ends[1];
	return true;
}

static bool no_waiting(int fd)
{
	return !fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* Our ends go into conn->proc, the child's into spawn. */
static bool open_pipes(struct proc *proc, struct spawn *spawn, bool wants_stdin)
{
	if (wants_stdin && !(open_pipe(&spawn->in, &proc->in.fd) && no_waiting(proc->in.fd)))
		return false;
	return open_pipe(&proc->out.watch.fd, &spawn->out) && no_waiting(proc->out.watch.fd) &&
	       open_pipe(&proc->err.watch.fd, &spawn->err) && no_waiting(proc->err.watch.fd);
}

static bool open_terminal(struct proc *proc, struct spawn *spawn, const struct wire_exec *exec)
{
	proc->out.watch.fd = pty_open(spawn->user, exec->rows, exec->cols, &spawn->in);
	if (proc->out.watch.fd < 0)
		return false;
	/* A second descriptor, so that stdin may wait while output goes on. */
	proc->in.fd = fcntl(proc->out.watch.fd, F_DUPFD_CLOEXEC, 5);
	spawn->out = spawn->err = spawn->in;
	return proc->in.fd >= 0;
}

static void close_ends(const struct spawn *spawn)
{
	if (spawn->in >= 0 && spawn->in != box.null)
		close(spawn->in);
	if (spawn->out >= 0 && spawn->out != spawn->in)
		close(spawn->out);
	if (spawn->err >= 0 && spawn->err != spawn->out)
		close(spawn->err);
}

static const char *env_find(char **env, const char *name)
{
	size_t length = strlen(name);

	for (; *env; env++) {
		if (!strncmp(*env, name, length) && (*env)[length] == '=')
			return *env + length + 1;
	}
	return NULL;
}

/* Only what no program can do without, and only where the host has not said it. */
static void env_defaults(char **env, size_t count, const struct user *user, char *home, char *name)
{
	if (!env_find(env, "PATH"))
		env[count++] = (char *)"PATH=" DEFAULT_PATH;
	if (!env_find(env, "HOME")) {
		sprintf(home, "HOME=%s", user->home);
		env[count++] = home;
	}
	if (!env_find(env, "USER")) {
		sprintf(name, "USER=%s", user->name);
		env[count++] = name;
	}
	env[count] = NULL;
}

static void take_strings(struct body *body, char **strings, uint32_t count)
{
	for (uint32_t i = 0; i < count && !body->bad; i++)
		strings[i] = (char *)body_string(body);
}

/* As a shell says it: the reason on stderr, 127 for what is not there and 126 for the rest. */
static void tell_not_run(struct conn *conn, const struct spawn *spawn)
{
	struct proc *proc = &conn->proc;
	char text[512];
	int length = snprintf(text, sizeof(text), "rollout-box: %.400s: %s\n", spawn->argv[0],
			      strerror(spawn->error));

	proc->exited = true;
	proc->code = spawn->error == ENOENT || spawn->error == ENOTDIR ? 127 : 126;
	if ((uint64_t)length > proc->err.limit_left) {
		length = (int)proc->err.limit_left;
		proc->err.truncated = true;
	}
	if (!length || conn_send(conn, proc->err.frame, text, (size_t)length))
		tell_exit(conn);
}

static void tell_started(struct conn *conn, const struct spawn *spawn, uint16_t flags)
{
	uint32_t pid = (uint32_t)conn->pid;

	if (spawn->error && spawn->failed_at) {
		conn->pid = 0;
		conn_error(conn, spawn->error, "%s", spawn->failed_at);
		return;
	}
	if (flags & EXEC_ANNOUNCE && !conn_send(conn, OUT_STARTED, &pid, sizeof(pid)))
		return;
	if (spawn->error) {
		conn->pid = 0;
		tell_not_run(conn, spawn);
		return;
	}
	output_watch(conn);
	conn_trim(conn, FULL_FRAME);
	input_take(conn);
}

static void run(struct conn *conn, uint16_t flags, const struct wire_exec *exec,
		struct spawn *spawn)
{
	struct proc *proc = &conn->proc;
	bool opened;

	spawn->in = box.null;
	spawn->out = spawn->err = -1;
	proc->pty = spawn->pty = flags & EXEC_PTY;
	/* What it is told beside its request could be taken for the next. */
	proc->keep = (flags & (EXEC_KEEP | EXEC_STDIN | EXEC_PTY)) == EXEC_KEEP;
	output_init(conn, exec->output_limit);
	input_init(conn);
	conn->state = CONN_PROC;
	opened = spawn->pty ? open_terminal(proc, spawn, exec) :
			      open_pipes(proc, spawn, flags & EXEC_STDIN);
	if (!opened) {
		int err = errno;

		close_ends(spawn);
		conn_error(conn, err, "cannot open %s", spawn->pty ? "a terminal" : "a pipe");
		return;
	}
	if (exec->timeout_ms)
		proc->deadline_ms = now_ms() + exec->timeout_ms;
	conn->pid = spawn_process(spawn);
	close_ends(spawn);
	if (conn->pid < 0) {
		conn->pid = 0;
		conn_error(conn, spawn->error, "cannot start a process");
		return;
	}
	tell_started(conn, spawn, flags);
}

void proc_start(struct conn *conn, uint16_t flags, struct body *body)
{
	const struct wire_exec *exec = body_take(body, sizeof(*exec));
	const char *cwd = body_string(body), *user_name = body_string(body);
	size_t left = body->bad ? 0 : (size_t)(body->end - body->at);
	_cleanup_free_ char **strings = NULL;
	char home[sizeof("HOME=") + sizeof(((struct user *)0)->home)];
	char name[sizeof("USER=") + sizeof(((struct user *)0)->name)];
	struct spawn spawn = { 0 };
	struct user user;
	char **env;
	int err;

	/* Each string takes at least its NUL, so this bounds the counts before they are believed. */
	if (body->bad || !exec->argc || (uint64_t)exec->argc + exec->envc > left) {
		conn_close(conn);
		return;
	}
	/* One slot for a shell, then argv, NULL, env, up to three defaults, NULL. */
	strings = calloc((size_t)exec->argc + exec->envc + 6, sizeof(*strings));
	if (!strings) {
		conn_error(conn, ENOMEM, "%u arguments and variables", exec->argc + exec->envc);
		return;
	}
	spawn.argv = strings + 1;
	env = spawn.argv + exec->argc + 1;
	take_strings(body, spawn.argv, exec->argc);
	take_strings(body, env, exec->envc);
	if (body->bad || body->at != body->end) {
		conn_close(conn);
		return;
	}
	err = user_find(user_name, &user);
	if (err) {
		conn_error(conn, err, "user '%.200s'", user_name);
		return;
	}
	env_defaults(env, exec->envc, &user, home, name);
	spawn.env = env;
	spawn.path = env_find(env, "PATH");
	spawn.cwd = *cwd ? cwd : "/";
	spawn.user = &user;
	run(conn, flags, exec, &spawn);
}
