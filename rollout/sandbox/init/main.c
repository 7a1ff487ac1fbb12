/* rollout-box: one static program, and its roles. */
#include "box.h"

#include <string.h>

#ifndef SOURCES_DIGEST
#define SOURCES_DIGEST "unknown"
#endif

/* How build.py knows that a program was made of the sources beside it. */
const char sources_digest[] __attribute__((used)) = SOURCES_DIGEST;

int launch_main(int argc, char **argv) __attribute__((weak));
int clear_main(int argc, char **argv) __attribute__((weak));
int owning_main(int argc, char **argv) __attribute__((weak));
int serve_main(int argc, char **argv) __attribute__((weak));

int main(int argc, char **argv)
{
	if (argc >= 2 && strcmp(argv[1], "init") == 0) {
#ifdef ROLLOUT_WEAKEN
		weakened = argv[2];
#endif
		return init_main();
	}
	if (argc >= 2 && strcmp(argv[1], "launch") == 0 && launch_main)
		return launch_main(argc, argv);
	if (argc >= 2 && strcmp(argv[1], "clear") == 0 && clear_main)
		return clear_main(argc, argv);
	if (argc >= 2 && strcmp(argv[1], "owning") == 0 && owning_main)
		return owning_main(argc, argv);
	if (argc >= 2 && strcmp(argv[1], "serve") == 0 && serve_main)
		return serve_main(argc, argv);
	die("usage: rollout-box init | launch ... | clear ... | owning ... | serve ...");
}
