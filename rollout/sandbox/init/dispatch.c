/* A whole request: what it asks for. */
#include "init.h"
#include "box.h"

#include <signal.h>
#include <string.h>

const void *body_take(struct body *body, size_t bytes)
{
	const char *at = body->at;

	if (body->bad || (size_t)(body->end - at) < bytes) {
		body->bad = true;
		return NULL;
	}
	body->at += bytes;
	return at;
}

const char *body_string(struct body *body)
{
	const char *at = body->at;
	const char *end = body->bad ? NULL : memchr(at, '\0', (size_t)(body->end - at));

	if (!end) {
		body->bad = true;
		return "";
	}
	body->at = end + 1;
	return at;
}

static void dispatch_port(struct conn *conn, uint8_t op, struct body *body)
{
	const struct wire_port *port = body_take(body, sizeof(*port));

	if (body->bad)
		conn_close(conn);
	else if (op == OP_LISTEN)
		port_listen(conn, port->port);
	else
		port_connect(conn, port->port);
}

static void dispatch_signal(struct conn *conn, struct body *body)
{
	const struct wire_signal *wanted = body_take(body, sizeof(*wanted));

	if (body->bad || wanted->pid <= 1 || wanted->pid > INT32_MAX || wanted->signal < 1 ||
	    wanted->signal >= (uint32_t)NSIG) {
		conn_close(conn);
		return;
	}
	proc_signal((pid_t)wanted->pid, (int)wanted->signal);
	conn_send(conn, OUT_OK, NULL, 0);
	conn_finish(conn);
}

/* The request is complete; what follows it in the buffer are frames. */
void dispatch(struct conn *conn)
{
	uint32_t length;
	const struct wire_head *head;
	struct body body;

	memcpy(&length, conn->in, sizeof(length));
	body.at = conn->in + sizeof(length);
	body.end = body.at + length;
	body.bad = false;
	head = body_take(&body, sizeof(*head));
	if (head->version != WIRE_VERSION) {
		conn_error(conn, EPROTONOSUPPORT, "this init speaks version %d of the wire, not %d",
			   WIRE_VERSION, head->version);
		return;
	}
	if (box.killing && head->op != OP_KILL_ALL && head->op != OP_PING) {
		conn->state = CONN_HELD;
		conn_wants(conn, false);
		return;
	}
	conn->in_pos = sizeof(length) + length;
	switch (head->op) {
	case OP_EXEC:
		proc_start(conn, head->flags, &body);
		break;
	case OP_KILL_ALL:
		kill_all_start(conn);
		break;
	case OP_PING:
		conn_send(conn, OUT_OK, NULL, 0);
		conn_finish(conn);
		break;
	case OP_READ_FILE:
	case OP_WRITE_FILE:
	case OP_PACK_TREE:
	case OP_UNPACK_TREE:
	case OP_REMOVE:
		op_start(conn, head->op, &body);
		break;
	case OP_LISTEN:
	case OP_CONNECT:
		dispatch_port(conn, head->op, &body);
		break;
	case OP_SIGNAL:
		dispatch_signal(conn, &body);
		break;
	default:
		conn_close(conn);
	}
}
