"""The way of an agent out of its sandbox, where its blueprint gives it one: a proxy on this side.

addresses   which addresses nobody reaches, and which only a rule of their own opens
rules       `network` and `allowed_hosts` of a blueprint, read and asked
head        the head of a request, read strictly
reach       from a host and port to a connection that was checked
relay       bytes both ways, counted, until nothing moves any more
proxy       HTTP and CONNECT on a socket that listens inside the sandbox
log         what was asked, as events of the row
access      all of it around one sandbox
"""
