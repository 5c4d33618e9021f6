/* cli/cmd_tune.c - maru tune: check what would be learned, or learn it. */
#include "cli/cli.h"

err cmd_tune(cli *c, int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "check")) return cmd_tune_check(c, argc, argv);
    return cmd_tune_train(c, argc, argv);
}
