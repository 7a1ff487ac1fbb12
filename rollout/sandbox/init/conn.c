/* One connection: bytes in, frames out, its end. */
#define _GNU_SOURCE
#include "init.h"
#include "box.h"

#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define FIRST_INPUT (2u << 10)
#define MAX_ERROR_TEXT 1024

static void conn_ready(struct watch *watch, uint32_t events);
static void conn_input(struct conn *conn);
static void conn_output(struct conn *conn);

/* The last one that ended, with its buffer: memory mapped anew for each call took 40 us of it. */
static struct conn *spare;

static struct conn *conn_new(void)
{
	struct conn *conn = spare;

	if (conn) {
		spare = NULL;
		*conn = (struct conn){ .in = conn->in, .in_cap = conn->in_cap };
		return conn;
	}
	conn = calloc(1, sizeof(*conn));
	if (conn && !conn_reserve(conn, FIRST_INPUT)) {
		free(conn);
		return NULL;
	}
	return conn;
}

void conn_free(struct conn *conn)
{
	free(conn->out);
	if (!spare && conn->in_cap == FIRST_INPUT) {
		spare = conn;
		return;
	}
	free(conn->in);
	free(conn);
}

void conn_open(int fd)
{
	struct conn *conn = conn_new();

	if (!conn) {
		close(fd);
		return;
	}
	conn->sock.fd = fd;
	conn->sock.ready = conn_ready;
	proc_init(&conn->proc);
	conn->next = box.conns;
	box.conns = conn;
	box.live++;
	watch_set(&conn->sock, EPOLLIN | EPOLLRDHUP);
	/* The request is mostly there already: a round through the epoll is saved. */
	conn_input(conn);
}

/* Hanging up cancels whatever the connection stood for. */
void conn_close(struct conn *conn)
{
	if (conn->state == CONN_CLOSED)
		return;
	if (conn->state == CONN_PROC) {
		proc_kill(conn);
		proc_release(conn);
	} else if (conn->state == CONN_OP && conn->pid) {
		kill(conn->pid, SIGKILL);
		/* It holds the socket too and may take its time to die. */
		shutdown(conn->sock.fd, SHUT_RDWR);
	}
	watch_close(&conn->sock);
	conn->state = CONN_CLOSED;
	conn->pid = 0;
	box.live--;
	listener_rest(false);
}

static void conn_ready(struct watch *watch, uint32_t events)
{
	struct conn *conn = container_of(watch, struct conn, sock);

	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
		conn_close(conn);
		return;
	}
	if (events & EPOLLOUT)
		conn_output(conn);
	if (events & EPOLLIN && conn->state != CONN_CLOSED)
		conn_input(conn);
}

/* Output always goes; input only while somebody takes it. */
void conn_wants(struct conn *conn, bool input)
{
	uint32_t events = EPOLLRDHUP;

	if (input)
		events |= EPOLLIN;
	if (conn_unsent(conn))
		events |= EPOLLOUT;
	watch_set(&conn->sock, events);
}

/* ---- in */

/* Room for `bytes` unread bytes. */
bool conn_reserve(struct conn *conn, size_t bytes)
{
	char *grown;

	if (conn->in_pos) {
		memmove(conn->in, conn->in + conn->in_pos, conn->in_len - conn->in_pos);
		conn->in_len -= conn->in_pos;
		conn->in_pos = 0;
	}
	if (bytes <= conn->in_cap)
		return true;
	grown = realloc(conn->in, bytes);
	if (!grown)
		return false;
	conn->in = grown;
	conn->in_cap = bytes;
	return true;
}

/* Forgets what is read; a large request shall not stay as long as its process lives. */
void conn_trim(struct conn *conn, size_t keep)
{
	char *smaller;

	conn_reserve(conn, 0);
	if (conn->in_cap <= keep || conn->in_len > keep)
		return;
	smaller = realloc(conn->in, keep);
	if (!smaller)
		return;
	conn->in = smaller;
	conn->in_cap = keep;
}

static void request_input(struct conn *conn)
{
	uint32_t length;

	if (conn->in_len < sizeof(length))
		return;
	memcpy(&length, conn->in, sizeof(length));
	if (length < sizeof(struct wire_head) || length > WIRE_MAX_REQUEST) {
		conn_close(conn);
		return;
	}
	if (!conn_reserve(conn, sizeof(length) + length)) {
		conn_error(conn, ENOMEM, "a request of %u bytes", length);
		return;
	}
	if (conn->in_len >= sizeof(length) + length)
		dispatch(conn);
}

static void conn_input(struct conn *conn)
{
	ssize_t got;

	/* A full buffer is one that somebody still has to take from; reading 0 would be the end. */
	if (conn->in_len == conn->in_cap && !(conn_reserve(conn, 0) && conn->in_len < conn->in_cap))
		return;
	got = RETRY(recv(conn->sock.fd, conn->in + conn->in_len, conn->in_cap - conn->in_len, 0));
	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0) {
		conn_close(conn);
		return;
	}
	conn->in_len += (size_t)got;
	if (conn->state == CONN_READING)
		request_input(conn);
	else if (conn->state == CONN_PROC)
		input_take(conn);
	else
		conn_close(conn); /* nobody asked for it */
}

/* ---- out */

bool conn_unsent(const struct conn *conn)
{
	return conn->out_pos < conn->out_len;
}

static bool keep_unsent(struct conn *conn, const char *frame, size_t length)
{
	size_t kept = conn->out_len - conn->out_pos;

	if (kept + length > conn->out_cap) {
		char *grown = realloc(conn->out, conn->out_len + length);

		if (!grown)
			return false;
		conn->out = grown;
		conn->out_cap = conn->out_len + length;
	}
	memmove(conn->out, conn->out + conn->out_pos, kept);
	memcpy(conn->out + kept, frame, length);
	conn->out_pos = 0;
	conn->out_len = kept + length;
	return true;
}

static ssize_t send_some(struct conn *conn, const char *bytes, size_t length)
{
	ssize_t sent = RETRY(send(conn->sock.fd, bytes, length, MSG_NOSIGNAL));

	return sent < 0 && errno == EAGAIN ? 0 : sent;
}

static void conn_output(struct conn *conn)
{
	ssize_t sent = send_some(conn, conn->out + conn->out_pos, conn->out_len - conn->out_pos);

	if (sent < 0) {
		conn_close(conn);
		return;
	}
	conn->out_pos += (size_t)sent;
	if (conn_unsent(conn))
		return;
	conn->out_pos = conn->out_len = 0;
	conn_wants(conn, conn->sock.events & EPOLLIN);
	if (conn->state == CONN_FLUSHING)
		conn_close(conn);
	else if (conn->state == CONN_PROC)
		proc_sent(conn);
}

/*
 * Sends a whole frame and keeps what does not go. The buffer stays within two frames, because
 * nobody reads a pipe while something is unsent. False: the connection is over.
 */
bool conn_send_raw(struct conn *conn, const char *frame, size_t length)
{
	ssize_t sent = conn_unsent(conn) ? 0 : send_some(conn, frame, length);

	if (sent == (ssize_t)length)
		return true;
	if (sent < 0 || !keep_unsent(conn, frame + sent, length - (size_t)sent)) {
		conn_close(conn);
		return false;
	}
	conn_wants(conn, conn->sock.events & EPOLLIN);
	return true;
}

/* For short frames; those of a pipe are made in place, see proc.c. */
bool conn_send(struct conn *conn, uint8_t type, const void *payload, size_t length)
{
	char frame[WIRE_FRAME_HEAD + MAX_ERROR_TEXT + sizeof(uint32_t)];
	uint32_t size = (uint32_t)length;

	frame[0] = (char)type;
	memcpy(frame + 1, &size, sizeof(size));
	if (length)
		memcpy(frame + WIRE_FRAME_HEAD, payload, length);
	return conn_send_raw(conn, frame, WIRE_FRAME_HEAD + length);
}

/* All is said: close as soon as it is sent. */
void conn_finish(struct conn *conn)
{
	if (conn->state == CONN_CLOSED)
		return;
	if (conn->state == CONN_PROC)
		proc_release(conn);
	conn->state = CONN_FLUSHING;
	if (conn_unsent(conn))
		conn_wants(conn, false);
	else
		conn_close(conn);
}

/* All is said of this request: the next may come. */
void conn_again(struct conn *conn)
{
	proc_release(conn);
	if (conn->in_pos != conn->in_len) {
		conn_close(conn); /* nobody asked for it */
		return;
	}
	conn->in_pos = conn->in_len = 0;
	proc_init(&conn->proc);
	conn->state = CONN_READING;
	conn_wants(conn, true);
}

void conn_error(struct conn *conn, int err, const char *format, ...)
{
	char payload[sizeof(uint32_t) + MAX_ERROR_TEXT];
	uint32_t number = (uint32_t)err;
	char *text = payload + sizeof(number);
	va_list args;
	int length;

	memcpy(payload, &number, sizeof(number));
	va_start(args, format);
	length = vsnprintf(text, MAX_ERROR_TEXT, format, args);
	va_end(args);
	if (length < 0)
		length = 0;
	if (length >= MAX_ERROR_TEXT)
		length = MAX_ERROR_TEXT - 1;
	length += snprintf(text + length, (size_t)(MAX_ERROR_TEXT - length), ": %s", strerror(err));
	if (length >= MAX_ERROR_TEXT)
		length = MAX_ERROR_TEXT - 1;
	if (conn_send(conn, OUT_ERROR, payload, sizeof(number) + (size_t)length))
		conn_finish(conn);
}
