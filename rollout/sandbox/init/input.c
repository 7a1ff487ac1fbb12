/* Input: frames of the host to a process. */
#define _GNU_SOURCE
#include "init.h"
#include "box.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#define END_OF_TRANSMISSION "\004"

/* Writes to stdin. Gives how much is done with; a process that reads no more takes it all. */
static size_t feed(struct conn *conn, const char *bytes, size_t length)
{
	struct watch *in = &conn->proc.in;
	ssize_t took;

	if (in->fd < 0)
		return length;
	took = RETRY(write(in->fd, bytes, length));
	if (took < 0 && errno == EAGAIN)
		return 0;
	if (took < 0) {
		watch_close(in);
		return length;
	}
	return (size_t)took;
}

static void resize(struct conn *conn, const uint16_t *size)
{
	struct winsize window = { .ws_row = size[0], .ws_col = size[1] };

	if (conn->proc.pty && conn->proc.out.watch.fd >= 0)
		ioctl(conn->proc.out.watch.fd, TIOCSWINSZ, &window);
}

/* One frame that is no STDIN. False: it breaks the rules. */
static bool control(struct conn *conn, uint8_t type, const char *payload, uint32_t length)
{
	uint16_t size[2];

	switch (type) {
	case IN_STDIN_EOF:
		watch_close(&conn->proc.in);
		return length == 0;
	case IN_RESIZE:
		if (length != sizeof(size))
			return false;
		memcpy(size, payload, sizeof(size));
		resize(conn, size);
		return true;
	default:
		return false;
	}
}

/* Takes one frame out of the buffer. False: none is there whole, or stdin is full. */
static bool take_frame(struct conn *conn)
{
	char *head = conn->in + conn->in_pos;
	size_t there = conn->in_len - conn->in_pos;
	uint32_t length;
	size_t done;

	if (there < WIRE_FRAME_HEAD)
		return false;
	memcpy(&length, head + 1, sizeof(length));
	if (length > WIRE_MAX_PAYLOAD) {
		conn_close(conn);
		return false;
	}
	if (there < WIRE_FRAME_HEAD + length) {
		if (!conn_reserve(conn, WIRE_FRAME_HEAD + length))
			conn_close(conn);
		return false;
	}
	/* A terminal's end of input is a byte like others: it waits for room as they do. */
	if (head[0] == IN_STDIN_EOF && !length && conn->proc.pty) {
		if (!feed(conn, END_OF_TRANSMISSION, 1)) {
			watch_set(&conn->proc.in, EPOLLOUT);
			return false;
		}
		conn->in_pos += WIRE_FRAME_HEAD;
		return true;
	}
	if (head[0] != IN_STDIN) {
		conn->in_pos += WIRE_FRAME_HEAD + length;
		if (!control(conn, (uint8_t)head[0], head + WIRE_FRAME_HEAD, length)) {
			conn_close(conn);
			return false;
		}
		return true;
	}
	done = feed(conn, head + WIRE_FRAME_HEAD, length);
	if (done == length) {
		conn->in_pos += WIRE_FRAME_HEAD + length;
		return true;
	}
	/* The rest becomes a shorter frame in the same place. */
	length -= (uint32_t)done;
	conn->in_pos += done;
	head += done;
	head[0] = IN_STDIN;
	memcpy(head + 1, &length, sizeof(length));
	watch_set(&conn->proc.in, EPOLLOUT);
	return false;
}

/* A process that does not read its stdin stops its own connection and nothing else. */
void input_take(struct conn *conn)
{
	if (conn->proc.in.events)
		return;
	while (take_frame(conn))
		;
	if (conn->state == CONN_PROC)
		conn_wants(conn, !conn->proc.in.events);
}

static void in_ready(struct watch *watch, uint32_t events)
{
	(void)events;
	watch_set(watch, 0);
	input_take(container_of(watch, struct conn, proc.in));
}

void input_init(struct conn *conn)
{
	conn->proc.in.ready = in_ready;
}
