/*
 * File operations, each in a child of its own: a fifo, a slow disk or a slow host holds up nobody
 * else, and whatever goes wrong dies with it. The child talks to the host by itself; init only
 * waits for its end, and kills it when the host hangs up.
 */
#define _GNU_SOURCE
#include "op.h"
#include "box.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define FULL_FRAME (WIRE_FRAME_HEAD + WIRE_MAX_PAYLOAD)
#define INPUT_BYTES (4 * FULL_FRAME)
#define OUTPUT_BYTES (4 * FULL_FRAME)
#define HOST_FD 3

/* In the child: whole frames to the host, bytes from it. */
static char output[OUTPUT_BYTES];
static size_t output_length;
static char *input;
static size_t input_pos, input_length;

/* ---- out */

static void flush(void)
{
	size_t sent = 0;

	while (sent < output_length) {
		ssize_t some = RETRY(send(HOST_FD, output + sent, output_length - sent, MSG_NOSIGNAL));

		if (some < 0)
			_exit(1);
		sent += (size_t)some;
	}
	output_length = 0;
}

char *op_payload(void)
{
	if (sizeof(output) - output_length < FULL_FRAME)
		flush();
	return output + output_length + WIRE_FRAME_HEAD;
}

void op_send(uint8_t type, size_t length)
{
	uint32_t size = (uint32_t)length;

	output[output_length] = (char)type;
	memcpy(output + output_length + 1, &size, sizeof(size));
	output_length += WIRE_FRAME_HEAD + length;
}

/* Files are closed before the host hears of it: it may execute what it wrote at once. */
_Noreturn void op_done(void)
{
	if (syscall(SYS_close_range, HOST_FD + 1, ~0U, 0) < 0)
		op_fail(errno, "cannot close what was written");
	op_payload();
	op_send(OUT_OK, 0);
	flush();
	_exit(0);
}

_Noreturn void op_fail(int err, const char *format, ...)
{
	uint32_t number = (uint32_t)err;
	char *payload = op_payload(), *text = payload + sizeof(number);
	size_t room = 4096, length;
	va_list args;

	memcpy(payload, &number, sizeof(number));
	va_start(args, format);
	vsnprintf(text, room, format, args);
	va_end(args);
	length = strlen(text);
	snprintf(text + length, room - length, ": %s", strerror(err));
	op_send(OUT_ERROR, sizeof(number) + strlen(text));
	flush();
	_exit(1);
}

/* ---- in */

static void need(size_t bytes)
{
	while (input_length - input_pos < bytes) {
		ssize_t got;

		if (input_pos) {
			memmove(input, input + input_pos, input_length - input_pos);
			input_length -= input_pos;
			input_pos = 0;
		}
		got = RETRY(recv(HOST_FD, input + input_length, INPUT_BYTES - input_length, 0));
		if (got <= 0)
			_exit(1);
		input_length += (size_t)got;
	}
}

uint8_t op_receive(const char **payload, uint32_t *length)
{
	uint8_t type;

	need(WIRE_FRAME_HEAD);
	memcpy(length, input + input_pos + 1, sizeof(*length));
	if (*length > WIRE_MAX_PAYLOAD)
		_exit(1);
	need(WIRE_FRAME_HEAD + *length);
	type = (uint8_t)input[input_pos];
	*payload = input + input_pos + WIRE_FRAME_HEAD;
	input_pos += WIRE_FRAME_HEAD + *length;
	return type;
}

/* ---- the child */

/* Only the host stays open: a copy of another's connection or pipe would keep it from ending. */
static void keep_only_host(int fd)
{
	if (dup2(fd, HOST_FD) < 0)
		_exit(1);
	if (syscall(SYS_close_range, HOST_FD + 1U, ~0U, 0)) {
		for (int other = HOST_FD + 1; other < 65536; other++)
			close(other);
	}
	/* The flag is shared with init, which touches this socket no more. */
	if (fcntl(HOST_FD, F_SETFL, 0))
		_exit(1);
}

static void take_over_input(const struct conn *conn)
{
	input_length = conn->in_len - conn->in_pos;
	input = malloc(input_length > INPUT_BYTES ? input_length : INPUT_BYTES);
	if (!input)
		_exit(1);
	memcpy(input, conn->in + conn->in_pos, input_length);
}

static _Noreturn void child(struct conn *conn, uint8_t kind, struct op *op, const char *owner)
{
	int err;

	take_over_input(conn);
	keep_only_host(conn->sock.fd);
	err = user_find(owner, &op->owner);
	if (err)
		op_fail(err, "user '%.200s'", owner);
	switch (kind) {
	case OP_READ_FILE:
		read_file(op);
	case OP_WRITE_FILE:
		write_file(op);
	case OP_PACK_TREE:
		pack_tree(op);
	case OP_UNPACK_TREE:
		unpack_tree(op);
	default:
		remove_tree(op);
	}
}

void op_start(struct conn *conn, uint8_t kind, struct body *body)
{
	const struct wire_file *file = body_take(body, sizeof(*file));
	const char *path = body_string(body), *owner = body_string(body);
	struct op op;
	pid_t pid;

	if (body->bad || body->at != body->end || *path != '/') {
		conn_close(conn);
		return;
	}
	op = (struct op){ .path = path,
			  .mode = file->mode & 07777,
			  .limit_bytes = file->limit_bytes,
			  .limit_entries = file->limit_entries };
	oom_score_set(OOM_SCORE_CHILD);
	pid = fork();
	if (pid == 0)
		child(conn, kind, &op, owner);
	oom_score_set(box.oom_score_own);
	if (pid < 0) {
		conn_error(conn, errno, "cannot start a file operation");
		return;
	}
	conn->pid = pid;
	conn->state = CONN_OP;
	conn_wants(conn, false);
}
