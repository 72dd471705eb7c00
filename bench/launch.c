/* launch RECORDS COMMAND...: notes the time and executes the master, which is told to stop if the driver dies. */
#include "record.h"
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    if (prctl(PR_SET_PDEATHSIG, SIGTERM)) return 111;
    open_records(argv[1]);
    record('L');
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 127;
}
