/* floor -n COUNT [-s SURGE] [-o FILE] -- COMMAND...: the least that a process master can do, as a measure.
 * It starts COUNT workers and replaces each that ends. USR1 rolls them: the new one first, and the old one is told to stop
 * when the new one has sent READY=1; SURGE of them at a time. TERM stops all. With -o it copies what they print into FILE.
 * It checks nothing, logs nothing, waits for nothing and holds no process: kill(2) by number, a plain waitpid(2). So it
 * is not to be used for anything else. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { PIDS = 1 << 22 }; /* the kernel's greatest pid_max */

static struct slot { pid_t serves, leaves; } *slots;
static int *slot_of; /* by pid: the slot, plus one */
static int count = 1, surge, next, rolling, in_roll, stopping, alive;
static int notify = -1, output = -1, file = -1;
static char **command;
static posix_spawn_file_actions_t actions;
static posix_spawnattr_t attributes;

static void must(int ok, const char *what) {
    if (ok) return;
    perror(what);
    exit(1);
}

static void spawn(int slot) {
    pid_t pid;
    must(posix_spawn(&pid, command[0], &actions, &attributes, command, environ) == 0, command[0]);
    slots[slot].serves = pid;
    slot_of[pid] = slot + 1;
    alive++;
}

/* A new worker that is ready sends its old one away. The kernel says who has written. */
static void read_notify(void) {
    for (;;) {
        char text[64], space[CMSG_SPACE(sizeof(struct ucred))];
        struct iovec into = {text, sizeof text};
        struct msghdr message = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
        if (recvmsg(notify, &message, MSG_DONTWAIT) < 0) return;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        struct ucred from;
        if (!header || header->cmsg_type != SCM_CREDENTIALS) continue;
        memcpy(&from, CMSG_DATA(header), sizeof from);
        int slot = slot_of[from.pid] - 1;
        if (slot >= 0 && slots[slot].serves == from.pid && slots[slot].leaves) kill(slots[slot].leaves, SIGTERM);
    }
}

static void roll_on(void) {
    while (rolling && !stopping && in_roll < surge) {
        if (next == count) { rolling = 0; return; }
        slots[next].leaves = slots[next].serves;
        spawn(next++);
        in_roll++;
        read_notify(); /* its queue is short: net.unix.max_dgram_qlen */
    }
}

static void reap(void) {
    pid_t pid;
    while ((pid = waitpid(-1, 0, WNOHANG)) > 0) {
        int slot = slot_of[pid] - 1;
        slot_of[pid] = 0;
        alive--;
        if (slots[slot].leaves == pid) { slots[slot].leaves = 0; in_roll--; }
        else if (!stopping) spawn(slot);
    }
    if (stopping && !alive) exit(0);
    roll_on();
}

static void stop(void) {
    stopping = 1;
    for (int i = 0; i < count; i++) {
        kill(slots[i].serves, SIGTERM);
        if (slots[i].leaves) kill(slots[i].leaves, SIGTERM);
    }
}

/* After little output it waits for a millisecond, so that the pipe fills and a writer of single lines costs less. */
static void copy_output(void) {
    static char buffer[1 << 20];
    static ssize_t last;
    if (last < 65536) usleep(1000);
    last = read(output, buffer, sizeof buffer);
    if (last > 0) must(write(file, buffer, (size_t)last) == last, "write");
}

static int wait_for(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    must(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
    return fd;
}

static void open_notify(int epoll) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char name[32];
    int yes = 1, length = snprintf(name, sizeof name, "@rotad-bench-floor-%d", getpid());
    memcpy(address.sun_path, name, (size_t)length);
    address.sun_path[0] = 0;
    notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    setsockopt(notify, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length);
    must(!bind(notify, (void *)&address, size), "bind");
    setenv("NOTIFY_SOCKET", name, 1);
    wait_for(epoll, notify);
}

static void open_output(int epoll, const char *path) {
    int ends[2];
    file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    must(file >= 0 && !pipe2(ends, O_CLOEXEC), path);
    fcntl(ends[0], F_SETPIPE_SZ, 1 << 20);
    output = wait_for(epoll, ends[0]);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
}

int main(int argc, char **argv) {
    const char *path = 0;
    for (int option; (option = getopt(argc, argv, "+n:s:o:")) != -1;) switch (option) {
        case 'n': count = atoi(optarg); break;
        case 's': surge = atoi(optarg); break;
        case 'o': path = optarg; break;
        default: return 2;
        }
    command = argv + optind;
    if (optind == argc || count < 1) return 2;
    if (surge < 1) surge = count;
    slots = calloc((size_t)count, sizeof *slots);
    slot_of = calloc(PIDS, sizeof *slot_of); /* memory for what is written only */
    must(slots && slot_of, "calloc");

    /* A worker begins with all signals at their default and none blocked. */
    sigset_t none, all, ours;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

    sigemptyset(&ours);
    sigaddset(&ours, SIGCHLD);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGUSR1);
    sigprocmask(SIG_BLOCK, &ours, 0);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    int signals = wait_for(epoll, signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK));
    open_notify(epoll);
    if (path) open_output(epoll, path);
    for (int i = 0; i < count; i++) {
        spawn(i);
        read_notify();
    }
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, -1) != 1) continue;
        if (event.data.fd == notify) read_notify();
        else if (event.data.fd == output) copy_output();
        else {
            struct signalfd_siginfo got;
            while (read(signals, &got, sizeof got) == sizeof got) {
                if (got.ssi_signo == SIGTERM) stop();
                if (got.ssi_signo == SIGUSR1 && !rolling && !in_roll) { rolling = 1; next = 0; }
            }
            reap();
        }
    }
}
