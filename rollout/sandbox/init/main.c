/* rollout-box: one static program, two roles. */
#include "box.h"

#include <string.h>

int launch_main(int argc, char **argv) __attribute__((weak));

int main(int argc, char **argv)
{
	if (argc >= 2 && strcmp(argv[1], "init") == 0)
		return init_main();
	if (argc >= 2 && strcmp(argv[1], "launch") == 0 && launch_main)
		return launch_main(argc, argv);
	die("usage: rollout-box init | rollout-box launch ...");
}
