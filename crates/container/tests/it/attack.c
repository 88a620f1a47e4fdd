/*
 * Attacks on a container from inside, one per name. Built static, run as any user:
 *
 *   attack all           runs every attack, each in a process of its own
 *   attack nested        the same in a nested user namespace, with all its capabilities
 *   attack NAME…         runs some
 *   attack list          prints the names
 *
 * One line each: "blocked NAME: errno text" or "SUCCEEDED NAME: what"; exit code 1 if any
 * succeeded. Some modes are tools for tests rather than attacks: eat, fork, race, hold and so on.
 * They are described in main().
 *
 * An attack function returns 0 and leaves errno when it was blocked, and 1 when it worked.
 * The root file system is expected to hold /planted-zero and /dev/planted-zero, character
 * devices 1:5, put there before the container started.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char note[512];

static int said(const char *text) {
    snprintf(note, sizeof note, "%s", text);
    return 1;
}

static int can_write(const char *path, const char *value) {
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return 0;
    ssize_t n = write(fd, value, strlen(value));
    int e = errno;
    close(fd);
    errno = e;
    return n > 0 ? said(path) : 0;
}

/* Writes back what is there, so that a success changes nothing. */
static int can_rewrite(const char *path) {
    char text[4096];
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        strcpy(text, "0"), n = 1;
    text[n] = 0;
    return can_write(path, text);
}

static int can_read(const char *path) {
    char text[4];
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text);
    int e = errno;
    close(fd);
    errno = e;
    return n > 0 ? said(path) : 0;
}

/* For raw calls: anything but an error is a success. */
static int worked(long result) { return result >= 0; }

/* ---- device nodes ---- */

static int mknod_char(void) {
    unlink("/tmp/node-c");
    return worked(mknod("/tmp/node-c", S_IFCHR | 0666, makedev(1, 5)));
}
static int mknod_block(void) {
    unlink("/tmp/node-b");
    return worked(mknod("/tmp/node-b", S_IFBLK | 0666, makedev(7, 0)));
}
static int mknod_disk(void) {
    unlink("/node-d");
    return worked(mknod("/node-d", S_IFBLK | 0666, makedev(7, 0)));
}
static int planted_open(void) { return can_read("/planted-zero"); }
static int planted_remount(void) {
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL) < 0)
        return 0;
    return can_read("/planted-zero");
}
static int planted_bind(void) {
    mkdir("/tmp/bind", 0755);
    if (mount("/", "/tmp/bind", NULL, MS_BIND, NULL) < 0)
        return 0;
    int remounted = mount(NULL, "/tmp/bind", NULL, MS_REMOUNT | MS_BIND, NULL) == 0;
    int read = can_read("/tmp/bind/planted-zero");
    int e = errno;
    umount2("/tmp/bind", MNT_DETACH);
    errno = e;
    return read || (remounted && said("the remount"));
}
static int nest(unsigned long flags);
static int planted_nested(void) {
    if (!nest(CLONE_NEWUSER | CLONE_NEWNS))
        return 0;
    return planted_remount();
}
static int planted_under_dev(void) {
    if (unshare(CLONE_NEWNS) < 0)
        return 0;
    umount2("/dev", MNT_DETACH);
    umount2("/dev", MNT_DETACH);
    return can_read("/dev/planted-zero");
}
static int planted_overlay(void) {
    mkdir("/tmp/upper", 0755), mkdir("/tmp/scratch", 0755), mkdir("/tmp/merged", 0755);
    if (mount("o", "/tmp/merged", "overlay", 0,
              "lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/scratch") < 0)
        return 0;
    int read = can_read("/tmp/merged/planted-zero");
    int e = errno;
    umount2("/tmp/merged", MNT_DETACH);
    errno = e;
    return read;
}
struct attributes {
    unsigned long long set, clear, propagation, userns;
};
static int planted_setattr(void) {
    struct attributes clear = {.clear = 4 /* nodev */};
    if (syscall(442, AT_FDCWD, "/", 0, &clear, sizeof clear) < 0)
        return 0;
    return can_read("/planted-zero");
}
static int planted_detached(void) {
    int tree = syscall(428, AT_FDCWD, "/", 1 /* clone */);
    if (tree < 0)
        return 0;
    struct attributes clear = {.clear = 4};
    int cleared = syscall(442, tree, "", AT_EMPTY_PATH, &clear, sizeof clear) == 0;
    int e = errno, fd = openat(tree, "planted-zero", O_RDONLY);
    if (fd >= 0)
        return said("opened it");
    if (!cleared)
        errno = e;
    return cleared && said("cleared nodev");
}
static int device_kvm(void) { return can_read("/dev/kvm"); }
static int device_loop(void) { return worked(open("/dev/loop-control", O_RDWR)); }
static int device_mem(void) { return can_read("/dev/mem"); }

/* ---- mounting ---- */

static int mounts(const char *source, const char *kind, const char *data) {
    mkdir("/tmp/mnt", 0755);
    if (mount(source, "/tmp/mnt", kind, 0, data) < 0)
        return 0;
    umount2("/tmp/mnt", MNT_DETACH);
    return said(kind);
}
static int mount_ext4_loop(void) { return mounts("/dev/loop0", "ext4", NULL); }
static int mount_ext4_node(void) { return mounts("/node-d", "ext4", NULL); }
static int mount_ext4_file(void) { return mounts("/bin/busybox", "ext4", "loop"); }
static int mount_erofs_file(void) { return mounts("/bin/busybox", "erofs", NULL); }
static int mount_xfs(void) { return mounts("/bin/busybox", "xfs", NULL); }
static int mount_btrfs(void) { return mounts("/bin/busybox", "btrfs", NULL); }
static int mount_debugfs(void) { return mounts("d", "debugfs", NULL); }
static int mount_tracefs(void) { return mounts("d", "tracefs", NULL); }
static int mount_securityfs(void) { return mounts("d", "securityfs", NULL); }
static int mount_devtmpfs(void) { return mounts("d", "devtmpfs", NULL); }
static int mount_pstore(void) { return mounts("d", "pstore", NULL); }
static int mount_bpf(void) { return mounts("d", "bpf", NULL); }
static int mount_hugetlb(void) { return mounts("d", "hugetlbfs", NULL); }
static int mount_shared(void) {
    FILE *info = fopen("/proc/self/mountinfo", "r");
    char line[4096];
    while (info && fgets(line, sizeof line, info))
        if (strstr(line, " shared:") || strstr(line, " master:"))
            return said("mounts are shared with the host");
    errno = 0;
    return 0;
}
static int tool_write(void) {
    /* The tests offer this one. */
    if (can_write("/.sprite/bin/tool", "x"))
        return 1;
    if (mount(NULL, "/.sprite/bin/tool", NULL, MS_REMOUNT | MS_BIND, NULL) < 0)
        return 0;
    return can_write("/.sprite/bin/tool", "x");
}

/* ---- proc and sys ---- */

static int proc_core_pattern(void) { return can_rewrite("/proc/sys/kernel/core_pattern"); }
static int proc_modprobe(void) { return can_rewrite("/proc/sys/kernel/modprobe"); }
static int proc_overcommit(void) { return can_rewrite("/proc/sys/vm/overcommit_memory"); }
static int proc_drop_caches(void) { return can_write("/proc/sys/vm/drop_caches", "1"); }
static int proc_panic(void) { return can_rewrite("/proc/sys/kernel/panic"); }
static int proc_file_max(void) { return can_rewrite("/proc/sys/fs/file-max"); }
static int proc_suid_dumpable(void) { return can_rewrite("/proc/sys/fs/suid_dumpable"); }
static int proc_sysrq(void) { return worked(open("/proc/sysrq-trigger", O_WRONLY)); }
static int proc_kcore(void) { return can_read("/proc/kcore"); }
static int proc_kmsg(void) { return worked(open("/proc/kmsg", O_RDONLY | O_NONBLOCK)); }
static int proc_timens(void) { return can_write("/proc/self/timens_offsets", "monotonic 9 0"); }
static int proc_fresh(void) {
    mkdir("/tmp/proc", 0755);
    if (mount("p", "/tmp/proc", "proc", 0, NULL) < 0)
        return 0;
    int wrote = can_rewrite("/tmp/proc/sys/kernel/core_pattern");
    int e = errno;
    umount2("/tmp/proc", MNT_DETACH);
    errno = e;
    return wrote;
}
static int proc_kallsyms(void) {
    char line[64] = "";
    FILE *symbols = fopen("/proc/kallsyms", "r");
    if (!symbols || !fgets(line, sizeof line, symbols))
        return 0;
    errno = 0;
    return strtoull(line, NULL, 16) != 0 && said("kernel addresses");
}
static int init_memory(void) { return worked(open("/proc/1/mem", O_RDONLY)); }
static int init_environment(void) { return can_read("/proc/1/environ"); }
static int init_maps(void) { return can_read("/proc/1/maps"); }
static int init_root(void) { return worked(open("/proc/1/root", O_PATH | O_DIRECTORY)); }
static int init_exe(void) { return worked(open("/proc/1/exe", O_RDONLY)); }
static int init_fd(void) {
    DIR *fds = opendir("/proc/1/fd");
    return fds != NULL;
}
static int init_namespace(void) {
    int fd = open("/proc/1/ns/user", O_RDONLY);
    return fd >= 0 && worked(setns(fd, 0));
}
static int init_ptrace(void) { return worked(ptrace(PTRACE_SEIZE, 1, 0, 0)); }
static int init_title(void) {
    char text[256] = "";
    int fd = open("/proc/1/cmdline", O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        return 0;
    errno = 0;
    return strchr(text, '/') != NULL && said(text);
}
static int sys_write(void) {
    return can_rewrite("/sys/kernel/mm/transparent_hugepage/enabled");
}
static int sys_remount(void) {
    if (mount(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND, NULL) < 0)
        return 0;
    return sys_write();
}
static int sys_uevent_helper(void) { return can_write("/sys/kernel/uevent_helper", "/x"); }
static int sys_disks(void) {
    char path[128];
    for (int i = 0; i < 64; i++) {
        const char *places[] = {"/sys/block/loop%d/loop/backing_file",
                                "/sys/class/block/loop%d/loop/backing_file",
                                "/sys/devices/virtual/block/loop%d/loop/backing_file",
                                "/sys/dev/block/7:%d/loop/backing_file"};
        for (int j = 0; j < 4; j++) {
            snprintf(path, sizeof path, places[j], i);
            if (can_read(path))
                return 1;
        }
    }
    errno = ENOENT;
    return 0;
}

/* ---- control groups ---- */

static int v1(const char *controller, const char *file, const char *value) {
    char path[256];
    mkdir("/tmp/cg", 0755);
    if (mount("c", "/tmp/cg", "cgroup", 0, controller) < 0)
        return 0;
    snprintf(path, sizeof path, "/tmp/cg/%s", file);
    int wrote = can_write(path, value);
    int e = errno;
    umount2("/tmp/cg", MNT_DETACH);
    errno = e;
    return wrote;
}
static int cgroup_memory(void) { return v1("memory", "memory.limit_in_bytes", "-1"); }
static int cgroup_pids(void) { return v1("pids", "pids.max", "max"); }
static int cgroup_cpu(void) { return v1("cpu", "cpu.cfs_quota_us", "-1"); }
static int cgroup_devices(void) { return v1("devices", "devices.allow", "a"); }
static int cgroup_release_agent(void) { return v1("memory", "release_agent", "/x"); }
static int cgroup_tasks(void) { return v1("memory", "tasks", "0"); }
static int cgroup_freeze(void) { return can_write("/sys/fs/cgroup/cgroup.freeze", "0"); }
static int cgroup_kill(void) { return can_write("/sys/fs/cgroup/cgroup.kill", "0"); }
static int cgroup_descendants(void) {
    return can_write("/sys/fs/cgroup/cgroup.max.descendants", "max");
}
static int cgroup_memory_max(void) { return can_write("/sys/fs/cgroup/memory.max", "max"); }
static int cgroup_pids_max(void) { return can_write("/sys/fs/cgroup/pids.max", "max"); }
static int cgroup_above(void) {
    return worked(open("/sys/fs/cgroup/../cgroup.procs", O_WRONLY));
}

/* ---- system calls ---- */

static char zeroes[256];
static int call_keyctl(void) { return worked(syscall(SYS_keyctl, 0, -3, 0)); }
static int call_add_key(void) { return worked(syscall(SYS_add_key, "user", "x", "y", 1, -3)); }
static int call_bpf(void) { return worked(syscall(SYS_bpf, 0, zeroes, 128)); }
static int call_perf(void) {
    return worked(syscall(SYS_perf_event_open, zeroes, 0, -1, -1, 0));
}
static int call_io_uring(void) { return worked(syscall(425, 1, zeroes)); }
static int call_userfaultfd(void) { return worked(syscall(SYS_userfaultfd, 1)); }
static int call_init_module(void) { return worked(syscall(SYS_init_module, "x", 1, "")); }
static int call_kexec(void) { return worked(syscall(SYS_kexec_load, 0, 0, NULL, 0)); }
static int call_syslog(void) { return worked(syscall(SYS_syslog, 3, zeroes, 16)); }
static int call_acct(void) { return worked(syscall(SYS_acct, "/tmp/acct")); }
static int call_swapon(void) { return worked(syscall(SYS_swapon, "/tmp/swap", 0)); }
static int call_quotactl(void) { return worked(syscall(SYS_quotactl, 0, 0, 0, 0)); }
static int call_fanotify(void) { return worked(syscall(SYS_fanotify_init, 0, 0)); }
static int call_handle(void) {
    struct {
        unsigned bytes;
        int type;
        unsigned char handle[128];
    } handle = {.bytes = 8, .type = 1, .handle = {2}};
    int fd = open("/", O_RDONLY);
    return worked(syscall(SYS_open_by_handle_at, fd, &handle, O_RDONLY));
}
static int call_settime(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return worked(clock_settime(CLOCK_REALTIME, &now));
}
static int call_settimeofday(void) {
    struct timeval now;
    gettimeofday(&now, NULL);
    return worked(settimeofday(&now, NULL));
}
static int call_adjtime(void) {
    struct timex change = {.modes = ADJ_TICK, .tick = 10000};
    return worked(adjtimex(&change));
}
static int call_future(void) {
    for (int number = 470; number < 600; number++)
        if (syscall(number, 0, 0, 0, 0, 0, 0) >= 0 || errno != ENOSYS)
            return said("a call newer than the filter");
    return 0;
}
#ifdef __x86_64__
static int call_iopl(void) { return worked(syscall(SYS_iopl, 3)); }
static int call_x32(void) {
    if (syscall(0x40000000 + SYS_bpf, 0, zeroes, 128) >= 0)
        return 1;
    return errno != ENOSYS && said("x32 numbers reach the kernel");
}
static int call_int80(void) {
    int result;
    /* 357 is bpf, 20 is getpid: neither may get through. */
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20), "b"(0), "c"(0), "d"(0) : "memory");
    errno = result < 0 ? -result : 0;
    return result != -ENOSYS && said("32-bit calls reach the kernel");
}
#endif
static int call_raise_files(void) {
    struct rlimit limit = {1 << 21, 1 << 21};
    return worked(setrlimit(RLIMIT_NOFILE, &limit));
}
static int call_raise_core(void) {
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    return worked(setrlimit(RLIMIT_CORE, &limit));
}
static int call_nice(void) { return worked(setpriority(PRIO_PROCESS, 0, -20)); }
static int call_realtime(void) {
    struct sched_param param = {1};
    return worked(sched_setscheduler(0, SCHED_FIFO, &param));
}
static int call_mlock(void) {
    void *memory = mmap(NULL, 100 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return worked(mlock(memory, 100 << 20));
}
static int oom_score(void) { return can_write("/proc/self/oom_score_adj", "-1000"); }
static int raw_xattr(void) {
    return worked(syscall(SYS_setxattr, "/tmp", "trusted.overlay.opaque", "y", 1, 0));
}

/* ---- sockets and terminals ---- */

static int family(int domain, int type, int protocol) {
    return worked(socket(domain, type, protocol));
}
static int socket_vsock(void) { return family(40, SOCK_STREAM, 0); }
static int socket_alg(void) { return family(38, SOCK_SEQPACKET, 0); }
static int socket_key(void) { return family(15, SOCK_RAW, 2); }
static int socket_xdp(void) { return family(44, SOCK_RAW, 0); }
static int socket_rds(void) { return family(21, SOCK_SEQPACKET, 0); }
static int socket_tipc(void) { return family(30, SOCK_SEQPACKET, 0); }
static int socket_netfilter(void) { return family(16, SOCK_RAW, 12); }
static int socket_audit(void) { return family(16, SOCK_RAW, 9); }
static int socket_xtables(void) {
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    socklen_t length = sizeof zeroes;
    if (fd < 0)
        return 0;
    if (setsockopt(fd, 0 /* IP */, 64, zeroes, sizeof zeroes) >= 0 || errno != EPERM)
        return said("IPT_SO_SET_REPLACE reaches the kernel");
    if (getsockopt(fd, 0, 64, zeroes, &length) >= 0 || errno != EPERM)
        return said("IPT_SO_GET_INFO reaches the kernel");
    return 0;
}
static int socket_host(void) {
    /* The tests listen there on the host. */
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0sprite-test-host"};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return worked(connect(fd, (void *)&address, sizeof(sa_family_t) + 17));
}
static int terminal(unsigned long request) {
    int ours = open("/dev/ptmx", O_RDWR | O_NOCTTY), zero = 0;
    if (ours < 0 || ioctl(ours, TIOCSPTLCK, &zero) < 0)
        return said("no terminal to try it on");
    int theirs = ioctl(ours, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    if (theirs < 0)
        return said("no terminal to try it on");
    setsid();
    ioctl(theirs, TIOCSCTTY, 0);
    return worked(syscall(SYS_ioctl, theirs, request, "x")) ||
           (errno != EPERM && said("the request reaches the kernel"));
}
static int terminal_type(void) { return terminal(TIOCSTI); }
static int terminal_type_high(void) { return terminal(0xdead000000000000ul | TIOCSTI); }
static int terminal_linux(void) { return terminal(TIOCLINUX); }

static int leaked_fds(void) {
    char path[64], target[256];
    for (int fd = 3; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n > 0) {
            target[n] = 0;
            return said(target);
        }
    }
    errno = 0;
    return 0;
}

static const struct attack {
    const char *name;
    int (*run)(void);
} attacks[] = {
#define A(name) {#name, name}
    A(leaked_fds),       A(mknod_char),       A(mknod_block),      A(mknod_disk),
    A(planted_open),     A(planted_remount),  A(planted_bind),     A(planted_nested),
    A(planted_under_dev), A(planted_overlay), A(planted_setattr),  A(planted_detached),
    A(device_kvm),       A(device_loop),      A(device_mem),
    A(mount_ext4_loop),  A(mount_ext4_node),  A(mount_ext4_file),  A(mount_erofs_file),
    A(mount_xfs),        A(mount_btrfs),      A(mount_debugfs),    A(mount_tracefs),
    A(mount_securityfs), A(mount_devtmpfs),   A(mount_pstore),     A(mount_bpf),
    A(mount_hugetlb),    A(mount_shared),     A(tool_write),       A(proc_core_pattern),
    A(proc_modprobe),    A(proc_overcommit),  A(proc_drop_caches), A(proc_panic),
    A(proc_file_max),    A(proc_suid_dumpable), A(proc_sysrq),     A(proc_kcore),
    A(proc_kmsg),        A(proc_timens),      A(proc_fresh),       A(proc_kallsyms),
    A(init_memory),      A(init_environment), A(init_maps),        A(init_root),
    A(init_exe),         A(init_fd),          A(init_namespace),   A(init_ptrace),
    A(init_title),       A(sys_write),        A(sys_remount),      A(sys_uevent_helper),
    A(sys_disks),        A(cgroup_memory),    A(cgroup_pids),      A(cgroup_cpu),
    A(cgroup_devices),   A(cgroup_release_agent), A(cgroup_tasks), A(cgroup_freeze),
    A(cgroup_kill),      A(cgroup_descendants), A(cgroup_memory_max), A(cgroup_pids_max),
    A(cgroup_above),     A(call_keyctl),      A(call_add_key),     A(call_bpf),
    A(call_perf),        A(call_io_uring),    A(call_userfaultfd), A(call_init_module),
    A(call_kexec),       A(call_syslog),      A(call_acct),        A(call_swapon),
    A(call_quotactl),    A(call_fanotify),    A(call_handle),      A(call_settime),
    A(call_settimeofday), A(call_adjtime),    A(call_future),
#ifdef __x86_64__
    A(call_iopl),        A(call_x32),         A(call_int80),
#endif
    A(call_raise_files), A(call_raise_core),  A(call_nice),        A(call_realtime),
    A(call_mlock),       A(oom_score),        A(raw_xattr),        A(socket_vsock),
    A(socket_alg),       A(socket_key),       A(socket_xdp),       A(socket_rds),
    A(socket_tipc),      A(socket_netfilter), A(socket_audit),     A(socket_xtables),
    A(socket_host),      A(terminal_type),    A(terminal_type_high), A(terminal_linux),
};
#define COUNT (sizeof attacks / sizeof *attacks)

static int attempt(const struct attack *attack) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        errno = 0;
        note[0] = 0;
        int won = attack->run();
        printf("%s %s: %s\n", won ? "SUCCEEDED" : "blocked", attack->name,
               won ? note : strerror(errno));
        fflush(stdout);
        _exit(won);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status)) {
        printf("SUCCEEDED %s: ended by signal %d\n", attack->name, WTERMSIG(status));
        return 1;
    }
    return WEXITSTATUS(status);
}

static void write_map(const char *path, unsigned id) {
    char map[64];
    snprintf(map, sizeof map, "0 %u 1", id);
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, map, strlen(map)) < 0)
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    close(fd);
}

/* Becomes root of a new user namespace, and of other new ones. */
static int nest(unsigned long flags) {
    unsigned uid = geteuid(), gid = getegid();
    if (unshare(flags) < 0)
        return 0;
    int fd = open("/proc/self/setgroups", O_WRONLY);
    if (fd >= 0 && write(fd, "deny", 4) < 0)
        fprintf(stderr, "setgroups: %s\n", strerror(errno));
    close(fd);
    write_map("/proc/self/uid_map", uid);
    write_map("/proc/self/gid_map", gid);
    return 1;
}

/* Tries to look into, trace or enter every process called sprite-… that comes by. */
static int race(int seconds) {
    long seen = 0, won = 0;
    time_t end = time(NULL) + seconds;
    while (time(NULL) < end) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; proc && (entry = readdir(proc));) {
            int pid = atoi(entry->d_name);
            if (pid < 2)
                continue;
            char path[64], text[64] = "";
            snprintf(path, sizeof path, "/proc/%d/comm", pid);
            int fd = open(path, O_RDONLY);
            ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
            close(fd);
            if (n <= 0 || strncmp(text, "sprite-", 7) != 0)
                continue;
            seen++;
            const char *files[] = {"exe", "mem", "root", "cwd", "environ", "fd/0", "maps"};
            for (int i = 0; i < 7; i++) {
                snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
                int got = open(path, O_RDONLY);
                if (got < 0)
                    continue;
                /* It may have become its command meanwhile, which may be looked into. */
                snprintf(path, sizeof path, "/proc/%d/comm", pid);
                fd = open(path, O_RDONLY);
                char again[64] = "";
                if (fd >= 0 && read(fd, again, sizeof again - 1) > 0 &&
                    strncmp(again, "sprite-", 7) == 0)
                    won++, printf("SUCCEEDED race: %s of %s", files[i], again);
                close(fd), close(got);
            }
            if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
                snprintf(path, sizeof path, "/proc/%d/comm", pid);
                fd = open(path, O_RDONLY);
                char again[64] = "";
                if (fd >= 0 && read(fd, again, sizeof again - 1) > 0 &&
                    strncmp(again, "sprite-", 7) == 0)
                    won++, printf("SUCCEEDED race: ptrace of %s", again);
                close(fd);
                ptrace(PTRACE_INTERRUPT, pid, 0, 0);
                waitpid(pid, NULL, __WALL);
                ptrace(PTRACE_DETACH, pid, 0, 0);
            }
        }
        closedir(proc);
    }
    printf("seen %ld won %ld\n", seen, won);
    return won > 0;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    int won = 0;
    if (!strcmp(mode, "list")) {
        for (size_t i = 0; i < COUNT; i++)
            puts(attacks[i].name);
        return 0;
    }
    if (!strcmp(mode, "id")) { /* prints real and effective user id */
        printf("%d %d\n", getuid(), geteuid());
        return 0;
    }
    if (!strcmp(mode, "eat")) { /* uses this many MiB of memory */
        for (long i = 0; i < atol(argv[2]); i++)
            memset(malloc(1 << 20), 1, 1 << 20);
        puts("ate it all");
        return 0;
    }
    if (!strcmp(mode, "fork")) { /* forks until it cannot, says how often, and waits */
        int n = 0;
        for (pid_t child; (child = fork()) >= 0; n++)
            if (child == 0)
                for (;;)
                    pause();
        printf("forked %d\n", n);
        fflush(stdout);
        for (;;)
            pause();
    }
    if (!strcmp(mode, "cgroups")) { /* makes nested groups until it cannot */
        char path[64];
        int n = 0;
        for (; n < 100000; n++) {
            snprintf(path, sizeof path, "/sys/fs/cgroup/n%d", n);
            if (mkdir(path, 0755) < 0)
                break;
        }
        printf("made %d\n", n);
        return 0;
    }
    if (!strcmp(mode, "hold")) { /* traces a process and keeps it when it has died */
        if (ptrace(PTRACE_SEIZE, atoi(argv[2]), 0, PTRACE_O_TRACEEXIT) < 0)
            return perror("ptrace"), 1;
        puts("held");
        fflush(stdout);
        for (;;)
            pause();
    }
    if (!strcmp(mode, "icmp")) { /* pings the loopback interface without rights */
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        unsigned char echo[8] = {8}, reply[64];
        int fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
        if (fd < 0 || sendto(fd, echo, sizeof echo, 0, (void *)&to, sizeof to) < 0)
            return perror("ping"), 1;
        alarm(10);
        if (recv(fd, reply, sizeof reply, 0) < 8 || reply[0] != 0)
            return 1;
        puts("echo replied");
        return 0;
    }
    if (!strcmp(mode, "race")) /* for this many seconds */
        return race(atoi(argv[2]));
    if (!strcmp(mode, "reboot")) /* restart the machine */
        return syscall(SYS_reboot, 0xfee1dead, 672274793, 0x1234567, NULL) < 0;
    if (!strcmp(mode, "nested") &&
        !nest(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)) {
        perror("unshare");
        return 2;
    }
    for (size_t i = 0; i < COUNT; i++) {
        int wanted = !strcmp(mode, "all") || !strcmp(mode, "nested");
        for (int j = 1; j < argc; j++)
            wanted |= !strcmp(argv[j], attacks[i].name);
        if (wanted)
            won |= attempt(&attacks[i]);
    }
    return won;
}
