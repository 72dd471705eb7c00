/* A record: 16 bytes, appended to a file that all processes of a trial share. Each is one write(2), so nothing has to
 * read it while the clock runs. Kinds: L the launcher executes the master, S a worker's first instruction, R it is ready,
 * T it was told to stop, X it ends, B and F it begins and has finished to print. */
#include <fcntl.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

struct record {
    uint64_t ns; /* CLOCK_MONOTONIC */
    int32_t pid;
    char kind, padding[3];
};

static int records = -1;

static uint64_t monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void record_at(char kind, uint64_t ns) {
    struct record r = {.ns = ns, .pid = (int32_t)getpid(), .kind = kind};
    if (write(records, &r, sizeof r) != sizeof r) _exit(111);
}

static void record(char kind) {
    record_at(kind, monotonic());
}

static void open_records(const char *path) {
    records = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (records < 0) _exit(111);
}
