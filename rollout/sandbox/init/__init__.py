"""The C of every sandbox: its init, and the native engine's launcher, in one static program."""
