/* worker RECORDS [-r FD] [-c MS] [-b BYTES [-l LINES]]: what every master of the benchmark supervises.
 *   -r FD     when it is ready, a newline to FD (s6); READY=1 to $NOTIFY_SOCKET, if there is one, always (sd_notify(3))
 *   -c MS     so much processor time before it is ready
 *   -b BYTES  at USR2 it prints so many bytes of 100-byte lines, LINES of them (1) with each write
 * TERM, INT and QUIT end it. */
#include "record.h"
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { LINE = 100 };

static void compute(long ms) {
    struct timespec used;
    do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    while (used.tv_sec * 1000 + used.tv_nsec / 1000000 < ms);
}

static void say_ready(int fd) {
    record('R');
    if (fd >= 0 && write(fd, "\n", 1) == 1) close(fd);
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = path ? strlen(path) : 0;
    if (!length || length >= sizeof to.sun_path) return;
    memcpy(to.sun_path, path, length);
    if (path[0] == '@') to.sun_path[0] = 0;
    int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (sendto(s, "READY=1", 7, MSG_NOSIGNAL, (void *)&to, size) != 7) _exit(112);
    close(s);
}

/* Each line begins with its number, so that a lost, doubled or torn one is seen. */
static void print(long bytes, long lines) {
    char *block = malloc((size_t)(lines * LINE));
    if (!block) _exit(113);
    record('B');
    for (long next = 0; next < bytes / LINE;) {
        size_t filled = 0;
        for (long i = 0; i < lines && next < bytes / LINE; i++, next++, filled += LINE) {
            char *line = block + filled;
            memset(line, 'a' + (int)(next % 26), LINE - 1);
            line[LINE - 1] = '\n';
            long rest = next;
            for (int digit = 9; digit >= 0; digit--, rest /= 10) line[digit] = (char)('0' + rest % 10);
            line[10] = ' ';
        }
        for (size_t done = 0; done < filled;) {
            ssize_t n = write(1, block + done, filled - done);
            if (n > 0) done += (size_t)n;
            else if (errno != EINTR) _exit(114);
        }
    }
    record('F');
}

int main(int argc, char **argv) {
    uint64_t began = monotonic();
    long ms = 0, bytes = 0, lines = 1;
    int ready = -1, option;
    if (argc < 2) return 2;
    open_records(argv[1]);
    record_at('S', began);
    optind = 2;
    while ((option = getopt(argc, argv, "r:c:b:l:")) != -1) switch (option) {
        case 'r': ready = atoi(optarg); break;
        case 'c': ms = atol(optarg); break;
        case 'b': bytes = atol(optarg); break;
        case 'l': lines = atol(optarg); break;
        default: return 2;
        }
    sigset_t stops;
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGQUIT);
    if (bytes) sigaddset(&stops, SIGUSR2);
    sigprocmask(SIG_SETMASK, &stops, 0);
    compute(ms);
    say_ready(ready);
    for (int got; (got = sigwaitinfo(&stops, 0)) < 0 || got == SIGUSR2;)
        if (got == SIGUSR2) print(bytes, lines);
    record('T');
    record('X');
    return 0;
}
